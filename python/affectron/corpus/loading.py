"""A corpus from whatever names one: a file, the folder of a dataset, or a dataset on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from affectron.corpus.corpus import Corpus
from affectron.corpus.sources import HUB
from affectron.errors import InputError
from affectron.options import Columns


def load_corpus(source: str, columns: Columns, *, task: str | None = None, split: str | None = None) -> Corpus:
    """The corpus that ``source`` names: a file, a dataset's folder, or ``hf://datasets/OWNER/NAME``.

    Args:
        columns: how its rows are read.
        task: only this task's labels; without a task column, the name of the one task.
        split: only this split.

    Raises:
        InputError: as :meth:`Corpus.from_file` and :meth:`Corpus.from_dataset`.
    """
    options = columns.values()
    path = Path(source)
    if path.is_file() or (not path.is_dir() and path.suffix and not source.startswith(HUB)):
        return Corpus.from_file(path, task=task, split=split, **options)
    if options.pop("quoting") is not None:
        raise InputError(f"quoting is {columns.quoting}, which is for CSV and TSV files, and {source} is none")
    return Corpus.from_dataset(source, task=task, split=split, **options)
