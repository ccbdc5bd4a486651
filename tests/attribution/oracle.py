"""Attributions of sentences one at a time, by plain forwards of the model and autograd; and a corpus to attribute."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from affectron import ActivationStats, Corpus
from affectron.corpus import Sentence
from affectron.stats import FIELDS
from tests.support.families import Family, watched
from tests.support.tiny import last_inputs, make_tokenizer

# Labels of one and of several tokens; two begin alike. The prompts have one word before the text, and some after it.
TASKS = {"kind": ("w50", "w50 w51", "w52 w50 w53"), "way": ("w9", "w10")}
PROMPTS = {"kind": "{bos}w1 {text} w2 w3", "way": "{bos}w4 {text} w5"}
BEFORE = 2  # <s> and the word before the text


def make_corpus(sentences: int = 19, tasks: Sequence[str] = tuple(TASKS), longest: int = 12) -> Corpus:
    """Random words; some sentences have two labels of a task, some labels of both tasks."""
    rng = np.random.default_rng(5)
    owner = {label: task for task in tasks for label in TASKS[task]}
    kinds = [(label,) for label in owner]
    kinds += [("w50", "w52 w50 w53")] if "kind" in tasks else []
    kinds += [("w50 w51", "w10")] if len(tasks) > 1 else []
    return Corpus.from_records(
        {
            "text": " ".join(f"w{w}" for w in rng.integers(0, 48, rng.integers(1, longest))),
            "label": list(kinds[i % len(kinds)]),
            "task": [owner[label] for label in kinds[i % len(kinds)]],
        }
        for i in range(sentences)
    )


@dataclass(frozen=True)
class Truth:
    """The attribution of each neuron in a sentence, fp64 [F], and the sum of its terms' absolute values: by site."""

    value: dict[str, np.ndarray]
    size: dict[str, np.ndarray]


#: Calls ``change(site, h, tokens)`` at each site, with the tokens that reach an expert, else None; takes what it
#: returns in place of h.
Watch = Callable[[Callable[[str, Tensor, Tensor | None], Tensor]], AbstractContextManager[None]]


class Plain:
    """A model in fp64, or another dtype, whose activations are seen by ``watch``, made from the model by ``watching``.

    ``baseline`` is a number for each neuron of a site, zero by default; ``positions`` as for attribute.
    """

    def __init__(
        self,
        model: Any,
        watching: Callable[[Any], Watch],
        positions: str = "all",
        baseline: dict[str, np.ndarray] | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.model = copy.deepcopy(model).to(dtype).eval().requires_grad_(True)
        self.watch, self.positions, self.baseline = watching(self.model), positions, baseline
        self.gradient_alone = False
        self._seen: list[tuple[str, Tensor, Tensor | None, Tensor]] = []

    def forward(self, ids: Sequence[int], text: range, part: Any = None, **more: Any) -> Any:
        """The output of the model, or a part of it, for a row of tokens, of which ``text`` are the text's own."""
        own = torch.zeros(len(ids), dtype=torch.bool)
        own[text.start : text.stop] = True
        counted = {"all": own | True, "text": own, "prompt": ~own}[self.positions]

        def change(site: str, h: Tensor, tokens: Tensor | None) -> Tensor:
            if h.numel():
                h.retain_grad()
                self._seen.append((site, h, tokens, counted))
            return h

        with self.watch(change):
            return (self.model if part is None else part)(input_ids=torch.tensor([list(ids)]), **more)

    def attributed(self, value: Tensor) -> Truth:
        """The attributions of ``value`` over the forwards since the last call."""
        value.backward()
        truth, size = {}, {}
        for site, h, tokens, counted in self._seen:
            rows, grad = (x.detach().double().reshape(-1, h.shape[-1]) for x in (h, h.grad))
            if self.baseline is not None:
                rows = rows - torch.from_numpy(self.baseline[site])
            here = counted if tokens is None else counted[tokens]
            terms = (grad if self.gradient_alone else rows * grad)[here].numpy()
            truth[site] = truth.get(site, 0) + terms.sum(0)
            size[site] = size.get(site, 0) + np.abs(terms).sum(0)
        self._seen.clear()
        self.model.zero_grad()
        return Truth(truth, size)

    def scores(self, text: str, labels: Sequence[str], prompt: str, tokenizer: Any) -> Tensor:
        """The mean log-likelihood of each label after a text: a forward for each."""
        words = len(text.split())
        scores = []
        for label in labels:
            whole = tokenizer(prompt.format(bos="<s>", text=text) + " " + label, add_special_tokens=False)
            length = len(label.split())
            ids = whole["input_ids"]
            logits = self.forward(ids[:-1], range(BEFORE, BEFORE + words)).logits.double()[0, -length:]
            found = logits.log_softmax(-1)[torch.arange(length), torch.tensor(ids[-length:])]
            scores.append(found.mean())
        return torch.stack(scores)

    def offsets(self, texts: Sequence[str], labels: Sequence[str], prompt: str, tokenizer: Any) -> Tensor:
        """The mean of the scores of each label over texts."""
        means = torch.stack([self.scores(text, labels, prompt, tokenizer).detach() for text in texts]).mean(0)
        self._seen.clear()
        return means

    def answer(
        self, sentence: Sentence, labels: Sequence[str], prompt: str, tokenizer: Any, offsets: Tensor | float = 0.0
    ) -> Truth:
        """Log P of the sentence's labels, their scores less ``offsets``."""
        p = (self.scores(sentence.text, labels, prompt, tokenizer) - offsets).softmax(0)
        return self.attributed(sum(p[labels.index(label)] for label in sentence.labels if label in labels).log())

    def likelihood(self, sentence: Sentence, tokenizer: Any) -> Truth:
        """The mean log-likelihood of the sentence's words."""
        ids = tokenizer(sentence.text)["input_ids"]
        logits = self.forward(ids, range(1, len(ids))).logits.double()[0, :-1]
        return self.attributed(logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].mean())


def watching_tiny(family: str) -> Callable[[Any], Watch]:
    return lambda model: lambda change: last_inputs(model, family, lambda site, h: change(site, h, None))


def watching_family(family: Family) -> Callable[[Any], Watch]:
    @contextmanager
    def watch(model: Any, change: Any) -> Iterator[None]:
        with watched(model, family, lambda site, h, _gate, tokens: change(site, h, tokens)):
            yield

    return lambda model: lambda change: watch(model, change)


def answers(plain: Plain, corpus: Corpus, tokenizer: Any, prompts: dict[str, str] = PROMPTS) -> dict[str, list[Truth]]:
    """Task -> the truths of its sentences, in the order of the corpus."""
    return {
        task: [plain.answer(sentence, labels, prompts[task], tokenizer) for sentence in corpus.where(task=task)]
        for task, labels in corpus.tasks.items()
    }


def check(stats: ActivationStats, corpus: Corpus, truths: dict[str, list[Truth]], rounding: float = 1e-5) -> None:
    """Check the statistics of each label against the truths of its sentences; ``rounding`` is relative to the sum of
    the absolute values of an attribution's terms, as a result of float32 is."""
    for task, labels in corpus.tasks.items():
        sentences = list(corpus.where(task=task))
        for label in labels:
            own = [truth for truth, one in zip(truths[task], sentences, strict=True) if label in one.labels]
            for site, found in stats.label(label).items():
                nothing = np.zeros(stats.widths[site])  # an expert that no token reached
                value = np.stack([truth.value.get(site, nothing) for truth in own])
                size = np.stack([truth.size.get(site, nothing) for truth in own]).max()
                assert found.count == len(own)
                assert not found.nonfinite.any()
                bound = rounding * size + 1e-12
                np.testing.assert_allclose(found.mean, value.mean(0), rtol=0, atol=bound, err_msg=f"{label} {site}")
                np.testing.assert_allclose(np.sqrt(found.var), value.std(0), rtol=0, atol=bound)
                np.testing.assert_allclose(found.min, value.min(0), rtol=0, atol=bound)
                np.testing.assert_allclose(found.max, value.max(0), rtol=0, atol=bound)
                clear = np.abs(value) > bound
                unclear = (~clear).sum(0)
                active = ((value > 0) & clear).sum(0)
                assert ((found.active >= active) & (found.active <= active + unclear)).all()


def same_bits(one: ActivationStats, other: ActivationStats) -> None:
    for name in FIELDS:
        for site in one.sites:
            a, b = getattr(one, name)[site], getattr(other, name)[site]
            assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), (name, site)


TOKENIZER = make_tokenizer()
