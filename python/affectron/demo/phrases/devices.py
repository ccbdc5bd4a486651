"""Phrases of slots that figures of speech and literal sentences need."""

from __future__ import annotations

# Several phrases a line:
# fmt: off

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
    # Things that can be described, for sentences without an emotion.
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
