"""Templates of sentences by device, with and without an emotion."""

from __future__ import annotations

# Several phrases a line:
# fmt: off

# Device -> templates of sentences with an emotion; "" is for sentences whose device is not labelled. {other} is the
# state of another emotion, felt by somebody else: the label is that of the sentence's subject.
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

# Templates of neutral sentences without a figure of speech. Neutral figures of speech come from WITHOUT_EMOTION.
NEUTRAL: tuple[str, ...] = (
    "{event}.", "{when}, {I} {act}.", "{I} {act} when {happening}.", "{event}, and {i} {act}.", "{I} {act} and {act}.",
    '"{quote}," {I} told {who}.', '{when}, {I} said, "{quote}."', "{I} {was} {state} when {happening}.",
    "{who} was {other}, but {I} {act}.", "{event}. Everyone else was {other}, but {I} {act}.",
    "{happening}. {I} {act}.",
    "{I} {was} not {other} at all; {i} {was} {state}.", '"{quote}," said {who}, and {I} {act}.', "{when}, {happening}.",
    "{I} {act}, then {happening}.", "{event}; {event}.", "{I} {was} {state}, and {who} {act}.",
)

# Emotions of sarcastic sentences. Happiness and surprise are excluded: with them the sentence would read as praise.
SARCASTIC: tuple[str, ...] = ("anger", "disgust", "fear", "sadness")

# Device -> templates of sentences without an emotion.
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
