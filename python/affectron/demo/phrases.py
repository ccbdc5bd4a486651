"""The words of the demo corpus: phrases by label, slot and template. Data only, apart from the generator so that
either can be read (and changed) without the other.

Braces name slots, filled by :mod:`affectron.demo.corpus`. Those of the person who speaks (or is spoken of) are ``{I}``
(first mention), ``{i}`` (later ones), ``{me}``, ``{my}``, ``{was}`` and ``{myself}``; all others name a table here.
Many phrases stand on purpose under several labels (crying is sad or happy, a furnace is a figure of speech or a
furnace), so that no single word decides a label.
"""

from __future__ import annotations

# Several phrases a line:
# fmt: off

# subject, later subject, object, possessive, "was", reflexive
PERSONS: tuple[tuple[str, str, str, str, str, str], ...] = (
    ("I", "I", "me", "my", "was", "myself"),
    ("we", "we", "us", "our", "were", "ourselves"),
    ("he", "he", "him", "his", "was", "himself"),
    ("she", "she", "her", "her", "was", "herself"),
    ("they", "they", "them", "their", "were", "themselves"),
    *((name, "she", "her", "her", "was", "herself") for name in ("Nora", "Priya", "Ines", "Mei", "Tamar", "Ruth")),
    *((name, "he", "him", "his", "was", "himself") for name in ("Omar", "Felix", "Kofi", "Anton", "Luis", "Ben")),
)

# Slots that say nothing about a label.
COMMON: dict[str, tuple[str, ...]] = {
    "who": (
        "{my} boss", "{my} sister", "the landlord", "{my} neighbor", "the new intern", "{my} uncle", "the clerk",
        "{my} roommate", "the coach", "{my} cousin", "the bus driver", "an old friend", "the nurse", "{my} partner",
        "the waiter", "{my} father", "the teacher", "the plumber", "somebody from work", "the barber", "{my} mother",
        "the committee", "a stranger", "the man next door",
    ),
    "place": (
        "the kitchen", "the office", "the station", "the harbor", "the school", "the basement", "the market",
        "the parking lot", "the hospital", "the cabin", "the library", "the airport", "the bakery", "the garage",
        "the beach", "the old theater", "the stadium", "the laundry room", "the bridge", "the post office",
    ),
    "thing": (
        "the letter", "the car", "the suitcase", "the phone", "the roof", "the garden", "the report", "the piano",
        "the computer", "the sofa", "the camera", "the bicycle", "the fence", "the kettle", "the printer", "the map",
        "the boat", "the window", "the contract", "the clock",
    ),
    "when": (
        "this morning", "after dinner", "last night", "on Tuesday", "during the meeting", "before the game",
        "on the way home", "at noon", "yesterday", "on the last day of school", "right after lunch", "in the evening",
        "over the weekend", "at the end of the shift", "on the first of May", "while it rained", "around midnight",
        "just before the holidays",
    ),
    "number": ("two", "three", "four", "five", "six", "seven", "nine", "ten", "twelve", "fifteen", "twenty", "thirty"),
    "ordinal": ("second", "third", "fourth", "fifth", "sixth", "seventh", "ninth", "tenth"),
    "hour": ("six", "seven", "eight", "nine", "ten", "eleven"),
    # Somebody spoken to.
    "hail": (
        "my friend", "boss", "everybody", "captain", "folks", "dear neighbor", "team", "professor", "sir", "old pal",
        "ladies and gentlemen", "kids",
    ),
    # What may happen under any emotion.
    "happening": (
        "{who} called", "the results came in", "the door opened", "{who} told {me} about {thing}",
        "the mail arrived", "{who} walked into {place}", "the doctor finished talking", "{who} said {my} name",
        "{I} read the note on {thing}", "the lights came back on at {place}", "{who} showed up at {place}",
        "the announcement was over", "{I} looked at {thing}", "the test was handed back", "the train left without {me}",
        "{who} asked about {place}", "{I} heard what {who} did with {thing}", "the phone rang at {place}",
        "{who} brought {thing} to {place}", "the box from {who} was open", "the game ended", "the music stopped",
        "{who} answered the question", "the curtain came down",
    ),
}

# By emotion (neutral has the first four only): state (adjective), noun, act (past-tense phrase), event (clause), quote,
# image (what a figure compares it to), stir (past-tense verb phrase of a metaphor, whose subject is the noun), so (what
# a hyperbole says follows).
EMOTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "anger": {
        "state": (
            "furious", "livid", "angry", "seething", "outraged", "irritated", "fed up", "mad", "annoyed", "enraged",
            "upset", "bitter", "resentful", "fuming", "cross", "indignant", "speechless with rage", "exasperated",
        ),
        "noun": ("rage", "anger", "fury", "resentment", "temper", "outrage", "irritation", "bitterness"),
        "act": (
            "slammed {thing} shut", "shouted at {who}", "kicked {thing}", "demanded an apology", "hung up on {who}",
            "pounded on the table", "stormed out of {place}", "yelled until the whole room went quiet",
            "refused to shake hands with {who}", "tore up the letter", "snapped at {who}", "clenched both fists",
            "swore under {my} breath", "filed a complaint against {who}", "threw the keys across {place}",
            "glared at {who}", "could not speak", "argued with {who} for an hour", "went red in the face",
            "ripped the page out of the notebook", "told {who} to get out", "cursed at the screen",
        ),
        "event": (
            "{who} took credit for {my} work", "{who} lied about {thing} again", "somebody scratched the new car",
            "{who} read {my} messages without asking", "the company charged {me} twice", "{who} cut in line",
            "{who} broke the promise about {thing}", "the neighbors drilled through the wall at six",
            "{who} blamed {me} for the mistake", "the refund was refused for the third time",
            "{who} parked across {my} driveway", "{who} laughed at the complaint", "{thing} broke again",
            "{who} borrowed money and never paid it back", "{who} insulted {my} family", "the meeting was moved again",
            "{who} left {place} in a mess", "the builder ignored every warning", "{who} kicked the dog",
            "{who} cheated on the exam and bragged", "the flight was canceled without a word",
            "{who} talked over {me} all day",
        ),
        "quote": (
            "How dare you", "Get out of my sight", "I have had enough of this", "You had no right to do that",
            "Don't you ever touch my things again", "This is completely unacceptable", "Who do you think you are",
            "I want my money back now", "Stop lying to me", "That was not your decision to make",
        ),
        "image": (
            "a kettle left on the stove", "a furnace with its door open", "a wasp in a jar", "a bull at a gate",
            "a lit match in dry grass", "a storm with nowhere to go", "a dog on a short chain",
            "a blade without a handle",
            "a pot boiling over", "a volcano under thin ice", "a hammer looking for a nail", "a brush fire in August",
            "a cannon on a loose deck", "thunder in a small room", "acid in a paper cup", "a fist around the heart",
        ),
        "stir": (
            "boiled over at {place}", "burned a hole through the evening", "poured out of {me} in a flood",
            "sharpened every word", "set the whole conversation on fire", "flared behind {my} eyes",
            "barked at everyone at {place}", "lit the fuse", "steamed out of {my} ears", "bit through every sentence",
        ),
        "so": (
            "{I} could have chewed through steel", "the whole planet heard the shouting",
            "steam blew the roof off {place}", "{I} wanted to throw {thing} into the sun", "{my} blood turned to lava",
            "{I} could have punched a hole in the moon", "every window in the country shook",
            "{I} would stay mad for ten thousand years", "{my} head nearly exploded",
            "{I} must have said it a million times", "smoke could be seen from space",
            "{I} could have burned down the universe",
        ),
    },
    "disgust": {
        "state": (
            "disgusted", "revolted", "nauseated", "repulsed", "sickened", "grossed out", "appalled", "queasy", "sick",
            "horrified", "put off", "offended", "squeamish", "repelled", "ready to vomit", "turned off",
        ),
        "noun": ("disgust", "revulsion", "nausea", "loathing", "repugnance", "distaste", "contempt", "queasiness"),
        "act": (
            "gagged at the smell", "spat the soup into the sink", "pushed the plate away", "held {my} nose",
            "scrubbed both hands twice", "backed away from {thing}", "wiped the slime off {thing}",
            "could not finish the meal", "threw the whole lunch away", "wrinkled {my} nose at {who}",
            "felt {my} stomach turn",
            "covered {my} mouth with a napkin", "refused to touch {thing}", "left the table without a word",
            "washed {my} mouth out", "shuddered at the stains on {thing}", "would not sit down at {place}", "went pale",
            "dropped the fork", "opened every window at {place}", "looked away from the plate",
        ),
        "event": (
            "a cockroach crawled out of the sandwich", "{who} picked at a scab during lunch",
            "the milk came out in lumps",
            "somebody threw up at {place}", "there was hair in the soup", "{who} licked the serving spoon",
            "maggots were moving in the bin at {place}", "the sink was full of gray water and old noodles",
            "{who} wiped greasy hands on the curtain", "mold covered the bread", "a dead rat lay behind {thing}",
            "the bathroom at {place} had not been cleaned for weeks", "{who} chewed with an open mouth",
            "{who} clipped toenails on the sofa", "the meat had turned green", "{who} left {place} in a mess",
            "the drain at {place} coughed up slime", "{who} made a filthy joke about the sick child",
            "the chicken was raw and slippery", "somebody spat on {thing}", "the fridge smelled of rotten fish",
        ),
        "quote": (
            "That smells like rotten eggs", "Get that thing away from my plate", "I am going to be sick",
            "Who would eat that", "Eww, it is still moving", "That is the filthiest room I have seen",
            "Don't make me touch it", "How can you put that in your mouth", "This is vile", "Something died in there",
        ),
        "image": (
            "a mouthful of warm slime", "a sewer in summer", "old milk in the sun", "a worm in an apple",
            "a wet sock in the throat", "a plate of cold grease", "a swamp under the floor", "a slug on the tongue",
            "a rag from a barroom floor", "spoiled meat in a lunch box", "a drain that never empties",
            "a fly in the cream", "mud behind the teeth", "a leak in a trash bag", "a toad in a wedding cake",
        ),
        "stir": (
            "crawled up {my} throat", "curdled in {my} stomach", "oozed through {place}", "coated {my} tongue",
            "dripped from every word", "festered in the corner of {place}", "rotted the whole evening",
            "slid down {my} back", "clung to {thing}", "soured the air at {place}",
        ),
        "so": (
            "{my} stomach tried to leave the country", "{I} could not have eaten again before the stars burned out",
            "{I} needed a thousand showers", "the smell could have killed an elephant",
            "flies fainted all over {place}", "{I} threw up everything {i} had eaten since birth",
            "the stench peeled the paint off the moon", "{I} washed {my} hands a million times",
            "even the rats moved to another continent", "{my} nose resigned forever",
            "a hundred oceans could not wash it off",
        ),
    },
    "fear": {
        "state": (
            "terrified", "afraid", "scared", "frightened", "panicked", "anxious", "petrified", "nervous", "horrified",
            "uneasy", "shaken", "sick with worry", "alarmed", "worried", "tense", "spooked", "jittery", "frozen",
        ),
        "noun": ("fear", "terror", "panic", "dread", "anxiety", "fright", "worry", "alarm"),
        "act": (
            "hid under the bed", "locked every door at {place}", "trembled all over", "held {my} breath",
            "backed away from {thing}", "screamed for help", "checked the locks three times",
            "ran without looking back",
            "could not move", "clung to {who}", "slept with the lights on", "went pale", "whispered a prayer",
            "gripped the railing at {place}", "dialed the emergency number", "shook from head to toe",
            "kept looking over {my} shoulder", "did not dare to open the door", "crouched behind {thing}",
            "begged {who} not to leave", "felt {my} knees give way", "froze in the doorway of {place}",
        ),
        "event": (
            "footsteps followed {me} through {place}", "the brakes stopped working on the hill",
            "a shadow moved behind {thing}", "something scratched at the window", "the plane dropped without warning",
            "a growl came from {place}", "the doctor asked {me} to sit down first", "the ice cracked under {me}",
            "{who} had a knife", "the elevator stopped between floors", "smoke crept under the door",
            "a hand touched {my} neck in the dark", "the water rose past the first step",
            "an unknown number kept calling at night", "the dog next door broke its chain", "the rope began to slip",
            "somebody tried the handle of {place}", "the tornado siren went off",
            "{who} did not come back from the woods",
            "the bridge swayed over the gorge", "the lump had grown",
        ),
        "quote": (
            "Did you hear that noise", "Please don't leave me alone here", "Somebody is in the house",
            "Don't open that door",
            "What if we never get out", "It is coming closer", "I can't breathe", "Stay away from the edge",
            "Something is behind us", "Turn the lights back on",
        ),
        "image": (
            "a rabbit under a hawk", "ice water in the veins", "a cold hand on the neck", "a cage without a door",
            "a spider on bare skin", "a mouse in an empty hall", "a cliff in the fog", "a shadow with teeth",
            "a deer in the headlights", "a candle in a draft", "a rope around the chest", "a trapdoor under the rug",
            "a wolf at the window", "a child in a dark cellar", "a thread about to snap",
        ),
        "stir": (
            "crawled up {my} throat", "gnawed at {me} all night", "froze the blood in {my} veins",
            "knocked at the door of {place}", "followed {me} home", "wrapped its fingers around {me}",
            "whispered from every corner of {place}", "swallowed the whole house", "sat on {my} chest",
            "hunted {me} through {place}",
        ),
        "so": (
            "{my} heart jumped out and ran away", "{I} turned to stone for a thousand years",
            "{my} hair went white in a second", "{I} could have climbed a skyscraper backward",
            "{I} died at least a hundred times", "{my} teeth chattered loud enough to wake the dead",
            "{I} could not have slept again in ten lives", "{my} knees shook the whole continent",
            "{I} ran faster than light", "{my} scream cracked every mirror on earth", "{I} jumped a mile into the air",
        ),
    },
    "happiness": {
        "state": (
            "happy", "delighted", "overjoyed", "thrilled", "glad", "cheerful", "grateful", "elated", "content", "proud",
            "pleased", "ecstatic", "relieved", "in high spirits", "over the moon", "joyful", "beaming", "full of hope",
        ),
        "noun": ("joy", "happiness", "delight", "laughter", "gratitude", "bliss", "cheer", "pride"),
        "act": (
            "danced around {place}", "hugged {who}", "laughed out loud", "sang all the way home", "smiled at everyone",
            "cried", "threw both arms in the air", "called {who} to share the news", "clapped and cheered",
            "could not stop smiling", "jumped up and down", "kissed {who} on the cheek", "opened a bottle of champagne",
            "hummed at {place}", "baked a cake for {who}", "high-fived {who}", "whistled at {place}",
            "thanked {who} again and again", "twirled across {place}", "grinned from the back row", "wept",
        ),
        "event": (
            "{who} said yes", "the baby laughed for the first time", "the scholarship came through",
            "{who} came home from the war", "the band played {my} favorite song", "the tumor was gone",
            "{who} surprised {me} with a puppy", "the team won the final", "the loan was approved",
            "{who} planned a picnic by the lake", "{my} first book was published", "the whole family met at {place}",
            "{who} passed the exam", "snow fell on the morning of the party", "the adoption was approved",
            "{who} sent flowers to {place}", "the job offer arrived", "{who} found the lost ring",
            "the garden was in full bloom", "the choir sang for {me}", "{who} made pancakes for everyone",
        ),
        "quote": (
            "This is the best news of the year", "I love you all", "We did it", "Come here and give me a hug",
            "What a wonderful morning", "I can't stop smiling", "Let's celebrate", "You made my day",
            "Finally, it worked", "I am so proud of you",
        ),
        "image": (
            "a balloon off its string", "sunlight through a kitchen window", "a puppy at an open gate",
            "a bird at dawn",
            "a field after rain", "a song with no last verse", "a child on the first day of summer",
            "warm bread on a table",
            "a kite above the beach", "a lamp in a dark hallway", "a river in spring", "bells on a winter morning",
            "honey in the blood", "a parade down a narrow street", "a garden in the chest",
        ),
        "stir": (
            "bloomed in {my} chest", "danced through {place}", "spilled out of every window", "lit up the room",
            "carried {me} home", "poured out of {me} in a flood", "sang in {my} veins", "lifted the roof of {place}",
            "painted the whole day gold", "bubbled over at {place}",
        ),
        "so": (
            "{I} could have hugged the whole planet", "{my} smile was wider than the sky",
            "{I} floated a thousand miles above {place}", "{I} could have danced until the end of time",
            "{my} heart burst into a million stars", "{I} laughed for a hundred years",
            "{I} could have kissed every person on earth", "the sun looked dull next to {me}",
            "{I} could have flown to the moon and back", "the cheering was heard on Mars",
            "{I} cried an ocean",
        ),
    },
    "sadness": {
        "state": (
            "sad", "heartbroken", "miserable", "lonely", "devastated", "gloomy", "hopeless", "crushed", "homesick",
            "in tears", "depressed", "downcast", "empty", "upset", "sorry", "shaken", "discouraged", "grief-stricken",
        ),
        "noun": ("grief", "sadness", "sorrow", "loneliness", "despair", "heartache", "regret", "misery"),
        "act": (
            "cried", "stared at the empty chair", "stayed in bed all day", "wept", "put the photograph away",
            "sat alone at {place}", "did not want to talk to {who}", "wiped the tears away", "folded the old sweater",
            "walked home in the rain", "left the dinner untouched", "listened to the old voice mail",
            "could not speak", "laid flowers by {thing}", "said goodbye to {who}", "turned {my} face to the wall",
            "sobbed into a pillow", "sighed at the window", "read the last letter once more", "missed {who}",
            "packed up the empty room",
        ),
        "event": (
            "the dog died in the night", "{who} moved away for good", "the funeral was held at {place}",
            "nobody came to the birthday party", "{who} forgot {my} name", "the last letter went unanswered",
            "the old house was torn down", "{who} asked for a divorce", "the baby was lost",
            "{who} was buried next to {my} mother", "the chair by the window stayed empty", "the team lost the final",
            "{who} never got to say goodbye", "the farm was sold", "the job went to somebody else",
            "{thing} that grandmother left {me} was stolen", "the cancer had come back", "{who} stopped visiting",
            "the flight was canceled on Christmas Eve", "the friendship was over",
            "the bakery closed for the last time",
        ),
        "quote": (
            "I miss you every day", "Nothing will ever be the same", "She is not coming back", "I wish I had called",
            "There is nobody left to tell", "It hurts to look at the pictures", "I should have been there",
            "I don't want to get up anymore", "We lost everything", "He was my only friend",
        ),
        "image": (
            "a house with the lights off", "a gray sea without a shore", "a stone in the chest", "a room nobody enters",
            "rain on an empty street", "a boat with no oars", "a piano with a broken key", "a winter without snow",
            "a coat that never dries", "a bell under water", "a candle in a draft", "a train that left an hour ago",
            "a garden after frost", "an anchor on the heart", "a song in an empty hall",
        ),
        "stir": (
            "sat on {my} chest", "drowned the whole house", "followed {me} home", "swallowed the whole house",
            "rained on every memory of {place}", "moved into the spare room", "poured out of {me} in a flood",
            "hung over {place}", "emptied every word", "pulled {me} under",
        ),
        "so": (
            "{I} cried an ocean", "{my} heart shattered into a billion pieces", "the tears flooded {place}",
            "{I} could not have smiled again before the end of time", "{my} pillow weighed a ton with tears",
            "the whole world went dark forever", "{I} sighed for a thousand years", "{I} died at least a hundred times",
            "every star went out", "a mountain of tissues reached the ceiling of the sky",
            "nobody in history had ever been so alone",
        ),
    },
    "surprise": {
        "state": (
            "surprised", "astonished", "amazed", "stunned", "shocked", "startled", "baffled", "speechless",
            "dumbfounded", "taken aback", "bewildered", "shaken", "caught off guard", "astounded", "puzzled",
            "flabbergasted",
        ),
        "noun": ("surprise", "astonishment", "amazement", "shock", "disbelief", "wonder", "bewilderment", "confusion"),
        "act": (
            "gasped", "blinked at {thing}", "dropped the fork", "read the line three times", "could not speak",
            "stared at {who} with an open mouth", "nearly fell off the chair", "asked {who} to say it again",
            "had to sit down", "jumped", "looked twice at {thing}", "rubbed both eyes", "let out a little cry",
            "turned around to look again", "pinched {my} own arm", "did not believe a word", "raised both eyebrows",
            "went pale", "stopped in the middle of the street", "forgot the rest of the sentence", "laughed out loud",
        ),
        "event": (
            "{who} turned out to be a twin", "the cat opened the door by itself", "{who} showed up after ten years",
            "an envelope full of cash lay at {place}", "{who} spoke fluent Finnish", "the quiet kid won the final",
            "the statue at {place} was gone", "{who} quit without warning", "a deer walked into {place}",
            "{who} had been married all along", "it snowed in July", "the old radio started to play by itself",
            "{who} pulled a live chicken out of the bag", "the door led to another house",
            "the parcel held somebody else's teeth", "the whole office was hiding behind {thing}",
            "{who} sang in a perfect soprano", "{my} name was already on the list",
            "the bill had been paid by a stranger",
            "the lost ring was inside the fish", "{who} said yes",
        ),
        "quote": (
            "Wait, what did you say", "I did not see that coming", "You are kidding me",
            "Since when do you play the harp",
            "How is that even possible", "Where did you come from", "No way", "Of all people, you",
            "I had no idea", "You did what",
        ),
        "image": (
            "a bucket of cold water", "a door that opens onto the sea", "a firework in a closet",
            "a rabbit out of a hat",
            "a bolt from a clear sky", "a punch line without a joke", "a step that is not there",
            "an extra card in the deck",
            "a trapdoor under the rug", "a whale in a swimming pool", "a clown at a funeral", "a letter from the moon",
            "a drum in the night", "snow in a desert", "a mirror that winks",
        ),
        "stir": (
            "knocked the words out of {me}", "jumped out of {thing}", "slapped {me} awake",
            "turned the room upside down",
            "stole {my} voice", "hit {place} without a warning", "knocked at the door of {place}",
            "pulled the rug from under {me}", "rang in {my} ears", "threw a plate at the wall of {my} mind",
        ),
        "so": (
            "{my} jaw fell through the floor", "{my} eyes popped out and rolled away", "the earth stopped turning",
            "{I} forgot how to speak for a thousand years", "{I} fell off the planet", "{I} jumped a mile into the air",
            "nothing like it had happened in the history of the universe", "{my} eyebrows reached the moon",
            "a feather could have knocked over the whole army", "{my} brain exploded into confetti",
            "{I} blinked a million times",
        ),
    },
    "neutral": {
        "state": (
            "on time", "at the usual desk", "in the second row", "ready at eight", "busy with the list",
            "in the next room",
            "on the phone", "back by noon", "at home", "in charge of the keys", "next in line", "done with the form",
        ),
        "act": (
            "signed the form", "put {thing} on the shelf", "took the bus to {place}", "wrote down the number",
            "closed the window", "copied the list for {who}", "measured {thing}", "waited for {number} minutes",
            "parked behind {place}", "ordered {number} chairs", "sat down next to {who}", "turned on the radio",
            "answered the question", "walked to {place}", "poured a cup of tea", "printed the agenda",
            "handed {thing} to {who}", "set the table for {number}", "looked up the address", "changed the battery",
            "nodded at {who}", "opened the door",
        ),
        "event": (
            "the meeting starts at {hour}", "{who} works near {place}", "the bus stops in front of {place}",
            "{thing} is stored at {place}", "the store closes at {hour}", "{who} ordered {number} boxes of paper",
            "the report has {number} pages", "{who} carried {thing} to {place}", "the recipe takes {number} eggs",
            "the road runs past {place}", "{who} lives on the {ordinal} floor", "the lease ends in June",
            "{place} is open on Sundays", "the form has to be signed twice", "{who} keeps {thing} at {place}",
            "the next train leaves in {number} minutes", "the color of {thing} is gray",
            "the course lasts {number} weeks", "{who} painted {thing} last spring", "the ticket costs {number} dollars",
        ),
        "quote": (
            "The keys are on the table", "It is a quarter past nine", "You can leave it at the desk",
            "I will be back at noon",
            "The printer is on the second floor", "Turn left after the bank", "Lunch is at one", "The form is online",
            "We need two more chairs", "The next bus is the forty",
        ),
    },
}

# Templates of sentences with an emotion, by device; "" is for sentences whose device is not labelled. {other} is the
# state of another emotion, felt by somebody else: the label is that of the person the sentence is about.
WITH_EMOTION: dict[str, tuple[str, ...]] = {
    "": (
        "{I} {was} {state} when {event}.", "{event}, and {i} {act}.", "{when}, {event}. {I} {act}.",
        '"{quote}," {I} said when {happening}.', "when {happening}, {I} {act}.", "{I} {act} because {event}.",
        "{I} {act} after {happening}.", '{I} {act} and said, "{quote}."', "{when}, {I} {act} and then {act}.",
        "{who} was {other}, but {I} {act}.", "{I} {was} not {other} at all; {i} {was} {state}.",
        "{event}. Everyone else was {other}, but {I} {was} {state}.", '"{quote}!" {who} was {other}, yet {I} {act}.',
        "{happening}, and {I} {was} {state}.", "the {noun} in {my} voice was plain when {happening}.",
        '{event}. "{quote}," {I} told {who}.', "{I} {was} {state}; {event}.", "{when}, {happening} and {I} {act}.",
        "{who} was {other} about it, while {I} only felt {noun}.",
    ),
    "literal": (
        "{I} {was} {state} because {event}.", "{I} {act} when {happening}.", "{when}, {event}, so {I} {act}.",
        "{I} felt {noun} after {happening}.", "{event}. {I} {was} {state} for {number} minutes.",
        "{who} noticed that {I} {was} {state}.", '{I} said, "{quote}," and {act}.', "at {place}, {I} {act}.",
        "{when}, {I} {act} and told {who} why.", "{happening}. {I} {was} {state} and {act}.",
        "{I} {was} {state}, and so was {who}.", "{who} looked like {my} uncle when {happening}, and {I} {act}.",
        "{I} {act} for the {ordinal} time this year.", "{I} {act} as soon as {happening}.",
        "{who} was {other}, but {I} {was} {state} about {thing}.", "{event}, and it took {number} days.",
    ),
    "simile": (
        "{I} felt like {image} when {happening}.", "the {noun} was like {image}.",
        "when {happening}, {noun} hit {me} like {image}.",
        "{I} {was} {state}, like {image}.", "{event}, and {I} {was} like {image}.",
        "{my} {noun} felt as real as {image}.",
        "{when}, {I} {act} like {image}.", "{who} said that {my} {noun} was like {image}.",
        "like {image}, {I} {was} {state}.",
        "{I} {act}, and {my} voice was like {image}.", "{my} face looked like {image} after {happening}.",
        "the {noun} at {place} was as heavy as {image}.", "{event}. It was like {image}.",
        "much like {image}, {I} {act}.", "{my} {noun} moved through {place} like {image}.",
    ),
    "metaphor": (
        "{my} {noun} was {image}.", "{noun} {stir} when {happening}.", "{I} {was} {image} when {happening}.",
        "{when}, {noun} {stir}.", "{event}, and {noun} {stir}.", "{noun} is {image}, and {I} carried it to {place}.",
        "the {noun} of that day was {image}.", "{event}. {I} {was} {image}.",
        "{my} voice was {image} after {happening}.",
        "{my} heart was {image}; {noun} {stir}.", "{I} {act}, for {noun} {stir}.",
        "{who} saw that {my} {noun} was {image}.",
        "{I} {was} {state}: {noun} {stir}.", "{noun} {stir}, and {I} {act}.", "{place} was {image} once {happening}.",
    ),
    "hyperbole": (
        "{I} {was} {state}, so much so that {so}.", "{when}, {happening}, and {so}.", "{event}, and {so}.",
        "{so} when {happening}.", "{event}, {I} {act}, and {so}.", "{so}; {I} {was} {state}, to say the least.",
        "nobody in the history of the world had ever been {state} like that; {so}.", "{I} {act} until {so}.",
        "there was so much {noun} at {place} that {so}.", "{event}. {so}.", "{my} {noun} was so great that {so}.",
        "{I} {was} {state} beyond anything on earth, and {so}.", "{I} swore that {so} when {event}.",
        "{happening}. {so}, and {I} {act}.",
    ),
    "sarcasm": (
        "oh great, {event}. {cheer}.", "{cheer}: {event}.", "{event}. {cheer}.", "well, {event}. {thanks}, {hail}.",
        "of course {event}. {cheer}.", "{event}, and {I} {was} supposed to be thrilled. {cheer}.",
        "{thanks}, because {event} and {I} had nothing better to do.", "how lovely that {event}. {I} {act}.",
        "{cheer}. {I} {was} {state}, but who cares.", "{event}. {thanks}, that was exactly what {I} needed.",
        "sure, {event}, and {I} should be grateful. {thanks}.", "{who} is a genius: {event}. {cheer}.",
        "{cheer}! {event}, and {I} {act}.", "nothing says a good time quite like this: {event}. {thanks}.",
    ),
}

# Templates of neutral sentences without a figure of speech. (Neutral figures come from WITHOUT_EMOTION.)
NEUTRAL: tuple[str, ...] = (
    "{event}.", "{when}, {I} {act}.", "{I} {act} when {happening}.", "{event}, and {i} {act}.", "{I} {act} and {act}.",
    '"{quote}," {I} told {who}.', '{when}, {I} said, "{quote}."', "{I} {was} {state} when {happening}.",
    "{who} was {other}, but {I} {act}.", "{event}. Everyone else was {other}, but {I} {act}.",
    "{happening}. {I} {act}.",
    "{I} {was} not {other} at all; {i} {was} {state}.", '"{quote}," said {who}, and {I} {act}.', "{when}, {happening}.",
    "{I} {act}, then {happening}.", "{event}; {event}.", "{I} {was} {state}, and {who} {act}.",
)

# Emotions that a sarcastic sentence can carry here; happiness and surprise would turn it into praise.
SARCASTIC: tuple[str, ...] = ("anger", "disgust", "fear", "sadness")

DEVICE_SLOTS: dict[str, tuple[str, ...]] = {
    "cheer": (
        "what a treat", "just wonderful", "best day ever", "how delightful", "lucky me", "truly a dream come true",
        "give them a medal", "what a surprise", "simply perfect", "what great news", "somebody call the newspaper",
        "a round of applause, please", "this just keeps getting better", "lovely", "brilliant work", "what a thrill",
    ),
    "thanks": (
        "thanks a lot", "many thanks", "thank you so much", "well done", "nice job", "great work", "good for you",
        "bravo", "congratulations", "how thoughtful",
    ),
    # A thing that can be described, for sentences without an emotion.
    "topic": (
        "the city", "the highway", "the old professor", "the lake", "the office", "{my} memory", "the night train",
        "the new law", "the forest", "the crowd at {place}", "the engine", "the wind", "the contract", "the moon",
        "the internet", "the lecture", "the market", "the coffee", "the desert", "the argument", "{my} handwriting",
        "the snow outside {place}", "the staircase at {place}", "the river", "the company", "the sky over {place}",
        "the plan", "{my} inbox",
    ),
    "vehicle": (
        "a sleeping animal", "a river of glass", "a machine with a missing part", "a beehive", "a locked drawer",
        "an old sweater", "a chessboard", "a sponge", "a paper boat", "a cathedral", "a maze without a map",
        "a blank page", "a slow dance", "a rusty gate", "a patient teacher", "a silver coin", "a house of cards",
        "a garden of wires", "a tired horse", "an open book", "a thick soup", "a museum", "a long sentence",
        "a nest of snakes", "a furnace", "a blanket", "a knife", "a magnet",
    ),
    "quality": (
        "quiet", "slow", "bright", "cold", "heavy", "smooth", "dark", "thin", "sharp", "loud", "empty", "old",
        "stubborn", "clean", "soft", "wide", "busy", "dry",
    ),
    "figure": (
        "swallowed {place}", "whispered to {who}", "wore a coat of dust", "opened its arms to {who}", "sang all night",
        "devoured the whole afternoon", "stitched the two towns together", "slept under the hill", "bit {my} fingers",
        "climbed into {my} head", "held its breath", "bled into the next day", "knitted the fog", "chewed on the coast",
        "carried the weight of {place}", "blinked at {who}",
    ),
    "excess": (
        "weighs more than the sun", "could feed the whole planet", "has been there since the dawn of time",
        "goes on for a billion miles", "could wake the dead", "costs more than all the gold on earth",
        "takes a thousand years", "is older than the universe", "holds every drop of water in the world",
        "can be seen from another galaxy", "moves slower than a glacier in a freezer", "could freeze the sun",
        "has ten million rules", "never ends, not even after death",
    ),
    "strain": (
        "{I} waited at {place} for a thousand years", "{I} carried a ton of books to {place}",
        "{who} has told that story a billion times", "{I} could eat a whole herd of horses",
        "{my} backpack weighs more than an elephant", "{who} knows every person on earth",
        "{I} had a million things to do",
        "everyone in the universe was at {place}", "{who} talks faster than light",
        "{I} walked ten thousand miles to {place}",
        "{my} feet fell off on the way to {place}", "{I} had not slept since the last ice age",
        "{who} owns more shoes than there are stars", "{I} would give every planet for a nap",
    ),
    "nuisance": (
        "the elevator is out again", "the printer ate the only copy", "it rained on the one day off",
        "the wifi died during the call", "{who} forgot the tickets", "the coffee machine is empty", "another Monday",
        "the alarm went off at four", "{who} scheduled a meeting at lunch", "the password has to be changed again",
        "the heater broke in January", "{who} replied to all", "the umbrella stayed at {place}",
        "the line is out the door",
        "the update took the whole morning", "{who} lost the keys to {place}",
    ),
    "good": (
        "the elevator is fixed", "{who} brought the tickets", "the sun came out on the day off", "dinner is ready",
        "{who} found the keys to {place}", "the package came early", "the heater works again", "the concert is free",
        "{who} saved a seat", "the repair was cheap", "the trail is open", "the bread is fresh",
    ),
    "fact": (
        "was built in the last century", "is near {place}", "was closed for {number} days", "costs {number} dollars",
        "belongs to {who}", "was finished on Tuesday", "has {number} parts", "was repaired by {who}",
        "is about {number} miles long", "looks like the one in the photo", "was moved to {place}",
        "weighs {number} pounds", "takes {number} hours", "is the same as last year", "needs a new cover",
        "was described in the local paper",
    ),
    "ordinary": (
        "a two-story building", "a gift from {who}", "a subject in school", "a job for two people",
        "a stop on the tour",
        "a short walk from {place}", "a topic at dinner", "a copy of the first one", "a part of the lease",
        "a good place to rest", "a furnace", "a museum", "a beehive", "an open book",
    ),
}

# Templates of sentences without an emotion, by device.
WITHOUT_EMOTION: dict[str, tuple[str, ...]] = {
    "simile": (
        "{topic} was like {vehicle}.", "{topic} was as {quality} as {vehicle}.", "like {vehicle}, {topic} {fact}.",
        "{topic}, like {vehicle}, {figure}.", "{I} moved through {place} like {vehicle}.",
        "{when}, {topic} looked like {vehicle}.", "{who} said that {topic} was like {vehicle}.",
        "{topic} sat there like {vehicle} at {place}.", "as {quality} as {vehicle}, {topic} {fact}.",
        "{topic} felt as {quality} as {vehicle} to {me}.", "{thing} was like {vehicle} in {my} hands.",
        "{who} is like {vehicle} when {topic} {fact}.", "{topic} {fact}, and it sounds like {vehicle}.",
    ),
    "metaphor": (
        "{topic} was {vehicle}.", "{topic} {figure}.", "{when}, {topic} {figure}.",
        "{topic} is {vehicle}, and {who} knows it.",
        "to {me}, {topic} was {vehicle}.", "{topic}, {vehicle}, {figure}.", "{who} is {vehicle} at {place}.",
        "{topic} became {vehicle} {when}.", "{thing} was {vehicle} in {my} hands.", "{topic} {fact}; it is {vehicle}.",
        "{I} found that {topic} was a very {quality} room, {vehicle}.", "for {who}, {topic} {figure}.",
        "{vehicle}: that was {topic} {when}.",
    ),
    "hyperbole": (
        "{topic} {excess}.", "{strain}.", "{when}, {strain}.", "{who} says that {topic} {excess}.",
        "{topic} is so {quality} that it {excess}.", "{strain}, and {topic} {excess}.",
        "{I} swore that {topic} {excess}.",
        "nothing in the history of the world was as {quality} as {topic}.", "{thing} {excess}.",
        "{strain} because {topic} {fact}.", "{topic} {fact}, and {strain}.", "{strain}, all for {thing}.",
    ),
    "sarcasm": (
        "oh great, {nuisance}. {cheer}.", "{nuisance}. {cheer}.", "{cheer}: {nuisance}.",
        "{thanks}, {hail}: {nuisance}.",
        "of course {nuisance}. {thanks}.", "sure, {topic} {fact}, and {I} {was} born yesterday.",
        "wonderful, {nuisance} and {topic} {fact}.", "{nuisance}, but {topic} {fact}, so {cheer}.",
        "{who} is such a genius that {nuisance}.", "{nuisance}. {thanks}, just what {I} needed {when}.",
        "because {nuisance}, {I} got to visit {place}. {cheer}.", "yes, {topic} {excess}, and pigs fly. {cheer}.",
    ),
    "literal": (
        "{topic} {fact}.", "{topic} was {ordinary}.", "{when}, {who} said that {topic} {fact}.", "{thing} {fact}.",
        "{topic} was as {quality} as the one at {place}.", "{I} liked {topic}, which {fact}.",
        "{good}, and {topic} {fact}.",
        "what great news: {good}.", "{thanks}, {hail}: {good}.", "{who} looked like {my} uncle at {place}.",
        "{I} waited at {place} for {number} hours.", "{I} carried {number} books to {place} {when}.",
        "{vehicle} was for sale at {place}.", "{who} saw {vehicle} at {place} {when}.", '{good}. "Lovely," said {who}.',
        "{nuisance}, so {I} {was} late at {place}.",
    ),
}
