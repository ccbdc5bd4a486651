"""Options of what is read: the model, the corpus, and what several steps share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from affectron._internal.checks import Between, OneOf, Whole, shown
from affectron._internal.names import (
    DTYPES,
    ON_BAD_LINE,
)
from affectron._internal.options import REQUIRED, Options, option
from affectron.errors import InputError

#: Origin of an option that the seed paper names.
NOTES = "published notes"


@dataclass(frozen=True, kw_only=True)
class Inputs(Options):
    """The model and the corpus."""

    model: Path | str = option(
        REQUIRED, "A transformers causal language model: its folder, or its name on the Hugging Face hub."
    )
    corpus: Path | str = option(
        REQUIRED,
        "Labelled sentences: .jsonl, .ndjson, .csv, .tsv, .parquet; or a Hugging Face dataset: its folder, or "
        "hf://datasets/OWNER/NAME.",
    )


@dataclass(frozen=True)
class Columns(Options):
    """Reading the rows of a corpus."""

    text: str = option("text", "Column of the sentence.", parameter="text_column")
    label: str | tuple[str, ...] = option(
        "label", "Column of the label, or list of labels; several columns (A,B) are as many tasks.",
        parameter="label_column",
    )  # fmt: skip
    indicators: str | tuple[str, ...] | None = option(
        None, "Columns of 0 and 1 (A,B) in place of a label column: each is a label of one task, named as the column."
    )
    without: str = option("none", "Label of a sentence whose indicators are all 0.")
    task: str = option("task", "Column of the task; may be absent.", parameter="task_column")
    split: str = option("split", "Column of the split; may be absent.", parameter="split_column")
    held_out: float | None = option(
        None, "Share of the sentences of a source without splits that goes to dev, and as much to test, the rest to "
        "train; equal texts go together.", Between(0, 0.5, above=True),
    )  # fmt: skip
    id: str = option("id", "Column of the sentence's id; may be absent.", parameter="id_column")
    span: str | None = option(
        None, "Column of spans with start, end and label: only their tokens count for a label.",
        parameter="span_column",
    )  # fmt: skip
    turns: str | None = option(None, "The text is a list of messages; count those of this role, the last, or all.")
    label_separator: str | None = option(None, "Stands between the labels of a field; default: | in CSV and TSV.")
    quoting: bool | None = option(None, "Fields of a table may be quoted as in CSV; default: in CSV but not in TSV.")
    on_bad_line: Literal["error", "skip"] = option(
        "error", "Stop at a line that cannot be used, or count and skip it.", OneOf(ON_BAD_LINE)
    )

    def check_together(self) -> None:
        for name in ("text", "label", "task", "split", "id"):
            columns = getattr(self, name)
            for column in columns if isinstance(columns, tuple) else (columns,):
                if not isinstance(column, str):
                    raise InputError(f"{name}_column is {shown(columns)}, expected the names of columns as strings")
        if self.indicators is None:
            if self.without != Columns.without:
                raise InputError(f"without is {self.without!r}, which goes with indicators, and there are none")
            return
        for name in ("label", "span"):
            if getattr(self, name) != getattr(Columns, name):
                raise InputError(f"indicators and {name}_column are both given, expected one of them")
        if self.without in self.indicator_columns:
            raise InputError(f"without is {self.without!r}, a column of indicators; expected another name")

    @property
    def indicator_columns(self) -> tuple[str, ...]:
        """The columns of indicators; empty if there are none."""
        return (self.indicators,) if isinstance(self.indicators, str) else self.indicators or ()


@dataclass(frozen=True)
class Load(Options):
    """Loading a model."""

    dtype: str = option("auto", "Type of the weights; auto: as saved, but float32 on a CPU that is slow at 16 bits.",
                        OneOf(DTYPES))  # fmt: skip
    device: str = option("auto", "Where the model runs: cpu, cuda, cuda:1, xpu, mps; auto: cuda if there is one.")
    trust_remote_code: bool = option(False, "Let Python code in the model's folder run.")


@dataclass(frozen=True)
class Common(Options):
    """Options of several steps."""

    task: str | None = option(None, "Only this task's labels; without a task column, the name of the one task.")
    seed: int = option(0, "Of random sets, resamples and limited sentences.", Whole())
    allow_overlap: bool = option(False, "Test sentences that were screened too, and state it; else they are refused.")
