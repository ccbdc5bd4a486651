"""Workflow of ``affectron demo``: the README's steps on the embedded model, from corpus to report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from affectron._internal.artifacts import ATTRIBUTION, NEURONS, STATS, STEERING, VALIDATION, findings_file
from affectron.attribution.attribute import attribute
from affectron.corpus import Corpus
from affectron.demo import MODEL, PROMPTS
from affectron.demo.corpus import EMOTIONS, write
from affectron.evaluation.exam import Exam
from affectron.evaluation.judge import WordJudge
from affectron.experiments.cards import describe
from affectron.experiments.methods import compare_methods
from affectron.experiments.responses import responses
from affectron.experiments.results import Methods, Validation
from affectron.experiments.validation import validate
from affectron.generation import continuations
from affectron.interventions import contrast
from affectron.models import load_model
from affectron.neurons import NeuronSet
from affectron.report import build_report
from affectron.screening.screen import screen
from affectron.selection import select
from affectron.stats import ActivationStats

#: The ranking of attributions for a model this small, where t alone takes neurons of little effect.
SCORE = "attribution_moderated"
#: Neurons of a label by attribution; and the share of all 2,240 that methods share out to a task's labels, as many.
COUNT, TOP = 64, 0.2
#: Attribution reads one sentence in this many of the train split.
PART = 8
#: Largest number of sentences a label and split: below the default, to end in a minute.
LIMIT = 48
#: Neurons of a label that have a card, and those of them that are turned down and up.
CARDS, TURNED = 6, 2
FACTORS = (0.0, 1.0, 2.0, 4.0, 8.0)
#: Points of the curve of effect over neurons.
COUNTS = (4, 16, 64)
#: The steered text: the share of the neurons that are shifted, by how much, and what is continued.
SHIFTED, BETA = 0.1, 2.0
BEGINNINGS = ("Yesterday evening", "This morning", "On the way home", "My neighbour", "At the office", "We")


@dataclass(frozen=True)
class Steered:
    """The texts of one label, unsteered and steered, as a judge sees them.

    Attributes:
        label: the label.
        before, after: the share of the texts that the judge gives to the label.
        texts: (beginning, unsteered, steered) of each.
    """

    label: str
    before: float
    after: float
    texts: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Demo:
    """Results of the demo.

    Attributes:
        methods: neurons by attribution and by the paper's method, side by side.
        validation: of the neurons by attribution.
        steered: a result for each emotion.
        judge: the share of held-out sentences that the judge of the texts gives to their label.
        report: the path of the report.
        seconds: duration of each step.
    """

    methods: Methods
    validation: Validation
    steered: tuple[Steered, ...]
    judge: float
    report: Path
    seconds: dict[str, float]


def run(folder: Path, say: Callable[[str], None], progress: bool) -> Demo:
    """Run all steps on the embedded model and write every file to ``folder``.

    Args:
        folder: output folder of corpus.jsonl, stats.safetensors, attribution.safetensors, neurons.json, cards.json,
            responses.json, methods.json, validation.json, steering.json and report/.
        say: called with a line of text as each step begins.
        progress: show bars on stderr.

    Raises:
        InputError: a file cannot be written.
    """
    started: dict[str, float] = {}

    def begin(step: str, description: str) -> None:
        started[step] = time.perf_counter()
        say(f"{step}: {description}")

    begin("corpus", "generate labelled sentences")
    write(folder / "corpus.jsonl")
    corpus = Corpus.from_file(folder / "corpus.jsonl")
    model, tokenizer = load_model(MODEL)
    train = corpus.where(split="train")

    begin("screen", "measure the activity of every neuron on the train split")
    stats = screen(model, tokenizer, train, template="{bos}{text}", progress=progress)
    stats.save(folder / STATS)

    begin("attribute", f"what every neuron does to the answer, on one sentence in {PART}")
    attributions = attribute(model, tokenizer, train.folds(PART)[0], prompts=PROMPTS, progress=progress)
    attributions.save(folder / ATTRIBUTION)

    begin("select", f"the {COUNT} neurons of each label that its answer needs most")
    neurons = select(attributions, count=COUNT, score=SCORE)
    neurons.save(folder / NEURONS)

    begin("describe", "what each label's first neurons react to, write and do")
    exam = Exam(model, tokenizer, corpus, prompts=PROMPTS, limit=LIMIT)
    dev = corpus.where(split="dev")
    cards = describe(model, tokenizer, dev, neurons, attributions=attributions, cards=CARDS, progress=progress)
    turned = responses(exam, neurons, stats, neurons=TURNED, factors=FACTORS, progress=progress)
    for result in (cards, turned):
        result.save(folder / findings_file(result.kind))

    begin("compare", "set to zero what attribution and activation entropy select, against random neurons")
    methods = compare_methods(
        exam, neurons, stats, attributions, methods=(SCORE, "paper"), top=TOP, counts=COUNTS, progress=progress
    )
    methods.save(folder / findings_file(methods.kind))

    begin("validate", "weaken each label's neurons, against zero, mean and random masks")
    validation = validate(model, tokenizer, corpus, neurons, stats, prompts=PROMPTS, limit=LIMIT, progress=progress)
    validation.save(folder / VALIDATION)

    begin("steer", "write with and without a shift towards each emotion")
    emotional = corpus.where(split="train", task="emotion")
    judge = WordJudge(list(emotional), list(dev.where(task="emotion")), EMOTIONS)
    gradients = attribute(model, tokenizer, emotional.folds(PART)[0], metric="text", progress=progress)
    writers = select(gradients, "emotion", top=SHIFTED, activations=stats)
    writers.save(folder / STEERING)
    written = describe(model, tokenizer, dev, writers, attributions=attributions, cards=CARDS, progress=progress)
    cards.beside(written).save(folder / findings_file(cards.kind))
    steered = _steered(model, tokenizer, writers, stats, judge)

    begin("report", "tables and figures as one HTML page")
    page = build_report(folder)

    ends = [*list(started.values())[1:], time.perf_counter()]
    seconds = {step: end - start for (step, start), end in zip(started.items(), ends, strict=True)}
    held_out = judge.accuracy(list(corpus.where(split="test", task="emotion")))
    return Demo(methods, validation, steered, held_out, page, seconds)


def _steered(
    model: Any, tokenizer: Any, neurons: NeuronSet, stats: ActivationStats, judge: WordJudge
) -> tuple[Steered, ...]:
    """Continue each beginning without a program and under one for each emotion; each text has its program in one
    batch."""
    labels = EMOTIONS[:-1]  # all but neutral
    programs = [None, *(contrast(neurons[label], stats, BETA) for label in labels)]
    written = [
        continuations(model, tokenizer, f"{{bos}}{beginning}", programs, max_new_tokens=32).texts
        for beginning in BEGINNINGS
    ]
    # The embedded model ends a sentence with a question about it, which is no part of the text.
    texts = [[text.partition("\n")[0].strip() for text in of_beginning] for of_beginning in written]
    results = []
    for column, label in enumerate(labels, start=1):
        shares = [
            float(np.mean([of_text == label for of_text in judge([row[position] for row in texts])]))
            for position in (0, column)
        ]
        shown = tuple((beginning, row[0], row[column]) for beginning, row in zip(BEGINNINGS, texts, strict=True))
        results.append(Steered(label, shares[0], shares[1], shown))
    return tuple(results)
