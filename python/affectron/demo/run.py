"""The main job on the embedded model, from corpus to report: what ``affectron demo`` runs. Apart from the command line
so that it reads as what it is, the README's steps one after the other."""

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

#: Of a model this small the usual 1 % would be two neurons a label.
TOP = 0.05
#: Strengths of induction.
BETAS = (1.0, 4.0)
#: Sentences of a label in a split at most, and random sets: fewer than the defaults, for an answer within a minute.
LIMIT, RANDOM_SETS = 45, 10
#: The same of induction, which asks all other labels' sentences of a task for each label.
INDUCTION_LIMIT, INDUCTION_RANDOM_SETS = 20, 2


@dataclass(frozen=True)
class Sample:
    """One prompt, continued without and with the neurons of ``label`` induced by ``beta``."""

    label: str
    beta: float
    prompt: str
    unsteered: str
    steered: str


@dataclass(frozen=True)
class Demo:
    """What the demo leaves: the validation, one steered sample, the report, and the seconds each step took."""

    validation: Validation
    sample: Sample
    report: Path
    seconds: dict[str, float]


def run(folder: Path, say: Callable[[str], None], progress: bool) -> Demo:
    """Run the whole path on the embedded model and leave every file in ``folder``.

    Args:
        folder: gets corpus.jsonl, stats.safetensors, neurons.json, validation.json, induction.json and report/.
        say: told of each step as it begins.
        progress: show bars on stderr.

    Raises:
        InputError: a file cannot be written.
    """
    seconds: dict[str, float] = {}

    def begin(step: str, what: str) -> None:
        seconds[step] = time.perf_counter()
        say(f"{step}: {what}")

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
    found = induction(exam, neurons, stats, BETAS, random_sets=INDUCTION_RANDOM_SETS, progress=progress)
    found.save(folder / findings_file(found.kind))

    begin("steer", "write with and without the neurons of one label")
    label = max(EMOTIONS[:-1], key=lambda name: len(neurons[name]))  # the last is neutral
    beta, prompt = BETAS[-1], "{bos}Yesterday evening"
    programs = [None, induce(neurons[label], stats, beta)]
    unsteered, steered = continuations(model, tokenizer, prompt, programs, max_new_tokens=32).texts

    begin("report", "tables and figures as one HTML page")
    page = build_report(folder)

    ends = [*list(seconds.values())[1:], time.perf_counter()]
    taken = {step: end - start for (step, start), end in zip(seconds.items(), ends, strict=True)}
    return Demo(validation, Sample(label, beta, prompt, unsteered, steered), page, taken)
