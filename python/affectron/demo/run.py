"""Workflow of ``affectron demo``: the README's steps on the embedded model, from corpus to report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from affectron._internal.artifacts import NEURONS, STATS, VALIDATION, findings_file
from affectron.corpus import Corpus
from affectron.demo import MODEL, PROMPTS
from affectron.demo.corpus import EMOTIONS, write
from affectron.evaluation.exam import Exam
from affectron.experiments.induction import induction
from affectron.experiments.results import Validation
from affectron.experiments.validation import validate
from affectron.generation import continuations
from affectron.interventions import induce
from affectron.models import load_model
from affectron.report import build_report
from affectron.screening.screen import screen
from affectron.selection import select

#: Share of neurons to select. In a model this small the default of 1 % would leave two neurons a label.
TOP = 0.05
#: Strengths of induction.
BETAS = (1.0, 4.0)
#: Largest number of sentences a label and split, and number of random sets: below the defaults, to end in a minute.
LIMIT, RANDOM_SETS = 45, 10
#: The same for induction, which evaluates every label on the sentences of all other labels of its task.
INDUCTION_LIMIT, INDUCTION_RANDOM_SETS = 20, 2


@dataclass(frozen=True)
class Sample:
    """Continuations of one prompt, without and with the neurons of ``label`` induced by ``beta``."""

    label: str
    beta: float
    prompt: str
    unsteered: str
    steered: str


@dataclass(frozen=True)
class Demo:
    """Results of the demo: the validation, one steered sample, the path of the report, and the seconds of each step."""

    validation: Validation
    sample: Sample
    report: Path
    seconds: dict[str, float]


def run(folder: Path, say: Callable[[str], None], progress: bool) -> Demo:
    """Run all steps on the embedded model and write every file to ``folder``.

    Args:
        folder: output folder of corpus.jsonl, stats.safetensors, neurons.json, validation.json, induction.json and
            report/.
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

    begin("screen", "measure every neuron on the train split")
    stats = screen(model, tokenizer, corpus.where(split="train"), template="{bos}{text}", progress=progress)
    stats.save(folder / STATS)

    begin("select", f"rank all neurons by entropy, keep {TOP:.0%}")
    neurons = select(stats, top=TOP)
    neurons.save(folder / NEURONS)

    begin("validate", "mask each label's neurons, against zero, mean and random masks")
    validation = validate(
        model,
        tokenizer,
        corpus,
        neurons,
        stats,
        prompts=PROMPTS,
        random_sets=RANDOM_SETS,
        limit=LIMIT,
        progress=progress,
    )
    validation.save(folder / VALIDATION)

    begin("induce", "push other sentences towards each label")
    exam = Exam(model, tokenizer, corpus, prompts=PROMPTS, limit=INDUCTION_LIMIT)
    findings = induction(exam, neurons, stats, BETAS, random_sets=INDUCTION_RANDOM_SETS, progress=progress)
    findings.save(folder / findings_file(findings.kind))

    begin("steer", "write with and without the neurons of one label")
    label = max(EMOTIONS[:-1], key=lambda name: len(neurons[name]))  # all but neutral
    beta, prompt = BETAS[-1], "{bos}Yesterday evening"
    programs = [None, induce(neurons[label], stats, beta)]
    unsteered, steered = continuations(model, tokenizer, prompt, programs, max_new_tokens=32).texts

    begin("report", "tables and figures as one HTML page")
    page = build_report(folder)

    ends = [*list(started.values())[1:], time.perf_counter()]
    seconds = {step: end - start for (step, start), end in zip(started.items(), ends, strict=True)}
    return Demo(validation, Sample(label, beta, prompt, unsteered, steered), page, seconds)
