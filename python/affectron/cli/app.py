"""The command line: each command reads its files, calls one function of the package, saves and prints. Apart from
them so that the package prints nothing and ends no process.

Tables and JSON go to stdout, progress and messages to stderr. Bad input ends with one line and exit code 2.
"""

from __future__ import annotations

import dataclasses
import enum
import errno
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import TextIOWrapper
from itertools import groupby
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

import affectron
from affectron._internal.files import locked, read_text
from affectron._internal.wording import count
from affectron.corpus.sources import HUB
from affectron.errors import Incomplete, InputError, Note

if TYPE_CHECKING:
    from affectron import ActivationStats, Corpus, NeuronList, NeuronSet, Program, Validation
    from affectron.models import Site


# A wrong option, argument or command. typer has a copy of click or uses click, by its version.
_UsageError: Any = typer.BadParameter.__base__


class _Terminated(KeyboardInterrupt):
    """SIGTERM."""


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn what a user or the system can mend into one line on stderr, and an exit code: 2 for bad input, 1 for work
    that is done in part, 130 for Ctrl-C and 143 for SIGTERM."""
    status = 2
    try:
        yield
        sys.stdout.flush()  # fails here, not when Python ends
        return
    except InputError as error:
        message = str(error)
    except _UsageError as error:
        message = error.format_message()
        if error.ctx is not None:
            message = f"{message.rstrip('.')}; {error.ctx.command_path} -h shows what there is"
    except Incomplete as error:
        message, status = str(error), 1
    except KeyboardInterrupt as error:
        message = str(error) or "interrupted; every file is whole or as it was"
        status = 128 + (signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT)
    except MemoryError as error:
        message = f"the memory does not suffice: {error}"
    except OSError as error:
        if error.errno == errno.EPIPE:  # who reads has enough, such as head; typer ends in silence
            raise
        message = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    _say(f"error: {' '.join(message.split())}")
    raise typer.Exit(status)


class _Commands(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _one_line():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _one_line():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Commands,
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _affectron(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and end.")] = False,
) -> None:
    """Find, test and steer the MLP neurons of a language model."""
    if version:
        print(f"affectron {affectron.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def _terminate(*_: Any) -> None:
    raise _Terminated("stopped by SIGTERM; every file is whole or as it was")


def main() -> None:
    """The entry point of the command ``affectron``."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a label or a path may hold what the terminal cannot show
    warnings.showwarning = lambda message, category, *_: _say(
        f"{'note' if issubclass(category, Note) else 'warning'}: {message}"
    )
    # transformers imports torchao wherever it is installed, which then tells of kernels that nothing here asks for.
    for name in ("torchao", "torch.utils._pytree"):
        getLogger(name).setLevel(ERROR)
    app()


# --- arguments that several commands share ------------------------------------------------------------------------


class Dtype(str, enum.Enum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class OnBadLine(str, enum.Enum):
    error = "error"
    skip = "skip"


# Text, not a path: ./gpt2 is a folder, and gpt2, where no such folder is, a name.
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A transformers causal language model: its folder, or its name on the Hugging Face hub."
    ),
]
CorpusArgument = Annotated[
    str,
    typer.Argument(
        metavar="CORPUS",
        help="Labelled sentences: .jsonl, .ndjson, .csv, .tsv, .parquet; or a Hugging Face dataset: its folder, or "
        "hf://datasets/OWNER/NAME.",
    ),
]
TextColumn = Annotated[str, typer.Option(help="Column of the sentence.")]
LabelColumn = Annotated[str, typer.Option(help="Column of the label, or list of labels; A,B for several, each a task.")]
SpanColumn = Annotated[
    str | None, typer.Option(help="Column of spans with start, end and label: only their tokens count for a label.")
]
TurnsOption = Annotated[
    str | None, typer.Option(help="The text is a list of messages; count those of this role, the last, or all.")
]
LabelSeparator = Annotated[
    str | None, typer.Option(help="Stands between the labels of a field; default: | in CSV and TSV.")
]
Quoting = Annotated[
    bool | None,
    typer.Option(help="Whether fields of a table may be quoted as in CSV; default: in CSV but not in TSV."),
]
TaskColumn = Annotated[str, typer.Option(help="Column of the task; may be absent.")]
SplitColumn = Annotated[str, typer.Option(help="Column of the split; may be absent.")]
TaskOption = Annotated[
    str | None, typer.Option(help="Only this task's labels; without a task column, the name of the one task.")
]
OnBadLineOption = Annotated[OnBadLine, typer.Option(help="Stop at a line that cannot be used, or count and skip it.")]
DtypeOption = Annotated[Dtype, typer.Option(help="auto: as saved, but float32 on a CPU that is slow at 16 bits.")]
DeviceOption = Annotated[
    str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1; auto: a GPU if there is one.")
]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Let Python code in the model's folder run.")]
BatchTokens = Annotated[int, typer.Option(help="Tokens in a batch at most, padding included.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

AllowOverlap = Annotated[
    bool, typer.Option("--allow-overlap", help="State in the result that sentences were screened too; else refused.")
]

_PROMPT_HELP = r"with {text} and perhaps {bos} in it; \n is a line break"


def _read_corpus(
    path: str,
    columns: tuple[str, str, str, str],
    task: str | None,
    on_bad_line: OnBadLine,
    label_separator: str | None,
    quoting: bool | None,
    span_column: str | None = None,
    turns: str | None = None,
) -> Corpus:
    text_column, label_column, task_column, split_column = columns
    local = Path(path)
    read: Callable[..., Corpus] = affectron.Corpus.from_dataset
    if local.is_file() or (not local.is_dir() and local.suffix and not path.startswith(HUB)):
        read = partial(affectron.Corpus.from_file, quoting=quoting)
    elif quoting is not None:
        raise InputError(f"--quoting is for CSV and TSV files, and {path} is none")
    corpus = read(
        path,
        text_column=text_column,
        label_column=label_column.split(",") if "," in label_column else label_column,
        task_column=task_column,
        split_column=split_column,
        span_column=span_column,
        turns=turns,
        label_separator=label_separator,
        task=task,
        on_bad_line=on_bad_line.value,
    )
    if corpus.skipped:
        line, reason = corpus.bad_lines[0]
        skipped = count(corpus.skipped, "bad line")
        _say(f"{path}: skipped {skipped}, the first at line {line}: {reason}")
    return corpus


def _quiet_transformers() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()  # it would tell how parameters are handed out, in a moment


def _load_model(name: str, dtype: Dtype, device: str, trust_remote_code: bool) -> tuple[Any, Any]:
    _quiet_transformers()
    return affectron.load_model(name, dtype=dtype.value, device=device, trust_remote_code=trust_remote_code)


def _stats_beside(neurons: Path, stats: Path | None) -> ActivationStats:
    if stats is None:
        stats = neurons.parent / "stats.safetensors"
        if not stats.is_file():
            raise InputError(f"--stats is not given, and there is no {stats} beside the neurons")
    return affectron.ActivationStats.load(stats)


def _check_model(model: Any, neurons: NeuronSet) -> None:
    neurons.check({site.name: site.neurons for site in affectron.find_sites(model)})


def _output(path: Path, *inputs: Path | None) -> Path:
    """Refuse, before hours are spent on what goes there, a path that cannot be written, or is one of the inputs."""
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; expected the path of a file")
    if path.exists() and not path.is_file():
        raise InputError(f"cannot write {path}: it is a device or a pipe; expected the path of a file")
    for given in inputs:
        if given is not None and path.exists() and given.exists() and path.samefile(given):
            raise InputError(f"cannot write {path}: it is read as well; expected another file")
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"cannot write {path}: {folder} is not a folder that can be written to")
    return path


def _folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path}: {error.strerror or error}") from error


def _save(result: Any, path: Path) -> None:
    _folder(path.parent)
    result.save(path)


def _template(text: str) -> str:
    """A shell's ``\\n`` is two characters; a template means a line break by it."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


# --- output -------------------------------------------------------------------------------------------------------


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def _side_by_side(prompt: str, columns: Sequence[str], texts: Sequence[str]) -> Table:
    table = Table(title=Text(prompt), title_justify="left")
    for column in columns:
        table.add_column(Text(column), ratio=1, overflow="fold")
    table.add_row(*(Text(text.strip()) for text in texts))
    return table


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 160)  # a pipe has no width of its own


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Text to the left, numbers to the right. Cells are printed as they are: a label may hold [brackets]."""
    table = Table(title=Text(title), title_justify="left")
    for place, column in enumerate(columns):
        numbers = all(isinstance(row[place], (int, float)) for row in rows)
        table.add_column(Text(column), justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    _console().print(table)


def _print_validation(result: Validation) -> None:
    """The table of a validation: changes of test accuracy in points, with 95 % intervals."""

    def points(value: float | None, interval: Sequence[float] | None = None) -> str:
        if value is None:
            return "-"
        around = f" [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]" if interval else ""
        return f"{100 * value:+.1f}{around}"

    rows = [
        (
            row["task"],
            row["label"],
            f"{row['masked']} of {row['selected']}",
            f"{row['alpha']:.1f}",
            f"{100 * row['baseline']:.1f}",
            points(row["adaptive"], row["adaptive_interval"]),
            points(row["zero"]),
            points(row["mean"]),
            points(row["random"], row["random_interval"]),
            points(row["others"]),
            "-" if row["loss"] is None else f"{row['loss']:+.3f}",
            row["verdict"] or "-",
        )
        for row in result.rows()
    ]
    columns = (
        "task", "label", "masked", "alpha", "accuracy", "adaptive", "zero", "mean", "random", "others", "loss",
        "verdict",
    )  # fmt: skip
    _print_table("change of test accuracy in points, with 95 % intervals", columns, rows)


@contextmanager
def _timed() -> Iterator[list[float]]:
    """Yields a list that holds the seconds the block took once it is over."""
    seconds: list[float] = []
    start = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - start)


# --- commands -----------------------------------------------------------------------------------------------------


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that all files go to.")] = Path("run/demo"),
    as_json: JsonOption = False,
) -> None:
    """The whole path on the embedded model: screen, select, validate, steer, report. About a minute."""
    from affectron.demo.run import run

    _quiet_transformers()
    with locked(output):
        found = run(output, _say, progress=True)
    sample = found.sample
    if as_json:
        result = {
            "report": str(found.report),
            "seconds": {step: round(taken, 2) for step, taken in found.seconds.items()},
            "sample": dataclasses.asdict(sample),
            "validation": found.validation.content,
        }
        _print_json(result)
        return
    _print_validation(found.validation)
    columns = ("unsteered", f"induce {sample.beta:g} {sample.label}")
    _console().print(_side_by_side(sample.prompt, columns, (sample.unsteered, sample.steered)))
    steps = ", ".join(f"{step} {taken:.1f} s" for step, taken in found.seconds.items())
    print(f"{sum(found.seconds.values()):.0f} s in all ({steps})")
    print(f"report written to {found.report}")


@app.command()
def info(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Also describe this model: its folder, or its name on the hub."),
    ] = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Versions, which backend serves each op on each device, and the MLP sites of a model. Loads no weights."""
    import platform

    import torch
    import transformers

    from affectron.ops import backend_for, native
    from affectron.ops.library import KERNELS

    devices = ["cpu"] + [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    backends = {
        device: {op: dict(zip(("backend", "reason"), backend_for(op, device), strict=True)) for op in KERNELS}
        for device in devices
    }
    facts: dict[str, Any] = {
        "affectron": affectron.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "instruction_set": native.isa_level(),
        "backends": backends,
    }
    if model is not None:
        skeleton = affectron.models.load_skeleton(model, trust_remote_code=trust_remote_code)
        sites = affectron.find_sites(skeleton)
        facts["model"] = {
            "folder": model,
            "class": type(skeleton).__name__,
            "parameters": sum(parameter.numel() for parameter in skeleton.parameters()),
            "neurons": sum(site.neurons for site in sites),
            "sites": [
                {key: getattr(site, key) for key in ("name", "layout", "act", "neurons", "path")} for site in sites
            ],
        }
    if as_json:
        _print_json(facts)
        return
    for key in ("affectron", "python", "torch", "transformers", "threads"):
        print(f"{key:<16}{facts[key]}")
    print(f"{'cpu kernels':<16}{facts['instruction_set']}")
    served = [
        (device, op, choice["backend"], choice["reason"])
        for device, choices in backends.items()
        for op, choice in choices.items()
    ]
    _print_table("backends", ("device", "op", "backend", "reason"), served)
    if model is not None:
        described = facts["model"]
        sizes = ", ".join(count(described[key], key.removesuffix("s"), key) for key in ("parameters", "neurons"))
        title = f"{described['class']}, {sizes}"
        _print_table(
            title,
            ("site", "layout", "activation", "neurons", "path"),
            [(name, s.layout, s.act, s.neurons, s.path) for name, s in _experts_together(sites)],
        )


def _experts_together(sites: Sequence[Site]) -> Iterator[tuple[str, Site]]:
    """Each site with its name; of a layer's experts, where they are alike, only the first, with all their numbers."""

    def kind(site: Site) -> Any:
        holder = site.module if site.expert is not None else site.owner
        return site.name if holder is None else (id(holder), site.name.rpartition(".")[0], site.structure)

    for _, group in groupby(sites, kind):
        first, *others = group
        yield f"{first.name} to {others[-1].name.rpartition('.')[2]}" if others else first.name, first


@app.command()
def screen(
    model: ModelArgument,
    corpus: CorpusArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to save the statistics to (.safetensors).")],
    tokens: Annotated[str, typer.Option(help="Tokens that count: all, last, or mean (one observation a sentence).")] = (
        "all"
    ),
    active: Annotated[str, typer.Option(help="A neuron is active where act(g) > 0 (gate) or h > 0 (product).")] = (
        "gate"
    ),
    template: Annotated[str, typer.Option(help=f"What the model reads, {_PROMPT_HELP}.")] = "{text}",
    count_special: Annotated[bool, typer.Option("--count-special", help="Special tokens count too.")] = False,
    long_texts: Annotated[
        str, typer.Option(help="truncate, or windows: read them in overlapping pieces.")
    ] = "truncate",
    batch_tokens: BatchTokens = 8192,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    label_separator: LabelSeparator = None,
    quoting: Quoting = None,
    span_column: SpanColumn = None,
    turns: TurnsOption = None,
    task_column: TaskColumn = "task",
    split_column: SplitColumn = "split",
    split: Annotated[str | None, typer.Option(help="Read this split only.")] = None,
    task: TaskOption = None,
    on_bad_line: OnBadLineOption = OnBadLine.error,
    dtype: DtypeOption = Dtype.auto,
    device: DeviceOption = "auto",
    trust_remote_code: TrustOption = False,
    shards: Annotated[
        int | None, typer.Option(help="Runs of sentences measured apart; default: one for 8192 of them, 64 at most.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder that keeps what is done until all is; default: OUTPUT.shards.")
    ] = None,
    checkpoint_minutes: Annotated[float, typer.Option(help="Save what is done as often as this.")] = 5.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from what the checkpoint folder holds.")] = False,
    log_json: Annotated[
        Path | None, typer.Option(help="Append progress, checkpoints and a summary to this file, a JSON object a line.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure every MLP neuron of MODEL over the labelled sentences of CORPUS.

    Started by torchrun, the processes share out the corpus. What was interrupted goes on with --resume.
    """
    from affectron.screening import processes as distributed
    from affectron.screening import screen as screening
    from affectron.screening.checkpoint import ShardFolder

    _output(output, Path(corpus))
    events = _EventLog(None if log_json is None else _output(log_json, Path(corpus), output))
    folder = checkpoint or output.with_name(f"{output.name}.shards")
    if distributed.launched():
        distributed.initialise()
        device = distributed.local_device(device)
    columns = (text_column, label_column, task_column, split_column)
    sentences = _read_corpus(corpus, columns, task, on_bad_line, label_separator, quoting, span_column, turns)
    if split is not None:
        sentences = sentences.where(split=split)
    options: dict[str, Any] = {
        "tokens": tokens,
        "active": active,
        "batch_tokens": batch_tokens,
        "template": _template(template),
        "long_texts": long_texts,
        "shards": shards,
        "checkpoint_minutes": checkpoint_minutes,
    }
    screening.check_options(sentences, **options)  # a model may take minutes to load
    loaded, tokenizer = _load_model(model, dtype, device, trust_remote_code)
    with _timed() as seconds:
        stats = affectron.screen(
            loaded,
            tokenizer,
            sentences,
            **options,
            count_special=count_special,
            progress=True,
            checkpoint=folder,
            resume=resume or distributed.restarted(),
            log=events,
        )
    if events.summary["rank"] == 0:
        _save(stats, output)
        _print_screened(stats, sentences, output, seconds[0], events.summary, as_json)
    distributed.finish()
    ShardFolder.remove(folder)


class _EventLog:
    """Appends each event as a line of JSON to a file, if there is one, and remembers the summary."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.summary: dict[str, Any] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "summary":
            self.summary = event
        if self.path is not None:
            _folder(self.path.parent)
            # One write a line, at the end: several processes may share the file.
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")


def _print_screened(
    stats: ActivationStats, corpus: Corpus, output: Path, seconds: float, summary: dict[str, Any], as_json: bool
) -> None:
    counts: dict[str, int] = {}
    for (_, label), sentences in corpus.counts.items():
        counts[label] = counts.get(label, 0) + sentences
    labels = {
        label: {"task": task, "sentences": counts[label], "tokens": stats.tokens(label)}
        for task, names in stats.tasks.items()
        for label in names
    }
    read = stats.provenance["tokens_read"]
    if as_json:
        result = {
            "output": str(output),
            "sites": len(stats.sites),
            "neurons": sum(stats.widths.values()),
            "labels": labels,
            "sentences": stats.provenance["sentences"],
            "skipped": corpus.skipped,
            "truncated": stats.provenance["truncated"],
            "nonfinite": stats.nonfinite_share,
            "tokens_read": read,
            "seconds": round(seconds, 3),
            "summary": summary,
        }
        _print_json(result)
        return
    rows = [(found["task"], label, found["sentences"], found["tokens"]) for label, found in labels.items()]
    _print_table(f"{corpus.name} on {stats.provenance['model']}", ("task", "label", "sentences", "tokens"), rows)
    if stats.uneven:
        print("not every token passes every site: tokens are those of the site that has most of the label's")
    if stats.provenance["truncated"]:
        print(f"{count(stats.provenance['truncated'], 'sentence')} cut to the model's maximum length")
    print(
        f"{count(sum(stats.widths.values()), 'neuron')} at {count(len(stats.sites), 'site')}, {count(read, 'token')} "
        f"in {seconds:.1f} s ({read / seconds:,.0f} tokens/s); saved to {output}"
    )
    made, versions = stats.provenance, stats.provenance["versions"]
    device = summary["device_peak_bytes"]  # 0 on a CPU
    print(
        f"affectron {made['affectron']}, torch {versions['torch']}, transformers {versions['transformers']}, "
        f"{made['dtype']} on {made['device']}; {count(made['shards'], 'shard')}, padding {made['padding']:.1%}, "
        f"waiting for batches {summary['waiting']:.1%}, {count(summary['checkpoints'], 'checkpoint')} in "
        f"{summary['checkpoint_seconds']:.1f} s, peak memory {summary['memory_peak_bytes'] / 2**20:,.0f} MiB"
        + (f" and {device / 2**20:,.0f} MiB on the device" if device else "")
    )


@app.command()
def screen_pairs(
    model: ModelArgument,
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="Pairs (.jsonl): label, text with it, other without.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to save the statistics to (.safetensors).")],
    template: Annotated[str, typer.Option(help=f"What the model reads, {_PROMPT_HELP}.")] = "{text}",
    task: Annotated[str, typer.Option(help="The task of the pairs' labels.")] = "label",
    batch_tokens: BatchTokens = 8192,
    dtype: DtypeOption = Dtype.auto,
    device: DeviceOption = "auto",
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure what each neuron does to the difference within PAIRS; select then takes --score paired_t."""
    from affectron.corpus.batching import split_template
    from affectron.evaluation.exam import whole_number
    from affectron.screening.pairs import load_pairs
    from affectron.screening.pairs import screen_pairs as screen

    _output(output, pairs)
    split_template(_template(template))
    whole_number("batch_tokens", batch_tokens, 1)
    found = load_pairs(pairs)
    loaded, tokenizer = _load_model(model, dtype, device, trust_remote_code)
    stats = screen(
        loaded, tokenizer, found, template=_template(template), batch_tokens=batch_tokens, task=task, progress=True
    )
    _save(stats, output)
    p = affectron.score(stats, "paired_p", task)
    q = affectron.fdr(np.concatenate([p[site] for site in stats.sites], axis=1))
    labels = {
        label: {"pairs": stats.tokens(label), "neurons_at_q_0.05": int((row <= 0.05).sum())}
        for label, row in zip(stats.tasks[task], q, strict=True)
    }
    if as_json:
        _print_json({"output": str(output), "task": task, "labels": labels})
        return
    rows = [(label, *found.values()) for label, found in labels.items()]
    _print_table(f"differences within {pairs.name}", ("label", "pairs", "neurons at q <= 0.05"), rows)
    print(f"saved to {output}")


@app.command()
def select(
    stats: Annotated[Path, typer.Argument(metavar="STATS", help="Statistics saved by screen or screen-pairs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to save the neurons to (.json).")],
    task: Annotated[str | None, typer.Option(help="Contrast the labels of this task; default: every task.")] = None,
    top: Annotated[float, typer.Option(help="Share of all neurons to select, in (0, 1]: 0.01 is 1 in 100.")] = 0.01,
    score: Annotated[str, typer.Option(help="What neurons are ranked by, such as entropy or hedges_g.")] = "entropy",
    filter_rate: Annotated[
        float, typer.Option(help="Entropy: some P must exceed this quantile of all P; 0 keeps all neurons.")
    ] = 0.95,
    assign: Annotated[str, typer.Option(help="Entropy: to the label of highest P (argmax) or above a bar (bar).")] = (
        "argmax"
    ),
    activation_bar_ratio: Annotated[float, typer.Option(help="The quantile of all P that is the bar.")] = 0.95,
    sign: Annotated[str | None, typer.Option(help="Keep one sign of the contrast: positive or negative.")] = None,
    min_effect: Annotated[
        float | None, typer.Option(help="Keep an absolute Hedges g (of pairs: paired_d) of at least this.")
    ] = None,
    fdr: Annotated[float | None, typer.Option(help="Keep neurons found at this false discovery rate.")] = None,
    min_count: Annotated[int | None, typer.Option(help="Keep neurons active at this many tokens or more.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Select the neurons of each label from the statistics STATS."""
    _output(output, stats)
    if top == 1:
        _say("--top is a share, and 1 is all neurons: none is left out by rank")
    neurons = affectron.select(
        affectron.ActivationStats.load(stats),
        task,
        top=top,
        score=score,
        filter_rate=filter_rate or None,
        assign=assign,  # type: ignore[arg-type] # select checks it
        activation_bar_ratio=activation_bar_ratio,
        sign=sign,  # type: ignore[arg-type]
        min_effect=min_effect,
        fdr=fdr,
        min_count=min_count,
    )
    _save(neurons, output)
    if as_json:
        result = {
            "output": str(output),
            "labels": {
                label: {"task": found.task, "neurons": len(found), "sites": _site_sizes(found)}
                for label, found in neurons.items()
            },
        }
        _print_json(result)
        return
    rows = [(found.task, label, len(found), _best_sites(found)) for label, found in neurons.items()]
    _print_table("selected neurons", ("task", "label", "neurons", "most at"), rows)
    empty = [label for label, found in neurons.items() if not found]
    if empty:
        more = "a larger --top, a lower --filter-rate or another --score finds some"
        print(f"no neuron was selected for {', '.join(empty)}: {more}")
    print(f"saved to {output}")


def _site_sizes(neurons: NeuronList) -> dict[str, int]:
    return {site: len(index) for site, index in neurons.by_site().items()}


def _best_sites(neurons: NeuronList, most: int = 3) -> str:
    sizes = sorted(_site_sizes(neurons).items(), key=lambda item: -item[1])
    return ", ".join(f"{site} ({size})" for site, size in sizes[:most])


@app.command()
def validate(
    model: ModelArgument,
    corpus: CorpusArgument,
    neurons: Annotated[Path, typer.Option(help="Neurons saved by select.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to save the result to (.json).")],
    stats: Annotated[Path | None, typer.Option(help="Statistics; default: stats.safetensors beside NEURONS.")] = None,
    evaluator: Annotated[str, typer.Option(help="label_likelihood, or linear_probe for models without prompts.")] = (
        "label_likelihood"
    ),
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=TEMPLATE",
            help=f"How a task's label is asked for, {_PROMPT_HELP}. One a task; without: in words.",
        ),
    ] = None,
    dev: Annotated[str, typer.Option(help="Split that the feedback loop sees.")] = "dev",
    test: Annotated[str, typer.Option(help="Split that is reported.")] = "test",
    train: Annotated[str, typer.Option(help="Split that a probe is fitted on.")] = "train",
    neutral: Annotated[
        str | None, typer.Option(help="Label whose text the loss is taken on; default: text without the label.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Strength of the attenuation in the first round.")] = 0.3,
    alpha_step: Annotated[float, typer.Option(help="What each round adds to alpha.")] = 0.1,
    alpha_cap: Annotated[float, typer.Option(help="Largest alpha.")] = 1.0,
    share: Annotated[float, typer.Option(help="Share of a label's neurons in the first round.")] = 0.1,
    share_step: Annotated[float, typer.Option(help="What each round adds to the share.")] = 0.1,
    share_cap: Annotated[float, typer.Option(help="Largest share.")] = 1.0,
    min_drop: Annotated[float, typer.Option(help="Drop of dev accuracy, a fraction, at which the loop stops.")] = 0.05,
    random_sets: Annotated[int, typer.Option(help="Random neuron sets to compare with.")] = 20,
    bootstrap: Annotated[int, typer.Option(help="Resamples behind each interval.")] = 1000,
    limit: Annotated[int | None, typer.Option(help="Sentences of a label in a split at most.")] = None,
    seed: Annotated[int, typer.Option(help="Of random sets, resamples and limited sentences.")] = 0,
    allow_overlap: AllowOverlap = False,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    label_separator: LabelSeparator = None,
    quoting: Quoting = None,
    task_column: TaskColumn = "task",
    split_column: SplitColumn = "split",
    task: TaskOption = None,
    on_bad_line: OnBadLineOption = OnBadLine.error,
    dtype: DtypeOption = Dtype.auto,
    device: DeviceOption = "auto",
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Weaken each label's neurons and see what it does, against zero, mean and random masks."""
    from affectron.evaluation.exam import Exam
    from affectron.experiments.validation import Options

    _output(output, Path(corpus), neurons, stats)
    loop: dict[str, Any] = {
        "alpha": alpha,
        "alpha_step": alpha_step,
        "alpha_cap": alpha_cap,
        "share": share,
        "share_step": share_step,
        "share_cap": share_cap,
        "min_drop": min_drop,
        "random_sets": random_sets,
        "bootstrap": bootstrap,
    }
    Options(**loop)  # a model may take minutes to load: what it is not needed for is checked first
    exam: dict[str, Any] = {
        "evaluator": evaluator,
        "prompts": _task_prompts(prompt) if prompt else None,
        "dev": dev,
        "test": test,
        "train": train,
        "limit": limit,
        "seed": seed,
        "allow_overlap": allow_overlap,
    }
    selected = affectron.NeuronSet.load(neurons)
    measured = _stats_beside(neurons, stats)
    columns = (text_column, label_column, task_column, split_column)
    sentences = _read_corpus(corpus, columns, task, on_bad_line, label_separator, quoting)
    Exam(None, None, sentences, **exam).tasks(selected, measured, task)
    if neutral is not None:
        sentences.where(split=test).require([neutral])
    loaded, tokenizer = _load_model(model, dtype, device, trust_remote_code)
    result = affectron.validate(
        loaded, tokenizer, sentences, selected, measured, **exam, **loop, task=task, neutral=neutral, progress=True
    )
    _save(result, output)
    if as_json:
        _print_json(result.content)
    else:
        _print_validation(result)
        print(f"saved to {output}")


def _task_prompts(given: Sequence[str]) -> dict[str, str]:
    prompts: dict[str, str] = {}
    for one in given:
        task, equals, template = one.partition("=")
        if not equals or not task:
            raise InputError(f"prompt is {one!r}, expected TASK=TEMPLATE")
        if task in prompts:
            raise InputError(f"prompt: task {task!r} is given twice")
        prompts[task] = _template(template)
    return prompts


class ProgramName(str, enum.Enum):
    zero = "zero"
    mean = "mean"
    attenuate = "attenuate"
    induce = "induce"
    amplify = "amplify"
    cross_signal = "cross-signal"


# Where no strength is given: alpha, beta, factor, omega.
_STRENGTH = {
    ProgramName.attenuate: 0.5,
    ProgramName.induce: 1.0,
    ProgramName.amplify: 2.0,
    ProgramName.cross_signal: 1.0,
}


@app.command()
def steer(
    model: ModelArgument,
    neurons: Annotated[Path, typer.Option(help="Neurons saved by select.")],
    label: Annotated[list[str], typer.Option(help="A label whose neurons are steered. Repeatable: one text for each.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(help=r"Text to continue, perhaps with {bos} in it; \n is a line break. Repeatable."),
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="File with a prompt on each line, written in the same way.")] = (
        None
    ),
    program: Annotated[ProgramName, typer.Option(help="What is done to the neurons.")] = ProgramName.induce,
    strength: Annotated[
        list[float] | None,
        typer.Option(
            help="attenuate: alpha (0.5); induce: beta (1); amplify: factor (2); cross-signal: omega (1). "
            "Repeatable: one text for each."
        ),
    ] = None,
    signal: Annotated[str | None, typer.Option(help="cross-signal: the label whose mean activation is added.")] = None,
    share: Annotated[float, typer.Option(help="Share of a label's neurons to steer, best first.")] = 1.0,
    stats: Annotated[Path | None, typer.Option(help="Statistics; default: stats.safetensors beside NEURONS.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the tokenizer's chat template.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write at most.")] = 40,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always writes the likeliest token.")] = 0.0,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="For a temperature above 0; all texts are drawn alike.")
    ] = 0,
    dtype: DtypeOption = Dtype.auto,
    device: DeviceOption = "auto",
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Continue each prompt without and with steering, side by side in one batch, as the texts are written."""
    from affectron.generation import continuations

    texts = _prompts(prompt or [], prompts)
    selected = affectron.NeuronSet.load(neurons)
    steering = []
    strengths: Sequence[float | None] = strength or [None]
    for one in dict.fromkeys(label):
        chosen = selected[one].top(share)
        if not chosen:
            raise InputError(f"label {one!r} has no neurons in {neurons}; select more with a larger --top")
        for each in strengths:
            steering.append(_program(program, chosen, lambda: _stats_beside(neurons, stats), each, signal))
    loaded, tokenizer = _load_model(model, dtype, device, trust_remote_code)
    _check_model(loaded, selected)
    columns = ["unsteered", *(f"{each.name}, {count(len(each), 'neuron')}" for each in steering)]
    found = []
    for text in texts:
        with _watched(text, columns, as_json) as watch:
            written = continuations(
                loaded,
                tokenizer,
                text,
                [None, *steering],
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=seed,
                chat=chat,
                watch=watch,
            )
            watch(written.texts)
        found.append(written)
    tokens, seconds = sum(one.tokens for one in found), sum(one.seconds for one in found)
    if as_json:
        result = {
            "programs": [{"name": each.name, "neurons": len(each)} for each in steering],
            "texts": [
                {"prompt": text, "unsteered": one.texts[0], "steered": one.texts[1:]}
                for text, one in zip(texts, found, strict=True)
            ],
            "tokens": tokens,
            "tokens_per_second": round(tokens / seconds, 1),
        }
        _print_json(result)
        return
    print(f"{count(tokens, 'token')} in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s")


def _prompts(given: Sequence[str], file: Path | None) -> list[str]:
    prompts = list(given)
    if file is not None:
        prompts += [line for line in read_text(file).splitlines() if line.strip()]
    if not prompts:
        raise InputError("no prompt is given, expected --prompt or --prompts with a line in it")
    return [_template(text) for text in prompts]


@contextmanager
def _watched(prompt: str, columns: Sequence[str], quiet: bool) -> Iterator[Callable[[list[str]], None]]:
    """Shows the texts as they are written; where nobody looks on, in a pipe, once they are complete."""
    if quiet:
        yield lambda texts: None
        return
    with Live(console=_console(), auto_refresh=False, vertical_overflow="visible") as live:
        yield lambda texts: live.update(_side_by_side(prompt, columns, texts), refresh=sys.stdout.isatty())
    if not sys.stdout.isatty():
        print()  # rich ends the line of a terminal only


def _program(
    name: ProgramName,
    neurons: NeuronList,
    load_stats: Callable[[], ActivationStats],
    strength: float | None,
    signal: str | None,
) -> Program:
    if name not in _STRENGTH and strength is not None:
        raise InputError(f"strength is {strength}, but the program {name.value} has none")
    if (name is ProgramName.cross_signal) != (signal is not None):
        raise InputError(f"signal is {signal!r}, expected a label with the program cross-signal and none without it")
    strength = _STRENGTH.get(name, 0.0) if strength is None else strength
    match name:
        case ProgramName.zero:
            return affectron.zero(neurons)
        case ProgramName.mean:
            return affectron.mean(neurons, load_stats())
        case ProgramName.attenuate:
            return affectron.attenuate(neurons, load_stats(), strength)
        case ProgramName.induce:
            return affectron.induce(neurons, load_stats(), strength)
        case ProgramName.amplify:
            return affectron.amplify(neurons, strength)
        case ProgramName.cross_signal:
            return affectron.cross_signal(neurons, load_stats(), str(signal), strength)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="What to do (.toml); docs/run.md has every option.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder that all files go to; default: the file's output.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be run and about how long.")] = False,
    allow_overlap: AllowOverlap = False,
    as_json: JsonOption = False,
) -> None:
    """A whole experiment: screen, select, validate, ablate, induce, and a report. What is done is not done again."""
    from affectron import runs
    from affectron._internal.progress import duration

    found = runs.load_config(config)
    if output is not None:
        found = dataclasses.replace(found, output=output)
    if allow_overlap:
        found = dataclasses.replace(found, allow_overlap=True)
    _quiet_transformers()
    if dry_run:
        stages = runs.plan(found)
    else:
        page, stages = runs.run(found, say=_say, progress=True)
    if as_json:
        result: dict[str, Any] = {"stages": [dataclasses.asdict(stage) for stage in stages]}
        _print_json(result if dry_run else {"report": str(page), **result})
        return
    rows = [(one.stage, one.reason, "-" if one.seconds is None else duration(one.seconds)) for one in stages]
    _print_table(f"{config.name} in {found.output}", ("stage", "", "about" if dry_run else "took"), rows)
    if not dry_run:
        print(f"report written to {page}")


@app.command()
def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder with stats.safetensors, neurons.json, validation.json.")
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write to; default: RUN/report.")] = (
        None
    ),
    allow_overlap: AllowOverlap = False,
    as_json: JsonOption = False,
) -> None:
    """Write an HTML page with the tables and figures of a run."""
    page = affectron.build_report(run, output, allow_overlap=allow_overlap)
    if as_json:
        _print_json({"output": str(page)})
    else:
        print(f"report written to {page}")
