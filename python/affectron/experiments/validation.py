"""Causal validation: the effect of weakening each label's neurons, against other masks and random neurons.

It has two phases, for all labels together: on the dev split the feedback loop settles each label's mask; only then is
the test split read, and reported. Choices that the notes on the source leave open are options with our own defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from affectron._internal.arguments import checked_arguments
from affectron._internal.options import documented
from affectron.corpus import Corpus
from affectron.evaluation.effects import Neurons, Ranked, Trial, measure_effects, most_sets
from affectron.evaluation.evaluators import Evaluator
from affectron.evaluation.exam import Exam, Questions, Steps, Text
from affectron.evaluation.resampling import label_rng
from affectron.evaluation.verdicts import Effect
from affectron.experiments.results import MASKS, Accuracy, LabelResult, Mask, Round, TaskResult, Validation
from affectron.interventions import Program, zero
from affectron.neurons import NeuronList, NeuronSet
from affectron.options import Common, Controls, Evaluate, Validate
from affectron.stats import ActivationStats

DROP_REACHED, CAPS_REACHED, NOTHING_SELECTED = "drop reached", "caps reached", "no neuron selected"


@checked_arguments
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
    calibrate: str = Evaluate.calibrate,
    task: str | None = None,
    dev: str = Evaluate.dev,
    test: str = Evaluate.test,
    train: str = Evaluate.train,
    neutral: str | None = Validate.neutral,
    reference: str | Sequence[str] = Validate.reference,
    alpha: float = Validate.alpha,
    alpha_step: float = Validate.alpha_step,
    alpha_cap: float = Validate.alpha_cap,
    share: float = Validate.share,
    share_step: float = Validate.share_step,
    share_cap: float = Validate.share_cap,
    min_drop: float = Validate.min_drop,
    random_sets: int | None = Validate.random_sets,
    smallest_effect: float = Validate.smallest_effect,
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
    mask is reported on the test split, beside a zero mask and a mean mask of the same neurons.

    Each mask has random sets: as many neurons at each site, of similar activity under the label, drawn from all that
    were not selected for it. They are the same sets for all masks, treated as the mask treats the label's neurons:
    attenuated in the same way by the label's own statistics, set to zero, or to their own means. Ten sets are drawn;
    more, up to ``random_sets``, where the verdict depends on them.

    A sentence is answered right when the answer is one of its labels of the task; the answers to choose from are all
    labels of the task in the corpus. Each change of accuracy is taken over the same sentences with and without the
    mask: on the label's own (``delta``) and on the task's others (``others_delta``), with intervals and tests that are
    described in :class:`affectron.evaluation.verdicts.Effect`. Each mask is judged by itself, its p values adjusted
    over all labels; the rule is :data:`affectron.evaluation.verdicts.RULE`. ``loss_delta`` is the change of the mean
    loss of a token, in nats, on neutral text.

    With the same model, corpus and options the result is the same.

    Args:
        model: a causal language model; it is in evaluation mode meanwhile, and unchanged afterwards.
        tokenizer: its tokenizer.
        corpus: sentences with splits, not narrowed to one.
        neurons: what was selected. A label without neurons is listed as such and not tested.
        stats: statistics of the same model, which the masks are made from.
        task: test this task only; all tasks of ``neurons`` when None.
        seed: of random sets and the choice of sentences under ``limit``.
        {options}
        allow_overlap: test sentences of the dev and test split that were screened too, and state it in the result, in
            place of refusing them.
        progress: show a bar on stderr.

    Raises:
        InputError: an option out of its range, an unknown task, split or evaluator, a prompt without {text}, a label
            without a sentence in the dev or test split, statistics or neurons of another model, a neuron beyond the
            model, sentences of the dev or test split that were screened. All before the model is run.
    """
    references = (reference,) if isinstance(reference, str) else tuple(reference)
    options = Validate(
        references, alpha, alpha_step, alpha_cap, share, share_step, share_cap, min_drop, random_sets, smallest_effect,
        neutral,
    )  # fmt: skip
    exam = Exam(
        model, tokenizer, corpus, evaluator=evaluator, prompts=prompts, calibrate=calibrate, dev=dev, test=test,
        train=train, limit=limit, where=where, seed=seed, allow_overlap=allow_overlap,
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

    masks = len(MASKS) * (2 + most_sets(options.random_sets, len(tested)))
    runs = len(tested) * (len(options.rounds()) + masks)
    with exam.sitting("validating", runs, progress) as step:
        dev = {name: exam.questions(exam.dev, name) for name in tasks}
        settled = {ranked.label: _settle(ranked, dev[ranked.task], options, step) for ranked in tested}
        before = {name: Accuracy(**questions.accuracy(questions.unmasked)) for name, questions in dev.items()}

        # Every mask is settled: from here on, and not before, the test split is read.
        text = None
        if neutral is not None:
            sentences = exam.sentences(exam.test, corpus.task_of[neutral])
            text = exam.text_of([sentence for sentence in sentences if neutral in sentence.labels])
        trials = _trials(tested, settled, options, exam.seed)
        effects = measure_effects(exam, trials, Controls(options.random_sets, options.smallest_effect), step)
        results: dict[str, TaskResult] = {}
        for name in tasks:
            test = exam.questions(exam.test, name)
            split = _TestSplit(test, text or exam.text(exam.test, name), text is not None)
            results[name] = TaskResult(
                labels=tuple(corpus.tasks[name]),
                dev_sentences=len(dev[name]),
                baseline={"dev": before[name], "test": Accuracy(**test.accuracy(test.unmasked))},
                test_sentences=len(test),
                results={
                    ranked.label: split.report(ranked, settled.get(ranked.label), trials, effects, step)
                    for ranked in every
                    if ranked.task == name
                },
            )
    given = {**exam.options(tasks), **options.values(), "reference": list(options.reference)}
    return Validation(exam.provenance(neurons), given, results)


def _trials(
    tested: Sequence[Ranked], settled: Mapping[str, _Settled], options: Validate, seed: int
) -> dict[tuple[str, str], Trial]:
    """(mask, label) -> trial of the settled neurons; the masks of a label have the same random sets."""
    most = most_sets(options.random_sets, len(tested))
    trials: dict[tuple[str, str], Trial] = {}
    for ranked in tested:
        mask = settled[ranked.label]
        treatments: dict[str, Callable[[Neurons], Program]] = {
            "adaptive": partial(ranked.attenuated, alpha=mask.alpha, reference=mask.reference),
            "zero": zero,
            "mean": ranked.averaged,
        }
        draws = ranked.draw(mask.neurons, most, label_rng(seed, ranked.task, ranked.label))
        trials |= {
            (name, ranked.label): Trial(ranked, mask.neurons, treat, draws) for name, treat in treatments.items()
        }
    return trials


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

    def report(
        self,
        ranked: Ranked,
        settled: _Settled | None,
        trials: Mapping[tuple[str, str], Trial],
        effects: Mapping[tuple[str, str], Effect],
        step: Steps,
    ) -> LabelResult:
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
        programs = [trials[name, ranked.label].program for name in MASKS]
        losses = self.text.deltas(programs, None if self.neutral else self.test.others(ranked.target))
        step(len(programs))
        return replace(
            untested,
            trace=settled.trace,
            stopped=settled.stopped,
            reference=settled.reference,
            alpha=settled.alpha,
            share=settled.share,
            masked=len(settled.neurons),
            sites={site: len(by_site[site]) for site in ranked.stats.sites if site in by_site},
            masks={
                name: Mask(**vars(effects[name, ranked.label]), loss_delta=loss)
                for name, loss in zip(MASKS, losses, strict=True)
            },
        )
