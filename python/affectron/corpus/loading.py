"""Loading of a corpus by its address: a file, the folder of a dataset, or a dataset on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from affectron.corpus.corpus import Corpus, read_source
from affectron.corpus.sources import HUB, Dataset, File
from affectron.options import Columns


def load_corpus(source: str, columns: Columns, *, task: str | None = None, split: str | None = None) -> Corpus:
    """Load the corpus at ``source``: a file, a dataset's folder, or ``hf://datasets/OWNER/NAME``.

    Args:
        source: the path or address.
        columns: how its rows are read.
        task: narrow the corpus to this task; without a task column the name of the task of all labels.
        split: narrow the corpus to this split.

    Raises:
        InputError: as :meth:`Corpus.from_file` and :meth:`Corpus.from_dataset`; ``quoting`` is given, and the source is
            no table.
    """
    path = Path(source)
    is_file = path.is_file() or (path.suffix and not path.is_dir() and not source.startswith(HUB))
    return read_source(File(path, columns) if is_file else Dataset(source, None, columns), split, task)
