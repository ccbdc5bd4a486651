"""Causal validation: the effect of weakening each label's neurons, against other masks and random neurons.

It has two phases, for all labels together: on the dev split the feedback loop settles each label's mask; only then is
the test split read, and reported. Choices that the notes on the source leave open are options with our own defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from affectron._internal.options import documented
from affectron.corpus import Corpus
from affectron.evaluation.effects import Neurons, Ranked, Trial, measure_effects
from affectron.evaluation.evaluators import Evaluator
from affectron.evaluation.exam import Exam, Questions, Steps, Text
from affectron.evaluation.resampling import label_rng
from affectron.experiments.results import MASKS, Accuracy, LabelResult, Mask, Round, TaskResult, Validation
from affectron.interventions import Program, zero
from affectron.neurons import NeuronList, NeuronSet
from affectron.options import Common, Evaluate, Validate
from affectron.stats import ActivationStats

DROP_REACHED, CAPS_REACHED, NOTHING_SELECTED = "drop reached", "caps reached", "no neuron selected"


@documented(Evaluate, Validate)
def validate(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    neurons: NeuronSet,
    stats: ActivationStats,
    *,
    evaluator: str | Evaluator = Evaluate.evaluator,
    prompts: Mapping[str, str] | None = None,
    task: str | None = None,
    dev: str = Evaluate.dev,
    test: str = Evaluate.test,
    train: str = Evaluate.train,
    neutral: str | None = Validate.neutral,
    reference: Sequence[str] = Validate.reference,
    alpha: float = Validate.alpha,
    alpha_step: float = Validate.alpha_step,
    alpha_cap: float = Validate.alpha_cap,
    share: float = Validate.share,
    share_step: float = Validate.share_step,
    share_cap: float = Validate.share_cap,
    min_drop: float = Validate.min_drop,
    random_sets: int = Validate.random_sets,
    bootstrap: int = Validate.bootstrap,
    seed: int = Common.seed,
    limit: int | None = Evaluate.limit,
    where: str = Evaluate.where,
    allow_overlap: bool = Common.allow_overlap,
    progress: bool = False,
) -> Validation:
    """Test each label's neurons by weakening them.

    For each label, the best ``share`` of its neurons is attenuated by ``alpha``, each token by its own activation
    relative to the ``reference``. The best are those of highest ``differential`` score where the neurons were selected
    from statistics of activations; otherwise, as for neurons selected by attribution, the first of the selection.
    While the accuracy on the label's own dev sentences has not dropped by ``min_drop``, alpha and share are raised by
    their steps, up to their caps; with several references, the loop then begins again with the next one. This adaptive
    mask is reported on the test split, beside a zero mask and a mean mask of the same neurons. Each mask has
    ``random_sets`` sets of as many neurons at each site, drawn without replacement from all that were not selected for
    the label. They are the same sets for all masks, treated as the mask treats the label's neurons: attenuated by the
    same alpha relative to their own activations under the label, set to zero, or to their own means.

    A sentence is answered right when the answer is one of its labels of the task; the answers to choose from are all
    labels of the task in the corpus. Each change of accuracy is taken over the same sentences with and without the
    mask: on the label's own (``delta``) and on the task's others (``others_delta``), with a 95 % percentile interval
    over ``bootstrap`` resamples of the sentences. The interval of the random sets holds the middle 95 % of their
    changes; ``beats_random`` says that the mask's change is below all of it, and ``verdict`` is that of
    :func:`affectron.evaluation.verdicts.verdict`. ``loss_delta`` is the change of the mean loss of a token, in nats, on
    neutral text.

    With the same model, corpus and options the result is the same.

    Args:
        model: a causal language model; it is in evaluation mode meanwhile, and unchanged afterwards.
        tokenizer: its tokenizer.
        corpus: sentences with splits, not narrowed to one.
        neurons: what was selected. A label without neurons is listed as such and not tested.
        stats: statistics of the same model, which the masks are made from.
        task: test this task only; all tasks of ``neurons`` when None.
        seed: of random sets, resamples and the choice of sentences under ``limit``.
        {options}
        allow_overlap: test sentences of the dev and test split that were screened too, and state it in the result, in
            place of refusing them.
        progress: show a bar on stderr.

    Raises:
        InputError: an option out of its range, an unknown task, split or evaluator, a prompt without {text}, a label
            without a sentence in the dev or test split, statistics or neurons of another model, a neuron beyond the
            model, sentences of the dev or test split that were screened. All before the model is run.
    """
    options = Validate(
        tuple(reference), alpha, alpha_step, alpha_cap, share, share_step, share_cap, min_drop, random_sets, bootstrap,
        neutral,
    )  # fmt: skip
    exam = Exam(
        model, tokenizer, corpus, evaluator=evaluator, prompts=prompts, dev=dev, test=test, train=train, limit=limit,
        where=where, seed=seed, allow_overlap=allow_overlap,
    )  # fmt: skip
    return validate_exam(exam, neurons, stats, options, task=task, progress=progress)


def validate_exam(
    exam: Exam,
    neurons: NeuronSet,
    stats: ActivationStats,
    options: Validate,
    *,
    task: str | None = None,
    progress: bool = False,
) -> Validation:
    """:func:`validate` with an exam that other experiments share.

    Raises:
        InputError: as :func:`validate`.
    """
    tasks = exam.require(neurons, stats, task)
    corpus, neutral = exam.corpus, options.neutral
    if neutral is not None:
        corpus.where(split=exam.test).require([neutral])
    every = list(Ranked.each(exam, neurons, stats, tasks))
    tested = [ranked for ranked in every if ranked.neurons]
    for ranked in tested:  # a mask that cannot be made shows now, not after hours of feedback
        for magnitude in options.reference:
            ranked.attenuated(ranked.neurons, options.alpha, magnitude)
        ranked.averaged(ranked.neurons)

    runs = len(tested) * (len(options.rounds()) + len(MASKS) * (1 + options.random_sets))
    with exam.sitting("validating", runs, progress) as step:
        dev = {name: exam.questions(exam.dev, name) for name in tasks}
        settled = {ranked.label: _settle(ranked, dev[ranked.task], options, step) for ranked in tested}
        before = {name: Accuracy(**questions.accuracy(questions.unmasked)) for name, questions in dev.items()}

        # Every mask is settled: from here on, and not before, the test split is read.
        text = None
        if neutral is not None:
            sentences = exam.sentences(exam.test, corpus.task_of[neutral])
            text = exam.text_of([sentence for sentence in sentences if neutral in sentence.labels])
        results: dict[str, TaskResult] = {}
        for name in tasks:
            test = exam.questions(exam.test, name)
            split = _TestSplit(test, text or exam.text(exam.test, name), text is not None, options, exam.seed)
            results[name] = TaskResult(
                labels=tuple(corpus.tasks[name]),
                dev_sentences=len(dev[name]),
                baseline={"dev": before[name], "test": Accuracy(**test.accuracy(test.unmasked))},
                test_sentences=len(test),
                results={
                    ranked.label: split.report(ranked, settled.get(ranked.label), step)
                    for ranked in every
                    if ranked.task == name
                },
            )
    given = {**exam.options(tasks), **options.values(), "reference": list(options.reference)}
    return Validation(exam.provenance(neurons), given, results)


@dataclass(frozen=True)
class _Settled:
    """The mask that the feedback loop has settled on, with its rounds."""

    neurons: NeuronList
    reference: str
    alpha: float
    share: float
    stopped: str
    trace: tuple[Round, ...]


def _settle(ranked: Ranked, dev: Questions, options: Validate, step: Steps) -> _Settled:
    """Attenuate the label's neurons and raise alpha and the share until the accuracy on dev has dropped."""
    rows = dev.own(ranked.target)
    before = float(dev.right(dev.unmasked[rows], rows).mean())
    trace: list[Round] = []
    rounds = options.rounds()
    accuracy = before
    stopped = CAPS_REACHED
    last: tuple[int, str, float] | None = None
    for reference, alpha, share in rounds:
        masked = ranked.neurons.top(share)
        if (len(masked), reference, alpha) != last:  # a larger share of few neurons may be as many
            program = ranked.attenuated(masked, alpha, reference)
            accuracy = float(dev.right(dev.ask([program], rows), rows).mean())
            change = ranked.relative_change(program)
        last = (len(masked), reference, alpha)
        drop = before - accuracy
        trace.append(Round(reference, alpha, share, len(masked), accuracy, drop, change))
        step()
        if drop >= options.min_drop - 1e-9:  # 0.65 - 0.60 is a little less than 0.05
            stopped = DROP_REACHED
            break
    step(len(rounds) - len(trace))
    return _Settled(masked, reference, alpha, share, stopped, tuple(trace))


@dataclass(frozen=True)
class _TestSplit:
    """The test split of one task, on which the settled masks are reported.

    The loss is taken on all of ``text`` where it is ``neutral``; otherwise ``text`` is the task's own sentences, and
    those without the label count.
    """

    test: Questions
    text: Text
    neutral: bool
    options: Validate
    seed: int

    def report(self, ranked: Ranked, settled: _Settled | None, step: Steps) -> LabelResult:
        """Report one label; without a settled mask it is listed and not tested."""
        own = self.test.own(ranked.target)
        untested = LabelResult(
            selected=len(ranked.neurons),
            trace=(),
            stopped=NOTHING_SELECTED,
            reference=None,
            alpha=0.0,
            share=0.0,
            masked=0,
            sites={},
            baseline=float(self.test.right(self.test.unmasked)[own].mean()),
            sentences=len(own),
            masks={},
        )
        if settled is None:
            return untested
        by_site = settled.neurons.by_site()
        return replace(
            untested,
            trace=settled.trace,
            stopped=settled.stopped,
            reference=settled.reference,
            alpha=settled.alpha,
            share=settled.share,
            masked=len(settled.neurons),
            sites={site: len(by_site[site]) for site in ranked.stats.sites if site in by_site},
            masks=self._masks(ranked, settled, step),
        )

    def _masks(self, ranked: Ranked, settled: _Settled, step: Steps) -> dict[str, Mask]:
        """Name -> effect and change of loss of each mask."""
        rng = label_rng(self.seed, ranked.task, ranked.label)
        drawn = ranked.random_sets(settled.neurons, self.options.random_sets, rng)
        treatments: dict[str, Callable[[Neurons], Program]] = {
            "adaptive": partial(ranked.attenuated, alpha=settled.alpha, reference=settled.reference),
            "zero": zero,
            "mean": ranked.averaged,
        }
        trials = {name: Trial.of(treat, settled.neurons, drawn) for name, treat in treatments.items()}
        effects = measure_effects(self.test, ranked.target, trials, self.options.bootstrap, rng)
        step(len(trials) * self.options.random_sets)
        programs = [trial.program for trial in trials.values()]
        losses = self.text.deltas(programs, None if self.neutral else self.test.others(ranked.target))
        step(len(programs))
        return {
            name: Mask(**vars(effect), loss_delta=loss)
            for (name, effect), loss in zip(effects.items(), losses, strict=True)
        }
