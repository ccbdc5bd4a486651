"""Persons, and the phrases of slots that are independent of the label."""

from __future__ import annotations

# Several phrases a line:
# fmt: off

# Forms of each person: subject, later subject, object, possessive, "was", reflexive.
PERSONS: tuple[tuple[str, str, str, str, str, str], ...] = (
    ("I", "I", "me", "my", "was", "myself"),
    ("we", "we", "us", "our", "were", "ourselves"),
    ("he", "he", "him", "his", "was", "himself"),
    ("she", "she", "her", "her", "was", "herself"),
    ("they", "they", "them", "their", "were", "themselves"),
    *((name, "she", "her", "her", "was", "herself") for name in ("Nora", "Priya", "Ines", "Mei", "Tamar", "Ruth")),
    *((name, "he", "him", "his", "was", "himself") for name in ("Omar", "Felix", "Kofi", "Anton", "Luis", "Ben")),
)

# Slot -> phrases that are independent of the label.
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
    # Forms of address.
    "hail": (
        "my friend", "boss", "everybody", "captain", "folks", "dear neighbor", "team", "professor", "sir", "old pal",
        "ladies and gentlemen", "kids",
    ),
    # Events that can occur with any emotion.
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
