"""Causal validation: do a label's neurons carry its prediction, and no other neurons as much?

Two phases, for all labels together: on the dev split the feedback loop settles each label's mask; only then is the
test split read, for the report. What the notes on the source leave open is an option here, and its default is ours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from affectron._internal.files import read_json, write_json
from affectron.corpus import Corpus
from affectron.errors import InputError
from affectron.evaluation.effects import Ranked, label_rng, measure
from affectron.evaluation.evaluators import Evaluator
from affectron.evaluation.exam import Exam, Questions, Steps, Text, fraction, whole_number
from affectron.experiments.results import read_validation
from affectron.interventions import mean, zero
from affectron.neurons import NeuronList, NeuronSet
from affectron.stats import ActivationStats

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

    def rows(self) -> list[dict[str, Any]]:
        """A row for each label, for a table: task, label, selected, masked, alpha, share, sentences, baseline, the
        changes of accuracy under each mask (adaptive, zero, mean, random, others; ``*_interval`` beside adaptive,
        random and others), loss, beats_random, verdict. None where not measured."""
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
                        "verdict": result["verdict"],
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
    """The numbers of the feedback loop and the report; :func:`validate` says what each means.

    Raises:
        InputError: one is out of its range.
    """

    alpha: float
    alpha_step: float
    alpha_cap: float
    share: float
    share_step: float
    share_cap: float
    min_drop: float
    random_sets: int
    bootstrap: int

    def __post_init__(self) -> None:
        for name in ("alpha", "share", "min_drop"):
            fraction(name, getattr(self, name))
        for name in ("alpha", "share"):
            fraction(f"{name}_step", getattr(self, f"{name}_step"), zero_too=True)
            fraction(f"{name}_cap", getattr(self, f"{name}_cap"))
            start, cap = getattr(self, name), getattr(self, f"{name}_cap")
            if start > cap:
                raise InputError(f"{name} is {start}, which is above {name}_cap, {cap}")
        whole_number("random_sets", self.random_sets, 0)
        whole_number("bootstrap", self.bootstrap, 1)

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
    seed: int = 0,
    limit: int | None = None,
    allow_overlap: bool = False,
    progress: bool = False,
) -> Validation:
    """Test each label's neurons by weakening them.

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
    changes; ``beats_random`` says that the adaptive mask's change is below all of it, and ``verdict`` is that of
    :func:`affectron.evaluation.effects.verdict` on the adaptive mask. ``loss_delta`` is the change of the mean loss of
    a token, in nats, on neutral text.

    With the same model, corpus and options the result is the same.

    Args:
        model: a causal language model; in evaluation mode meanwhile, and unchanged afterwards.
        tokenizer: its tokenizer.
        corpus: sentences with splits, not narrowed to one.
        neurons: what was selected. A label without neurons is listed as such and not tested.
        stats: statistics of the same model, which the masks are made from.
        evaluator: ``label_likelihood``, ``linear_probe``, or an object like those in affectron.evaluation.evaluators.
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
        seed: of random sets, resamples and the choice of sentences under ``limit``.
        limit: sentences of a label in a split at most, chosen at random; all when None.
        allow_overlap: test sentences of the dev and test split that were screened too, and state it in the result, in
            place of refusing them.
        progress: show a bar on stderr.

    Raises:
        InputError: an option out of its range, an unknown task, split or evaluator, a prompt without {text}, a label
            without a sentence in the dev or test split, statistics or neurons of another model, a neuron beyond the
            model, sentences of the dev or test split that were screened. All before the model is run.
    """
    options = Options(
        alpha, alpha_step, alpha_cap, share, share_step, share_cap, min_drop, random_sets, bootstrap
    )  # fmt: skip
    exam = Exam(
        model, tokenizer, corpus, evaluator=evaluator, prompts=prompts, dev=dev, test=test, train=train, limit=limit,
        seed=seed, allow_overlap=allow_overlap,
    )  # fmt: skip
    return validate_exam(exam, neurons, stats, options, task=task, neutral=neutral, progress=progress)


def validate_exam(
    exam: Exam,
    neurons: NeuronSet,
    stats: ActivationStats,
    options: Options,
    *,
    task: str | None = None,
    neutral: str | None = None,
    progress: bool = False,
) -> Validation:
    """:func:`validate` with an exam that other experiments share.

    Raises:
        InputError: as :func:`validate`.
    """
    tasks = exam.require(neurons, stats, task)
    corpus = exam.corpus
    if neutral is not None:
        corpus.where(split=exam.test).require([neutral])
    ranked = {
        name: [Ranked.of(neurons[label], corpus.tasks[name], stats) for label in labels]
        for name, labels in tasks.items()
    }
    tested = [one for found in ranked.values() for one in found if one.neurons]
    for one in tested:  # a mask that cannot be made shows now, not after hours of feedback
        one.attenuated(one.neurons, options.alpha)
        mean(one.neurons, stats)

    results: dict[str, Any] = {}
    runs = len(tested) * (len(options.rounds()) + 3 + options.random_sets)
    with exam.sitting("validating", runs, progress) as step:
        on_dev = {name: exam.questions(exam.dev, name) for name in tasks}
        masks: dict[str, _Mask] = {}
        for name in tasks:
            for one in ranked[name]:
                if one.neurons:
                    masks[one.label] = _settle(one, on_dev[name], options, step)
            results[name] = {
                "labels": list(corpus.tasks[name]),
                "dev_sentences": len(on_dev[name]),
                "baseline": {"dev": on_dev[name].accuracy(on_dev[name].unmasked)},
            }

        # Every mask is settled: from here on, and not before, the test split is read.
        text = None
        if neutral is not None:
            found = exam.sentences(exam.test, corpus.task_of[neutral])
            text = Text(exam.model, exam.tokenizer, [one for one in found if neutral in one.labels])
        for name in tasks:
            asked = exam.questions(exam.test, name)
            plain = text or exam.text(exam.test, name)
            results[name]["test_sentences"] = len(asked)
            results[name]["baseline"]["test"] = asked.accuracy(asked.unmasked)
            results[name]["results"] = {
                one.label: _report(one, masks.get(one.label), asked, plain, text is not None, options, exam.seed, step)
                for one in ranked[name]
            }
    return Validation(
        {
            "format": FORMAT,
            "version": VERSION,
            "provenance": exam.provenance(neurons),
            "options": {**exam.options(tasks), **asdict(options), "neutral": neutral},
            "tasks": results,
        }
    )


@dataclass(frozen=True)
class _Mask:
    """What the feedback loop has settled on, and how it came to it."""

    neurons: NeuronList
    alpha: float
    share: float
    stopped: str
    trace: list[dict[str, Any]]


def _settle(one: Ranked, dev: Questions, options: Options, step: Steps) -> _Mask:
    """Attenuate, look, and raise alpha and the share until the accuracy has dropped."""
    rows = dev.own(one.target)
    before = float(dev.right(dev.unmasked[rows], rows).mean())
    trace: list[dict[str, Any]] = []
    rounds = options.rounds()
    accuracy = before
    stopped = CAPS_REACHED
    last: tuple[int, float] | None = None
    for alpha, share in rounds:
        masked = one.neurons.top(share)
        if (len(masked), alpha) != last:  # a larger share of few neurons may be as many
            answers = dev.ask([one.attenuated(masked, alpha)], rows)
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


def _report(
    one: Ranked,
    mask: _Mask | None,
    asked: Questions,
    text: Text,
    neutral: bool,
    options: Options,
    seed: int,
    step: Steps,
) -> dict[str, Any]:
    """The masks of one label on the test split. The loss is taken on all of ``text`` where it is ``neutral``, else it
    is the task's own sentences, of which those without the label count."""
    own = asked.own(one.target)
    result: dict[str, Any] = {
        "selected": len(one.neurons),
        "trace": [],
        "stopped": NOTHING_SELECTED,
        "alpha": 0.0,
        "share": 0.0,
        "masked": 0,
        "sites": {},
        "baseline": float(asked.right(asked.unmasked)[own].mean()),
        "sentences": len(own),
        "masks": {},
        "random": None,
        "beats_random": None,
        "verdict": None,
    }
    if mask is None:
        return result
    rng = label_rng(seed, one.neurons.task, one.label)
    by_site = mask.neurons.by_site()
    programs = {
        "adaptive": one.attenuated(mask.neurons, mask.alpha),
        "zero": zero(mask.neurons),
        "mean": mean(mask.neurons, one.stats),
    }
    drawn = one.random_sets(mask.neurons, options.random_sets, rng)
    controls = {"adaptive": [one.attenuated(members, mask.alpha) for members in drawn]}
    masks = measure(asked, one.target, programs, controls, options.bootstrap, rng)
    step(options.random_sets)
    losses = text.deltas(list(programs.values()), None if neutral else asked.others(one.target))
    step(len(programs))
    adaptive = masks["adaptive"]
    judged = {key: adaptive[key] for key in ("random", "beats_random", "verdict")}
    for found, loss in zip(masks.values(), losses, strict=True):
        found["loss_delta"] = loss
        for key in judged:
            del found[key]
    result.update(
        trace=mask.trace,
        stopped=mask.stopped,
        alpha=mask.alpha,
        share=mask.share,
        masked=len(mask.neurons),
        sites={site: len(by_site[site]) for site in one.stats.sites if site in by_site},
        masks=masks,
        **judged,
    )
    return result
