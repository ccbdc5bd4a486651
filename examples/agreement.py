"""Find the neurons by which a model makes the verb agree with its subject, and see what is left of it without them.

    python examples/agreement.py [MODEL]                     # a folder, or a name on the hub

"The teacher near the car" goes on with "is", "The teachers near the car" with "are". By pairs of such texts the 100
neurons are found to which the preference for the right verb is attributed. They are masked, and in their place as many
random neurons of the same sites, while the model reads pairs of other nouns. With 100 % of the preference gone, the
number of the subject makes no difference any more. That log P of either verb stays tells that the rest still works.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import product

import torch

import affectron
from affectron.attribution.pairs import attribute_pairs
from affectron.corpus.pairs import Pair

MODEL, NEURONS = "HuggingFaceTB/SmolLM2-135M-Instruct", 100
SUBJECTS = ("teacher", "doctor", "boy", "girl", "king", "farmer", "driver", "friend", "parent", "manager")
OTHERS = ("the car", "the cars", "the house", "the houses", "the tree", "the trees")
VERBS = (("is", "are"), ("was", "were"), ("has", "have"), ("does", "do"))


def pairs_of(subjects: Iterable[str]) -> list[Pair]:
    """Each subject with each verb, singular and plural in turn."""
    found = []
    for number, (subject, verbs) in enumerate(product(subjects, VERBS)):
        other, plural = OTHERS[number % len(OTHERS)], (number + number // len(VERBS)) % 2
        texts = [f"The {noun} near {other}" for noun in (subject, f"{subject}s")]
        found.append(Pair("agreement", texts[plural], texts[1 - plural], verbs[plural], verbs[1 - plural]))
    return found


@torch.no_grad()
def read(model, tokenizer, pairs: list[Pair]) -> tuple[float, float]:
    """How much more log P of the right verb over the other one is after the text than after the other text, and log P
    of either verb after the text: means over the pairs, in nats."""

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    preferences, either = [], []
    for pair in pairs:
        verbs = [encode(f" {verb}")[0] for verb in (pair.answer, pair.other_answer)]
        inputs = torch.tensor([[tokenizer.bos_token_id, *encode(text)] for text in (pair.text, pair.other)])
        after, after_other = model(inputs).logits[:, -1].log_softmax(-1)[:, verbs]
        preferences.append(after[0] - after[1] - after_other[0] + after_other[1])
        either.append(after.logsumexp(0))
    return float(torch.stack(preferences).mean()), float(torch.stack(either).mean())


def main() -> None:
    model, tokenizer = affectron.load_model(sys.argv[1] if len(sys.argv) > 1 else MODEL, dtype="float32")
    stats = attribute_pairs(model, tokenizer, pairs_of(SUBJECTS[::2]))
    found = affectron.select(stats, count=NEURONS, score="paired_difference")["agreement"]
    draw = random.Random(0)
    drawn = [
        (site, index)
        for site, count in Counter(site for site, _, _ in found).items()
        for index in draw.sample(range(stats.widths[site]), count)
    ]

    tested = pairs_of(SUBJECTS[1::2])
    whole, either = read(model, tokenizer, tested)
    print(f"preference for the right verb: {whole:.2f} nats; log P of either verb: {either:.2f}")
    print(f"with {NEURONS} of {sum(stats.widths.values()):,} neurons masked:")
    for name, neurons in (("attributed", found), ("random", drawn)):
        with affectron.intervene(model, affectron.zero(neurons)):
            left, either = read(model, tokenizer, tested)
        print(f"  {name}: {1 - left / whole:.0%} of the preference gone; log P of either verb: {either:.2f}")


if __name__ == "__main__":
    main()
