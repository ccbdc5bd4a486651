"""Inputs of commands: models, corpora and the statistics beside a list of neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import affectron
from affectron._internal.artifacts import NEURONS, SAME_MODEL, STATS
from affectron._internal.wording import count
from affectron.cli.options import by_task, template_text
from affectron.cli.output import say
from affectron.errors import InputError
from affectron.options import Ask, Columns, Load

if TYPE_CHECKING:
    from affectron import ActivationStats, Corpus, NeuronSet


def read_corpus(source: str, columns: Columns, task: str | None, split: str | None = None) -> Corpus:
    """The corpus that ``source`` names; lines that were skipped are told of."""
    from affectron.corpus.loading import load_corpus

    corpus = load_corpus(source, columns, task=task, split=split)
    if corpus.skipped:
        line, reason = corpus.bad_lines[0]
        say(f"{source}: skipped {count(corpus.skipped, 'bad line')}, the first at line {line}: {reason}")
    return corpus


def quiet_transformers() -> None:
    """Leave out messages and bars of transformers: it would tell how parameters are handed out, in a moment."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_model(name: str, options: Load) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    quiet_transformers()
    return affectron.load_model(name, **options.values())


def stats_beside(neurons: Path, stats: Path | None) -> ActivationStats:
    """The statistics of a file, or those that lie beside the neurons.

    Raises:
        InputError: no file is given, and there is none beside the neurons.
    """
    if stats is None:
        stats = neurons.parent / STATS
        if not stats.is_file():
            raise InputError(f"--stats is not given, and there is no {stats} beside the neurons")
    return affectron.ActivationStats.load(stats)


def check_model(model: Any, tokenizer: Any, neurons: NeuronSet) -> None:
    """Check that a model has the neurons; a note tells of neurons that were found in other weights.

    Raises:
        InputError: a site that the model does not have, or a neuron beyond it.
    """
    from affectron.models.provenance import note_other_weights

    neurons.check({site.name: site.neurons for site in affectron.find_sites(model)})
    note_other_weights(model, tokenizer, "neurons", neurons.provenance)


def label_questions(given: Sequence[str], neurons: NeuronSet, file: Path) -> Mapping[str, str]:
    """Task -> its question, from texts TASK=TEMPLATE; without one that by whose answer the neurons were found.

    Raises:
        InputError: a text of another form, or a task that the neurons do not have.
    """
    questions = Ask(prompts=by_task("label_prompt", [template_text(text) for text in given])).prompts
    unknown = sorted(questions.keys() - neurons.tasks.keys())
    if unknown:
        raise InputError(f"label_prompt has task {unknown[0]!r}, expected {', '.join(neurons.tasks)}")
    return {**_recorded_questions(neurons, file), **questions}


def _recorded_questions(neurons: NeuronSet, file: Path) -> Mapping[str, str]:
    """The questions in the provenance of the neurons, or of those in neurons.json beside them: neurons that make texts
    likelier are found without a question."""
    recorded, beside = neurons.provenance, file.parent / NEURONS
    if "prompts" not in recorded and beside.is_file():
        answering = affectron.NeuronSet.load(beside).provenance
        if all(answering.get(field) == recorded.get(field) for field in SAME_MODEL):
            recorded = answering
    prompts = recorded.get("prompts")
    if not isinstance(prompts, dict):
        return {}
    return Ask(prompts={task: text for task in neurons.tasks if isinstance(text := prompts.get(task), str)}).prompts
