"""Causal validation (METHODS section 7): do a label's neurons carry its prediction, and no other neurons as much?

Apart from the evaluators, which read an answer, and from the programs, which change one. Two phases, for all labels
together: on the dev split the feedback loop settles each label's mask; only then is the test split read, for the
report. What the notes on the source leave open is an option here, and its default is ours.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from affectron import __version__
from affectron.corpus import Corpus, Sentence
from affectron.errors import InputError
from affectron.evaluators import Evaluator, Integers, LabelLikelihood, LinearProbe, Reader, text_loss, truths
from affectron.files import digest, read_json, write_json
from affectron.interventions import Program, attenuate, induce, mean, zero
from affectron.models import config_hash, evaluating, find_sites, fingerprint, intervene, tokenizer_hash
from affectron.neurons import NeuronList, NeuronSet
from affectron.progress import track
from affectron.report.results import read_validation
from affectron.scores import score
from affectron.stats import FIELDS, ActivationStats

FORMAT = "affectron.validation"
VERSION = 1

DROP_REACHED, CAPS_REACHED, NOTHING_SELECTED = "drop reached", "caps reached", "no neuron selected"


@dataclass(frozen=True)
class Validation:
    """The result of :func:`validate`.

    Attributes:
        content: the JSON object that :meth:`save` writes. Accuracies and their changes are fractions, losses nats a
            token; None where something was not measured or is not a number.
    """

    content: dict[str, Any]

    @property
    def provenance(self) -> dict[str, Any]:
        """The model, corpus and neurons of the result, by their hashes, and the versions that made it."""
        return dict(self.content["provenance"])

    @property
    def options(self) -> dict[str, Any]:
        """The options, defaults filled in."""
        return dict(self.content["options"])

    @property
    def tasks(self) -> dict[str, Any]:
        """task -> its labels, sentences, unmasked accuracies, and results by label."""
        return dict(self.content["tasks"])

    @property
    def induction(self) -> dict[str, Any] | None:
        """task -> betas, share and baseline by label; None where no betas were given."""
        found: dict[str, Any] | None = self.content["induction"]
        return found

    def rows(self) -> list[dict[str, Any]]:
        """A row for each label, for a table: task, label, selected, masked, alpha, share, sentences, baseline, the
        changes of accuracy under each mask (adaptive, zero, mean, random, others; ``*_interval`` beside adaptive,
        random and others), loss, beats_random. None where not measured."""
        rows = []
        for task, part in self.content["tasks"].items():
            for label, result in part["results"].items():
                masks, drawn = result["masks"], result["random"] or {}
                adaptive = masks.get("adaptive", {})
                rows.append(
                    {
                        "task": task,
                        "label": label,
                        **{key: result[key] for key in ("selected", "masked", "alpha", "share", "sentences")},
                        "baseline": result["baseline"],
                        "adaptive": adaptive.get("delta"),
                        "adaptive_interval": adaptive.get("interval"),
                        "zero": masks.get("zero", {}).get("delta"),
                        "mean": masks.get("mean", {}).get("delta"),
                        "random": drawn.get("mean"),
                        "random_interval": drawn.get("interval"),
                        "others": adaptive.get("others_delta"),
                        "others_interval": adaptive.get("others_interval"),
                        "loss": adaptive.get("loss_delta"),
                        "beats_random": result["beats_random"],
                    }
                )
        return rows

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON object, atomically.

        Raises:
            InputError: the file cannot be written; what was there before is unchanged.
        """
        write_json(path, self.content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Validation:
        """Read a file that :meth:`save` wrote.

        Raises:
            InputError: the file is missing, not JSON, of another format or version, or a field is missing or wrong.
        """
        read_validation(path)  # checks every field that a report is made of
        return cls(read_json(path, FORMAT, VERSION))


@dataclass(frozen=True)
class Options:
    """The numbers that a validation depends on; :func:`validate` says what each means.

    Raises:
        InputError: one is out of its range.
    """

    dev: str
    test: str
    neutral: str | None
    alpha: float
    alpha_step: float
    alpha_cap: float
    share: float
    share_step: float
    share_cap: float
    min_drop: float
    random_sets: int
    bootstrap: int
    betas: tuple[float, ...]
    seed: int
    limit: int | None

    def __post_init__(self) -> None:
        for name, zero_too in (("alpha", False), ("share", False), ("min_drop", False)):
            _fraction(name, getattr(self, name), zero_too)
        for name in ("alpha", "share"):
            _fraction(f"{name}_step", getattr(self, f"{name}_step"), True)
            _fraction(f"{name}_cap", getattr(self, f"{name}_cap"), False)
            start, cap = getattr(self, name), getattr(self, f"{name}_cap")
            if start > cap:
                raise InputError(f"{name} is {start}, which is above {name}_cap, {cap}")
        for name, least in (("random_sets", 0), ("bootstrap", 1), ("seed", 0), ("limit", 1)):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
            if not whole and not (name == "limit" and value is None):
                raise InputError(f"{name} is {value!r}, expected an integer of at least {least}")
        for beta in self.betas:
            if not math.isfinite(beta):
                raise InputError(f"betas has {beta}, expected finite numbers")

    def rounds(self) -> list[tuple[float, float]]:
        """(alpha, share) of each round of the feedback loop, until both are at their caps or no step is left."""
        found: list[tuple[float, float]] = []
        while True:
            # Rounded: 0.3 + 3 steps of 0.1 is meant to be 0.6.
            values = [
                min(round(start + len(found) * step, 10), cap)
                for start, step, cap in (
                    (self.alpha, self.alpha_step, self.alpha_cap),
                    (self.share, self.share_step, self.share_cap),
                )
            ]
            if found and (values[0], values[1]) == found[-1]:
                return found
            found.append((values[0], values[1]))


def validate(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    neurons: NeuronSet,
    stats: ActivationStats,
    *,
    evaluator: str | Evaluator = "label_likelihood",
    prompts: Mapping[str, str] | None = None,
    task: str | None = None,
    dev: str = "dev",
    test: str = "test",
    train: str = "train",
    neutral: str | None = None,
    alpha: float = 0.3,
    alpha_step: float = 0.1,
    alpha_cap: float = 1.0,
    share: float = 0.1,
    share_step: float = 0.1,
    share_cap: float = 1.0,
    min_drop: float = 0.05,
    random_sets: int = 20,
    bootstrap: int = 1000,
    betas: Sequence[float] = (),
    seed: int = 0,
    limit: int | None = None,
    progress: bool = False,
) -> Validation:
    """Test each label's neurons by weakening them (METHODS section 7.1-7.4).

    For each label, the ``share`` of its neurons with the highest ``differential`` score is attenuated by ``alpha``,
    each token by its own activation. While the accuracy on the label's own dev sentences has not dropped by
    ``min_drop``, alpha and share are raised by their steps, up to their caps. The mask so found is reported on the
    test split, beside a zero mask and a mean mask of the same neurons, and ``random_sets`` sets of as many neurons
    at each site, drawn without replacement from all that were not selected for the label and attenuated in the same
    way, by the same alpha and the label's own statistics.

    A sentence is answered right when the answer is one of its labels of the task; the answers to choose from are all
    labels of the task in the corpus. Each change of accuracy is taken over the same sentences with and without the
    mask: on the label's own (``delta``) and on the task's others (``others_delta``), with a 95 % percentile interval
    over ``bootstrap`` resamples of the sentences. The interval of the random sets holds the middle 95 % of their
    changes; ``beats_random`` says that the adaptive mask's change is below all of it. ``loss_delta`` is the change of
    the mean loss of a token, in nats, on neutral text.

    With the same model, corpus and options the result is the same.

    Args:
        model: a causal language model; in evaluation mode meanwhile, and unchanged afterwards.
        tokenizer: its tokenizer.
        corpus: sentences with splits, not narrowed to one.
        neurons: what was selected. A label without neurons is listed as such and not tested.
        stats: statistics of the same model, which the masks are made from.
        evaluator: ``label_likelihood``, ``linear_probe``, or an object like those in affectron.evaluators.
        prompts: task -> template, for ``label_likelihood``.
        task: test this task only; all tasks of ``neurons`` when None.
        dev, test: the splits that the feedback sees and that is reported.
        train: the split that a probe is fitted on; not read otherwise.
        neutral: measure the loss on this label's test sentences; on the task's that do not have the tested label
            when None.
        alpha, alpha_step, alpha_cap: strength of the attenuation, all in [0, 1].
        share, share_step, share_cap: share of a label's neurons that is masked, all in [0, 1].
        min_drop: the drop of dev accuracy, a fraction, at which the loop stops.
        random_sets: 0 for none.
        bootstrap: number of resamples.
        betas: measure induction too, at these strengths (:func:`induction`).
        seed: of random sets, resamples and the choice of sentences under ``limit``.
        limit: sentences of a label in a split at most, chosen at random; all when None.
        progress: show a bar on stderr.

    Raises:
        InputError: an option out of its range, an unknown task, split or evaluator, a prompt without {text}, a label
            without a sentence in the dev or test split, statistics or neurons of another model, a neuron beyond the
            model. All before the model is run.
    """
    options = Options(
        dev, test, neutral, alpha, alpha_step, alpha_cap, share, share_step, share_cap, min_drop, random_sets,
        bootstrap, tuple(betas), seed, limit,
    )  # fmt: skip
    chosen = _evaluator(evaluator, prompts, {*corpus.tasks, *neurons.tasks, *stats.tasks})
    splits = {"dev": dev, "test": test, **({"train": train} if chosen.trains else {})}
    if len(set(splits.values())) < len(splits):
        given = ", ".join(f"{name} {split!r}" for name, split in splits.items())
        raise InputError(f"the splits are {given}; expected different ones")
    hashes = _check_model(model, tokenizer, neurons, stats)
    tasks = _tasks(neurons, corpus, stats, task)
    for name, labels in tasks.items():
        for split in splits.values():
            corpus.where(split=split, task=name).require([*labels, *corpus.tasks[name]])
    if neutral is not None:
        corpus.where(split=test).require([neutral])
    candidates = {
        name: [_Candidates.of(neurons[label], corpus.tasks[name], stats, options) for label in labels]
        for name, labels in tasks.items()
    }

    def sentences(split: str, name: str) -> list[Sentence]:
        return _sentences(corpus.where(split=split, task=name), limit, seed)

    def questions(found: Sequence[Sentence], name: str) -> _Questions:
        labels = corpus.tasks[name]
        return _Questions(
            model, chosen.reader(model, tokenizer, found, name, labels), truths(found, labels), tuple(labels)
        )

    results: dict[str, Any] = {}
    induced: dict[str, Any] = {}
    with torch.no_grad(), evaluating(model), _Steps.of(candidates, options, progress) as step:
        on_dev = {}
        for name in tasks:
            found = sentences(dev, name)
            if chosen.trains:
                chosen.fit(model, tokenizer, sentences(train, name), found, name, corpus.tasks[name])
            on_dev[name] = questions(found, name)
        masks: dict[str, _Mask] = {}
        for name in tasks:
            unmasked = on_dev[name].ask()
            for one in candidates[name]:
                if one.ranked:
                    masks[one.label] = _settle(one, on_dev[name], unmasked, options, step)
            results[name] = {
                "labels": list(corpus.tasks[name]),
                "dev_sentences": len(on_dev[name]),
                "baseline": {"dev": on_dev[name].accuracy(unmasked)},
            }

        # Every mask is settled: from here on, and not before, the test split is read.
        text = None
        if neutral is not None:
            found = sentences(test, corpus.task_of[neutral])
            text = _Text(model, tokenizer, [one for one in found if neutral in one.labels])
        for name in tasks:
            found = sentences(test, name)
            asked = questions(found, name)
            unmasked = asked.ask()
            report = _Report(asked, unmasked, text or _Text(model, tokenizer, found), text is not None, options)
            results[name]["test_sentences"] = len(asked)
            results[name]["baseline"]["test"] = asked.accuracy(unmasked)
            results[name]["results"] = {
                one.label: report.label(one, masks.get(one.label), step) for one in candidates[name]
            }
            if betas:
                induced[name] = _induction(model, candidates[name], asked, unmasked, betas, step)
    return Validation(
        {
            "format": FORMAT,
            "version": VERSION,
            "provenance": _provenance(model, corpus, neurons, hashes, splits),
            "options": {"evaluator": chosen.name, **chosen.options, **asdict(options), "betas": list(betas)},
            "tasks": results,
            "induction": induced or None,
        }
    )


def induction(
    model: Any,
    neurons: NeuronList,
    stats: ActivationStats,
    betas: Sequence[float],
    reader: Reader,
    rows: Integers,
    target: int,
) -> list[float]:
    """Directed induction (METHODS section 8): the share of sentences answered with the target, for each beta.

    Args:
        neurons: the neurons of the target label; each is shifted by beta times its mean activation under the label.
        betas: strengths; 0 is the model as it is.
        reader, rows: what asks the model, and which sentences to ask about: those not of the target label.
        target: the answer that counts, a label's position in the reader's labels.
    """
    shares = []
    for beta in betas:
        with intervene(model, induce(neurons, stats, beta)) if beta else nullcontext():
            shares.append(float((reader(rows) == target).mean()))
    return shares


def bootstrap_interval(
    differences: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of paired ``differences`` [n] (Efron 1979): the 2.5 and 97.5 %
    quantiles, linearly interpolated, of the means of ``resamples`` samples of n with replacement."""
    n = len(differences)
    # In parts, so that 10,000 resamples of 100,000 sentences need no 8 GB.
    part = max(1, (1 << 22) // n)
    means = [
        differences[rng.integers(0, n, (min(part, resamples - start), n))].mean(axis=1)
        for start in range(0, resamples, part)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


def draw_matched(
    by_site: Mapping[str, Integers], pool: Mapping[str, Integers], rng: np.random.Generator
) -> list[tuple[str, int]] | None:
    """Random neurons (site, index), as many at each site as ``by_site`` has there, drawn without replacement from
    those of ``pool``; None where a site's pool is too small."""
    if any(len(pool[site]) < len(index) for site, index in by_site.items()):
        return None
    return [
        (site, int(one))
        for site, index in by_site.items()
        for one in np.sort(rng.choice(pool[site], len(index), replace=False))
    ]


# --- what is tested ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Candidates:
    """A label's selected neurons, best ``differential`` first, and what its masks are made from."""

    label: str
    target: int
    ranked: NeuronList
    stats: ActivationStats
    measured: ActivationStats

    @classmethod
    def of(cls, neurons: NeuronList, answers: Sequence[str], stats: ActivationStats, options: Options) -> _Candidates:
        """Raises InputError where a mask cannot be made: better now than after hours of feedback."""
        label, task = neurons.label, neurons.task
        target = answers.index(label)
        if not neurons:
            return cls(label, target, neurons, stats, stats)
        differential = score(stats, "differential", task)
        row = stats.tasks[task].index(label)
        values = np.array([differential[site][row, index] for site, index, _ in neurons])
        # Without a score last, and equals in the order of the selection.
        order = np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")
        ranked = NeuronList(label, task, [neurons[int(place)] for place in order])
        # The label's own statistics, merged once: each of the many programs would merge the segments of all sites.
        arrays = {
            site: {name: [found.count] if name == "count" else getattr(found, name)[np.newaxis] for name in FIELDS}
            for site, found in stats.label(label).items()
        }
        one = cls(label, target, ranked, stats, ActivationStats({task: [label]}, [[label]], arrays))
        one.attenuated(ranked, options.alpha)
        mean(ranked, stats)
        for beta in options.betas:
            induce(ranked, one.measured, beta)
        return one

    def attenuated(self, neurons: Sequence[tuple[Any, ...]], alpha: float) -> Program:
        return attenuate(neurons, self.measured, alpha, label=self.label)

    def pool(self) -> dict[str, Integers]:
        """The neurons to draw random sets from: not selected for the label, and finite under it."""
        selected = self.ranked.by_site()
        return {
            site: np.setdiff1d(np.flatnonzero(found.observed > 0), selected.get(site, ()))
            for site, found in self.measured.label(self.label).items()
        }


@dataclass(frozen=True)
class _Mask:
    """What the feedback loop has settled on, and how it came to it."""

    neurons: NeuronList
    alpha: float
    share: float
    stopped: str
    trace: list[dict[str, Any]]


class _Questions:
    """The sentences of one split and task, and a model that answers them."""

    def __init__(self, model: Any, reader: Reader, truth: NDArray[np.bool_], labels: tuple[str, ...]) -> None:
        self.model, self.reader, self.truth, self.labels = model, reader, truth, labels

    def __len__(self) -> int:
        return len(self.truth)

    def ask(self, program: Program | None = None, rows: Integers | None = None) -> NDArray[np.int64]:
        """The answers to all sentences, or to some, under a program."""
        wanted = np.arange(len(self)) if rows is None else rows
        with nullcontext() if program is None else intervene(self.model, program):
            return self.reader(wanted)

    def right(self, answers: Integers, rows: Integers | None = None) -> NDArray[np.float64]:
        """1 where an answer is one of the sentence's labels, else 0; -1 never is."""
        truth = self.truth if rows is None else self.truth[rows]
        return np.where(answers < 0, False, truth[np.arange(len(truth)), answers]).astype(np.float64)

    def own(self, target: int) -> Integers:
        return np.flatnonzero(self.truth[:, target])

    def others(self, target: int) -> Integers:
        return np.flatnonzero(~self.truth[:, target])

    def accuracy(self, answers: Integers) -> dict[str, Any]:
        right = self.right(answers)
        per_label = {label: float(right[self.own(place)].mean()) for place, label in enumerate(self.labels)}
        return {"accuracy": float(right.mean()), "per_label": per_label}


class _Text:
    """Sentences as plain text, and their loss under a mask."""

    def __init__(self, model: Any, tokenizer: Any, sentences: Sequence[Sentence]) -> None:
        self.model = model
        self.read, self.tokens = text_loss(model, tokenizer, sentences)
        self.unmasked = self.read(np.arange(len(self.tokens)))

    def delta(self, program: Program, rows: Integers) -> float | None:
        """Change of the mean loss of a token of these sentences, in nats; None without tokens or when not finite."""
        tokens = int(self.tokens[rows].sum())
        if not tokens:
            return None
        with intervene(self.model, program):
            masked = self.read(rows)
        return _finite((float(masked.sum()) - float(self.unmasked[rows].sum())) / tokens)


# --- phase one: feedback on dev -----------------------------------------------------------------------------------


def _settle(one: _Candidates, dev: _Questions, unmasked: Integers, options: Options, step: _Steps) -> _Mask:
    """METHODS section 7.1-7.3: attenuate, look, and raise alpha and the share until the accuracy has dropped."""
    rows = dev.own(one.target)
    before = float(dev.right(unmasked[rows], rows).mean())
    trace: list[dict[str, Any]] = []
    rounds = options.rounds()
    accuracy = before
    stopped = CAPS_REACHED
    last: tuple[int, float] | None = None
    for alpha, share in rounds:
        masked = one.ranked.top(share)
        if (len(masked), alpha) != last:  # a larger share of few neurons may be as many
            answers = dev.ask(one.attenuated(masked, alpha), rows)
            accuracy = float(dev.right(answers, rows).mean())
        last = (len(masked), alpha)
        drop = before - accuracy
        trace.append(
            {"alpha": alpha, "share": share, "neurons": len(masked), "dev_accuracy": accuracy, "dev_drop": drop}
        )
        step()
        if drop >= options.min_drop - 1e-9:  # 0.65 - 0.60 is a little less than 0.05
            stopped = DROP_REACHED
            break
    step(len(rounds) - len(trace))
    return _Mask(masked, alpha, share, stopped, trace)


# --- phase two: report on test ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Report:
    """The test split of one task: METHODS section 7.4 for each of its labels.

    ``text`` is what the loss is taken on: all of it where it is ``neutral``, else the task's own sentences, of which
    those without the tested label count.
    """

    asked: _Questions
    unmasked: Integers
    text: _Text
    neutral: bool
    options: Options

    def label(self, one: _Candidates, mask: _Mask | None, step: _Steps) -> dict[str, Any]:
        own, others = self.asked.own(one.target), self.asked.others(one.target)
        before = self.asked.right(self.unmasked)
        result: dict[str, Any] = {
            "selected": len(one.ranked),
            "trace": [],
            "stopped": NOTHING_SELECTED,
            "alpha": 0.0,
            "share": 0.0,
            "masked": 0,
            "sites": {},
            "baseline": float(before[own].mean()),
            "sentences": len(own),
            "masks": {},
            "random": None,
            "beats_random": None,
        }
        if mask is None:
            return result
        # Of its own, so that a label's numbers do not depend on which others are tested.
        name = digest(one.ranked.task.encode(), one.label.encode())
        rng = np.random.default_rng([self.options.seed, int(name[:12], 16)])
        by_site = mask.neurons.by_site()
        programs = {
            "adaptive": one.attenuated(mask.neurons, mask.alpha),
            "zero": zero(mask.neurons),
            "mean": mean(mask.neurons, one.stats),
        }
        masks = {}
        for kind, program in programs.items():
            after = self.asked.right(self.asked.ask(program))
            masks[kind] = {
                "accuracy": float(after[own].mean()),
                **self._change(after - before, own, rng, "delta", "interval"),
                **self._change(after - before, others, rng, "others_delta", "others_interval"),
                "loss_delta": self.text.delta(program, np.arange(len(self.text.tokens)) if self.neutral else others),
            }
            step()
        random = self._random(one, mask.alpha, by_site, before, own, rng, step)
        result.update(
            trace=mask.trace,
            stopped=mask.stopped,
            alpha=mask.alpha,
            share=mask.share,
            masked=len(mask.neurons),
            sites={site: len(by_site[site]) for site in one.stats.sites if site in by_site},
            masks=masks,
            random=random,
            beats_random=None if random is None else masks["adaptive"]["delta"] < random["interval"][0],
        )
        return result

    def _change(
        self, differences: NDArray[np.float64], rows: Integers, rng: np.random.Generator, delta: str, interval: str
    ) -> dict[str, Any]:
        if not len(rows):
            return {delta: None, interval: None}
        found = differences[rows]
        low, high = bootstrap_interval(found, self.options.bootstrap, rng)
        return {delta: float(found.mean()), interval: [low, high]}

    def _random(
        self,
        one: _Candidates,
        alpha: float,
        by_site: Mapping[str, Integers],
        before: NDArray[np.float64],
        own: Integers,
        rng: np.random.Generator,
        step: _Steps,
    ) -> dict[str, Any] | None:
        """The same attenuation of random neurons; None where none are wanted or a site has too few others."""
        pool = one.pool()
        deltas = []
        for _ in range(self.options.random_sets):
            drawn = draw_matched(by_site, pool, rng)
            if drawn is None:
                step(self.options.random_sets)
                return None
            after = self.asked.right(self.asked.ask(one.attenuated(drawn, alpha), own), own)
            deltas.append(float((after - before[own]).mean()))
            step()
        if not deltas:
            return None
        low, high = np.quantile(deltas, (0.025, 0.975))
        return {
            "sets": len(deltas),
            "deltas": deltas,
            "mean": float(np.mean(deltas)),
            "interval": [float(low), float(high)],
        }


def _induction(
    model: Any,
    candidates: Sequence[_Candidates],
    asked: _Questions,
    unmasked: Integers,
    betas: Sequence[float],
    step: _Steps,
) -> dict[str, Any]:
    share: dict[str, list[float]] = {}
    baseline: dict[str, float] = {}
    for one in candidates:
        rows = asked.others(one.target)
        if not one.ranked or not len(rows):
            continue
        baseline[one.label] = float((unmasked[rows] == one.target).mean())
        share[one.label] = []
        for beta in betas:
            found = [baseline[one.label]]
            if beta:
                found = induction(model, one.ranked, one.measured, [beta], asked.reader, rows, one.target)
                step()
            share[one.label] += found
    return {"betas": [float(beta) for beta in betas], "share": share, "baseline": baseline}


# --- checks, sentences, provenance --------------------------------------------------------------------------------


class _Steps:
    """Progress in runs of the model: how many there are at most, and what counts them."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance, self._done = advance, 0

    def __call__(self, count: int = 1) -> None:
        self._done += count
        self._advance(self._done)

    @classmethod
    @contextmanager
    def of(cls, candidates: Mapping[str, Sequence[_Candidates]], options: Options, show: bool) -> Iterator[_Steps]:
        tested = sum(bool(one.ranked) for found in candidates.values() for one in found)
        runs = len(options.rounds()) + 3 + options.random_sets + sum(beta != 0 for beta in options.betas)
        with track("validating", tested * runs, show) as advance:
            yield cls(advance)


def _evaluator(evaluator: str | Evaluator, prompts: Mapping[str, str] | None, tasks: set[str]) -> Evaluator:
    if evaluator == LabelLikelihood.name:
        unknown = sorted(set(prompts or {}) - tasks)
        if unknown:
            raise InputError(f"prompts has task {unknown[0]!r}, expected {', '.join(sorted(tasks))}")
        return LabelLikelihood(prompts)
    if prompts is not None:
        raise InputError(f"prompts go with {LabelLikelihood.name!r}, and the evaluator is {evaluator!r}")
    if evaluator == LinearProbe.name:
        return LinearProbe()
    if isinstance(evaluator, str):
        raise InputError(f"evaluator is {evaluator!r}, expected {LabelLikelihood.name} or {LinearProbe.name}")
    return evaluator


def _check_model(model: Any, tokenizer: Any, neurons: NeuronSet, stats: ActivationStats) -> dict[str, str]:
    """The hashes of model, weights and tokenizer, which the neurons and the statistics must have too."""
    widths = {site.name: site.neurons for site in find_sites(model)}
    hashes = {
        "model_hash": config_hash(model),
        "weights": fingerprint(model),
        "tokenizer": tokenizer_hash(tokenizer),
    }
    for what, provenance in (("statistics", stats.provenance), ("neurons", neurons.provenance)):
        for field, value in hashes.items():
            found = provenance.get(field)
            if found is not None and found != value:
                raise InputError(f"the {what} are of another model: {field} is {found} there and {value} here")
    neurons.check(widths)
    if stats.widths != widths:
        for site in sorted({*widths, *stats.widths}):
            if widths.get(site) != stats.widths.get(site):
                there, here = stats.widths.get(site, "no"), widths.get(site, "none")
                raise InputError(
                    f"the statistics are of another model: {site} has {there} neurons there and {here} here"
                )
    return hashes


def _tasks(neurons: NeuronSet, corpus: Corpus, stats: ActivationStats, task: str | None) -> dict[str, tuple[str, ...]]:
    """The tasks to test, with the labels that have a list of neurons; known to corpus and statistics alike."""
    if task is not None and task not in neurons.tasks:
        raise InputError(f"task is {task!r}, expected one of the neurons' tasks: {', '.join(neurons.tasks)}")
    tasks = neurons.tasks if task is None else {task: neurons.tasks[task]}
    for name, labels in tasks.items():
        corpus.where(task=name)
        stats.task_rows(name)
        for label in labels:
            for where, task_of in ((corpus.name, corpus.task_of), ("the statistics", stats.task_of)):
                if label in task_of and task_of[label] != name:
                    raise InputError(
                        f"label {label!r} is of task {name!r} in the neurons and of {task_of[label]!r} in {where}"
                    )
            stats.rows(label)
    return tasks


def _sentences(corpus: Corpus, limit: int | None, seed: int) -> list[Sentence]:
    """The sentences of a view; under a limit, that many of each label at random, those that several chose once."""
    found = list(corpus)
    if limit is None:
        return found
    rng = np.random.default_rng(seed)
    kept: set[int] = set()
    for label in corpus.labels:
        own = [place for place, sentence in enumerate(found) if label in sentence.labels]
        kept.update(int(place) for place in rng.permutation(own)[:limit])
    return [found[place] for place in sorted(kept)]


def _provenance(
    model: Any, corpus: Corpus, neurons: NeuronSet, hashes: Mapping[str, str], splits: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "affectron": __version__,
        "model": Path(getattr(model, "name_or_path", "") or type(model).__name__).name,
        **hashes,
        "corpus": [corpus.hash],
        "corpus_name": corpus.name,
        "corpus_splits": {split: corpus.where(split=split).hash for split in splits.values()},
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "neurons": neurons.provenance,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def _fraction(name: str, value: float, zero_too: bool) -> None:
    if not (0 <= value <= 1) or (value == 0 and not zero_too):
        raise InputError(f"{name} is {value}, expected a number in {'[' if zero_too else '('}0, 1]")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
