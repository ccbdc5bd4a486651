"""Generation: what a judge says of texts under a label's program, beside other ways to steer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from affectron._internal.arguments import checked_arguments
from affectron._internal.files import read_text
from affectron._internal.wording import count
from affectron.corpus import Sentence
from affectron.errors import InputError
from affectron.evaluation.batched import AS_IT_IS, output_layer, token_loss
from affectron.evaluation.divergence import Divergence
from affectron.evaluation.effects import Ranked
from affectron.evaluation.exam import Exam, Steps
from affectron.evaluation.intervals import Paired, holm, share_interval
from affectron.evaluation.judge import WordJudge, distinct_pairs, overused, words
from affectron.evaluation.resampling import label_rng
from affectron.experiments.doses import dose_curve, neutral_text, strongest
from affectron.experiments.results import (
    ExamOptions,
    Generation,
    GenerationOptions,
    Judge,
    MethodGeneration,
    Score,
    Setting,
    TaskGeneration,
    Versus,
    WrittenText,
)
from affectron.generation import decoded, prompt_ids, write
from affectron.interventions import Neurons, Program, contrast, residual
from affectron.neurons import NeuronSet
from affectron.options import Generate
from affectron.selection import select
from affectron.stats import ActivationStats

UNSTEERED, NEURONS, RANDOM, RESIDUAL, PROMPT = "unsteered", "neurons", "random", "residual", "prompt"
#: Layers to choose from by default.
TRIED_LAYERS = 5
#: Words that a method's texts are judged without.
_WORDS = 5
#: Least share of distinct pairs of words, in that of the unsteered texts: repetition lowers a loss.
LEAST_DISTINCT = 0.85

Make = Callable[[float], Program]
Tokens = list[int]


@checked_arguments
def compare_texts(
    exam: Exam,
    stats: ActivationStats,
    gradients: ActivationStats,
    layers: ActivationStats,
    options: Generate | None = None,
    *,
    progress: bool = False,
) -> Generation:
    """Write texts for each label under the contrast of its neurons, and in other ways, and let judges name their label.

    The methods: ``neurons``, the contrast (:func:`affectron.contrast`) of a share of all neurons by text attribution;
    ``random``, the same at random neurons of the same sites and of similar activity; ``residual``, the difference of
    means at a layer's output (:func:`affectron.residual`); ``prompt``, an instruction; ``unsteered``. All use the same
    beginnings with the same random numbers.

    On dev, doses are the strongest within each of the budgets (:func:`affectron.experiments.doses.dose_curve`): the
    divergence of the next token from the unsteered model's, on neutral text, that of other labels.
    Of the doses (and layers) whose texts raise the unsteered model's loss by at most ``most_rise``, and have at least
    0.85 times the share of distinct pairs of words that its own texts have, the one whose texts the judge gives to the
    label most often is reported, on the beginnings of test; if there is none, the one of the smallest rise.

    The judge is a classifier of words fitted on train (:class:`~affectron.evaluation.judge.WordJudge`); it reads the
    continuation alone. The second judge is the exam's evaluator on the unsteered model.

    Args:
        exam: the model, the corpus and the evaluator.
        stats: statistics of activations.
        gradients: attributions of the metric ``text``.
        layers: statistics of the layers' outputs, of ``screen`` with ``at="layers"``.
        options: options of the generation.
        progress: show a bar on stderr.

    Raises:
        InputError: a model that writes no text, statistics of another kind or model, a layer that it does not have, too
            few beginnings, or as :meth:`Exam.require`.
    """
    options = options or Generate()
    output_layer(exam.model)
    selected = {share: select(gradients, options.task, top=share, activations=stats) for share in options.shares}
    tasks = exam.require(next(iter(selected.values())), stats, options.task)
    exam.check_model("statistics of layers", layers.provenance)
    sites, instruction = _layers(layers, options), _instruction(exam.tokenizer, options.instruction)
    found: dict[str, TaskGeneration] = {}
    runs = texts_of(options, tasks, len(sites))
    with exam.sitting("writing", runs, progress) as step:
        for name, labels in tasks.items():
            of_task = _Task(exam, name, options, instruction, step)
            found[name] = of_task.result(
                {label: of_task.compare(label, _ways(exam, label, stats, selected, layers, sites)) for label in labels}
            )
    recorded = GenerationOptions(
        ExamOptions.of(exam.options(tasks)), options.shares, options.budgets, options.most_rise, tuple(sites),
        instruction, options.tried, options.count, options.texts, options.max_new_tokens, options.stop,
        options.temperature,
    )  # fmt: skip
    return Generation(exam.provenance(next(iter(selected.values()))), recorded, found)


def _layers(layers: ActivationStats, options: Generate) -> list[str]:
    """The sites of the residual stream to choose from."""
    depth = len(layers.sites)
    numbers = options.layers
    if numbers is None:
        numbers = tuple(sorted({round(part * (depth - 1)) for part in np.linspace(0.3, 0.8, TRIED_LAYERS)}))
    beyond = [number for number in numbers if number >= depth]
    if beyond:
        raise InputError(f"layers has {beyond[0]}, expected numbers below {depth}, the layers of the statistics")
    return [layers.sites[number] for number in numbers]


def texts_of(options: Generate, tasks: Mapping[str, Sequence[str]], layers: int) -> int:
    """About how many texts are written for the labels of these tasks."""
    dosed = 2 * len(options.shares)
    doses = len(options.budgets) * (dosed + layers) + 1
    on_dev, on_test = options.tried, options.count * options.texts
    return sum(
        on_dev * (1 + len(labels) * doses) + on_test * (1 + len(labels) * (dosed + 2)) for labels in tasks.values()
    )


def _instruction(tokenizer: Any, given: str | None) -> str:
    """Return the instruction of the method ``prompt``: as given, or in words, in the chat template if there is one
    that keeps them. The answer in a chat begins with the beginning."""
    if given is not None:
        return given
    asked = "Write a short text that expresses {label}."
    if getattr(tokenizer, "chat_template", None):
        turn = [{"role": "user", "content": asked}]
        prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        if isinstance(prompt, str) and prompt.count("{label}") == 1:
            return f"{prompt}{{text}}"
    return "A text that expresses {label}:\n{text}"


@dataclass(frozen=True)
class _Way:
    """A method of a label with a dose, at one place.

    Attributes:
        method: its name.
        make: the program of a strength.
        neurons: number of neurons that are shifted; None for the residual stream.
        layer: the site of the residual stream; None for neurons.
    """

    method: str
    make: Make
    neurons: int | None = None
    layer: str | None = None


def _ways(
    exam: Exam, label: str, stats: ActivationStats, selected: Mapping[float, NeuronSet], layers: ActivationStats,
    sites: Sequence[str],
) -> Iterator[_Way]:  # fmt: skip
    """The methods of a label that have a dose."""
    for share, lists in selected.items():
        neurons, percent = lists[label], f"{100 * share:.3g} %"
        yield _Way(f"{NEURONS} {percent}", partial(_contrast, neurons, stats, label), len(neurons))
        ranked = Ranked(label, exam.corpus.tasks[neurons.task].index(label), neurons, stats, exam)
        draws = ranked.draw(neurons, 1, label_rng(exam.seed, neurons.task, label))
        if draws:
            yield _Way(f"{RANDOM} {percent}", partial(_contrast, draws[0], stats, label), len(neurons))
    for site in sites:
        yield _Way(RESIDUAL, partial(residual, layers, site, label), layer=site)


def _contrast(neurons: Neurons, stats: ActivationStats, label: str, beta: float) -> Program:
    return contrast(neurons, stats, beta, label)


@dataclass(frozen=True)
class _Beginnings:
    """Beginnings of texts: each with its tokens as often as it has texts, and a seed for each text."""

    texts: tuple[str, ...]
    ids: list[Tokens]
    seeds: list[int]


@dataclass(frozen=True)
class _Plain:
    """Texts of the unsteered model for beginnings, and its mean loss of a token of them, in nats."""

    beginnings: _Beginnings
    tokens: list[Tokens]
    texts: list[str]
    loss: float


class _Task:
    """The judges and beginnings of a task, and what is written for it.

    Args:
        exam: the exam.
        task: the task.
        options: options of the generation.
        instruction: what the method ``prompt`` puts before a beginning.
        step: told of written texts.
    """

    def __init__(self, exam: Exam, task: str, options: Generate, instruction: str, step: Steps) -> None:
        self.exam, self.task, self.options, self.instruction, self.step = exam, task, options, instruction, step
        self.labels = exam.corpus.tasks[task]
        train, dev = (list(exam.corpus.where(split=split, task=task)) for split in (exam.train, exam.dev))
        self.judge = WordJudge(train, dev, self.labels)
        self.questions = exam.questions(exam.test, task)  # an evaluator that learns is fitted now
        self.dev, self.test = (self._plain(split) for split in (exam.dev, exam.test))

    # --- texts --------------------------------------------------------------------------------------------------

    def _plain(self, split: str) -> _Plain:
        beginnings = self._beginnings(split)
        (tokens,) = self._write(beginnings, [None])
        return _Plain(beginnings, tokens, decoded(self.exam.tokenizer, tokens), *self._losses(beginnings, [tokens]))

    def _beginnings(self, split: str) -> _Beginnings:
        """The beginnings of a split, in random order, at most as many as are wanted."""
        options, test = self.options, split == self.exam.test
        if options.beginnings is not None:
            lines = [line.strip() for line in read_text(options.beginnings).splitlines() if line.strip()]
            texts, source = lines[test::2], str(options.beginnings)
        else:
            sentences = self.exam.corpus.where(split=split, task=self.task)
            cut = (sentence.text.split() for sentence in sentences)
            texts = [" ".join(parts[: options.words]) for parts in cut if len(parts) > options.words]
            source = f"split {split!r} of task {self.task!r}"
        texts = list(dict.fromkeys(texts))
        if len(texts) < 2:
            raise InputError(f"{source} has {count(len(texts), 'beginning')} of a text, expected two at least")
        rng = np.random.default_rng(self.exam.seed)
        wanted, times = (options.count, options.texts) if test else (options.tried, 1)
        chosen = tuple(texts[int(row)] for row in rng.permutation(len(texts))[:wanted])
        ids = [prompt_ids(self.exam.model, self.exam.tokenizer, text) for text in chosen for _ in range(times)]
        return _Beginnings(chosen, ids, rng.integers(2**32, size=len(ids)).tolist())

    def _write(
        self, beginnings: _Beginnings, programs: Sequence[Program | None], ids: list[Tokens] | None = None
    ) -> list[list[Tokens]]:
        """The tokens of each program's texts, from the beginnings or from other prompts in their place."""
        options = self.options
        texts = write(
            self.exam.model,
            self.exam.tokenizer,
            ids or beginnings.ids,
            programs,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            seeds=beginnings.seeds,
            advance=self.step,
        )
        return [[self._stopped(text) for text in of_program] for of_program in texts]

    def _stopped(self, tokens: Tokens) -> Tokens:
        """The tokens of a text before the first that brings its end."""
        stop, tokenizer = self.options.stop, self.exam.tokenizer
        if stop is None or stop not in tokenizer.decode(tokens):
            return tokens
        return tokens[: next(n for n in range(len(tokens)) if stop in tokenizer.decode(tokens[: n + 1]))]

    def _losses(self, beginnings: _Beginnings, written: Sequence[list[Tokens]]) -> list[float]:
        """The unsteered model's mean loss of a token of each program's texts, after their beginnings; 0 where there is
        no token."""
        rows = [
            ([*before, *text], [False] * len(before) + [True] * len(text))
            for tokens in written
            for before, text in zip(beginnings.ids, tokens, strict=True)
        ]
        loss, counted = token_loss(self.exam.model, rows)
        summed = loss(np.arange(len(rows)), AS_IT_IS)[0].reshape(len(written), -1).sum(axis=1)
        means: list[float] = (summed / np.maximum(counted.reshape(len(written), -1).sum(axis=1), 1)).tolist()
        return means

    # --- what is said of them -----------------------------------------------------------------------------------

    def _hits(self, texts: Sequence[str], label: str) -> NDArray[np.float64]:
        """1 for each text that the judge gives to the label, else 0."""
        return np.array([judged == label for judged in self.judge(texts)], dtype=np.float64)

    def _scores(self, plain: _Plain, label: str, written: Sequence[list[Tokens]]) -> list[Score]:
        """The score of each program's texts."""
        texts = [decoded(self.exam.tokenizer, tokens) for tokens in written]
        return [
            Score(float(self._hits(of_program, label).mean()), loss - plain.loss, distinct_pairs(of_program))
            for of_program, loss in zip(texts, self._losses(plain.beginnings, written), strict=True)
        ]

    def _second(self, texts: Sequence[str], label: str) -> float:
        """The share of texts that the second judge gives to the label."""
        sentences = [Sentence(text, (label,), None, str(number)) for number, text in enumerate(texts)]
        exam, labels = self.exam, self.labels
        classifier = exam.evaluator.classifier(exam.model, exam.tokenizer, sentences, self.task, labels)
        return float((classifier(np.arange(len(texts)))[0] == labels.index(label)).mean())

    def compare(self, label: str, ways: Iterable[_Way]) -> dict[str, MethodGeneration]:
        """The texts of every method for a label."""
        tried = self._tried(label, ways)
        places = {method: self._chosen([setting for _, setting in of_method]) for method, of_method in tried.items()}
        reported = {method: tried[method][place] for method, place in places.items()}
        programs = [way.make(setting.beta or 0.0) for way, setting in reported.values()]
        texts = dict(zip(reported, self._write(self.test.beginnings, programs), strict=True))
        found = {UNSTEERED: self._reported(label, self.test.tokens, [self._plain_setting(label, self.dev.tokens)])}
        for method, (way, _) in reported.items():
            settings = [setting for _, setting in tried[method]]
            found[method] = self._reported(label, texts[method], settings, places[method], way.neurons)
        (on_dev,), (on_test,) = (
            self._write(plain.beginnings, [None], self._instructed(plain.beginnings, label))
            for plain in (self.dev, self.test)
        )
        found[PROMPT] = self._reported(label, on_test, [self._plain_setting(label, on_dev)])
        return {method: replace(one, versus=self._versus(label, method, found)) for method, one in found.items()}

    def _tried(self, label: str, ways: Iterable[_Way]) -> dict[str, list[tuple[_Way, Setting]]]:
        """The doses of each method, on dev."""
        exam, budgets = self.exam, self.options.budgets
        neutral = neutral_text(exam.corpus, label, self.task, split=exam.dev)
        divergence = Divergence(exam.model, exam.tokenizer, neutral)
        doses = []
        for way in ways:
            curve = dose_curve(divergence, way.make, budgets)
            doses += [(way, budget, strongest(curve, budget)) for budget in budgets]
        written = self._write(self.dev.beginnings, [way.make(dose.beta) for way, _, dose in doses])
        tried: dict[str, list[tuple[_Way, Setting]]] = {}
        for (way, budget, dose), score in zip(doses, self._scores(self.dev, label, written), strict=True):
            tried.setdefault(way.method, []).append((way, Setting(budget, dose.beta, way.layer, score)))
        return tried

    def _plain_setting(self, label: str, tokens: list[Tokens]) -> Setting:
        """The one setting of a method without a dose."""
        return Setting(None, None, None, *self._scores(self.dev, label, [tokens]))

    def _chosen(self, settings: Sequence[Setting]) -> int:
        """The position of the most successful setting whose texts are fluent and various enough."""
        least = LEAST_DISTINCT * (distinct_pairs(self.dev.texts) or 0.0)
        rises = [setting.score.rise for setting in settings]
        fluent = [
            place
            for place, setting in enumerate(settings)
            if setting.score.rise <= self.options.most_rise and (setting.score.distinct or 0.0) >= least
        ]
        if not fluent:
            return int(np.argmin(rises))
        return max(fluent, key=lambda place: (settings[place].score.success, -rises[place]))

    def _instructed(self, beginnings: _Beginnings, label: str) -> list[Tokens]:
        """The beginnings after the instruction."""
        before, _, after = self.instruction.replace("{label}", label).partition("{text}")
        ids = [prompt_ids(self.exam.model, self.exam.tokenizer, before + text + after) for text in beginnings.texts]
        return [of_text for of_text in ids for _ in range(len(beginnings.ids) // len(ids))]

    def _reported(
        self, label: str, tokens: list[Tokens], settings: Sequence[Setting], chosen: int = 0, neurons: int | None = None
    ) -> MethodGeneration:
        """The test texts of a method."""
        texts = decoded(self.exam.tokenizer, tokens)
        judged = self.judge(texts)
        hits = self._grouped(np.array([of_text == label for of_text in judged], dtype=np.float64))
        worn = overused(texts, self.test.texts, _WORDS)
        bare = [" ".join(word for word in words(text) if word not in worn) for text in texts]
        trials = Paired.of_groups(hits)
        low, high = share_interval(trials.gained, trials.sentences)
        return MethodGeneration(
            neurons=neurons,
            settings=tuple(settings),
            chosen=chosen,
            score=self._scores(self.test, label, [tokens])[0],
            interval=(float(low), float(high)),
            second=self._second(texts, label),
            words=tuple(worn),
            without_words=float(self._hits(bare, label).mean()),
            versus={},
            texts=tuple(map(WrittenText, texts, judged)),
        )

    def _grouped(self, of_texts: NDArray[np.float64]) -> NDArray[np.float64]:
        """[beginnings, texts]"""
        return of_texts.reshape(len(self.test.beginnings.texts), -1)

    def _versus(self, label: str, method: str, found: Mapping[str, MethodGeneration]) -> dict[str, Versus]:
        """Neurons beside each other method, of random ones as many; other methods are beside none."""
        if not method.startswith(NEURONS):
            return {}
        as_many = method.replace(NEURONS, RANDOM)
        hits = {
            name: self._grouped(np.array([text.judged == label for text in of_method.texts], dtype=np.float64))
            for name, of_method in found.items()
            if name in (method, as_many) or not name.startswith((NEURONS, RANDOM))
        }
        own = hits.pop(method)
        pairs = {name: Paired.of_groups(own - other) for name, other in hits.items()}
        return {name: Versus(pair.change, pair.interval(), pair.p(), 1.0) for name, pair in pairs.items()}

    def result(self, labels: Mapping[str, dict[str, MethodGeneration]]) -> TaskGeneration:
        """The result of the task: its judges, and the methods of each label with p values adjusted over the labels."""
        questions = self.questions
        sentences = list(self.exam.corpus.where(split=self.exam.test, task=self.task))
        return TaskGeneration(
            judge=Judge("words", self.judge.accuracy(sentences), len(sentences)),
            second=Judge(self.exam.evaluator.name, questions.accuracy(questions.unmasked)["accuracy"], len(questions)),
            loss=self.test.loss,
            beginnings=self.test.beginnings.texts,
            labels=_adjusted(labels),
        )


def _adjusted(labels: Mapping[str, dict[str, MethodGeneration]]) -> dict[str, dict[str, MethodGeneration]]:
    """The methods with their p values adjusted over the labels."""
    adjusted = {label: dict(methods) for label, methods in labels.items()}
    compared = {
        (method, other) for methods in labels.values() for method, one in methods.items() for other in one.versus
    }
    for method, other in compared:
        of_label = {label: m[method].versus[other] for label, m in labels.items() if other in m[method].versus}
        for (label, versus), p in zip(of_label.items(), holm([v.p for v in of_label.values()]), strict=True):
            one = adjusted[label][method]
            adjusted[label][method] = replace(one, versus={**one.versus, other: replace(versus, adjusted_p=p)})
    return adjusted
