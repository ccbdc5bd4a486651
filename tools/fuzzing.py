"""A valid file of each kind, and the check that any bytes must pass: for the fuzzer and the tests of the loaders."""

from __future__ import annotations

import json
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from affectron.corpus import Corpus
from affectron.errors import InputError
from affectron.interventions import amplify, load_program, schedule
from affectron.models import load_skeleton
from affectron.neurons import NeuronList, NeuronSet
from affectron.runs.cache import Cache
from affectron.stats import FIELDS, ActivationStats

# Memory that loading may take: for each byte of the file, and for the modules that a first call imports.
_BYTES_A_BYTE = 200
_ALLOWANCE = 128 << 20


def _read_corpus(path: Path) -> None:
    list(Corpus.from_file(path, on_bad_line="skip"))


#: Kind of file -> its name and its loader.
LOADERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "stats": ("stats.safetensors", ActivationStats.load),
    "neurons": ("neurons.json", NeuronSet.load),
    "program": ("program.safetensors", load_program),
    "record": ("run.json", lambda path: Cache(path.parent)),
    "config": ("config.json", lambda path: load_skeleton(path.parent)),
    "jsonl": ("corpus.jsonl", _read_corpus),
    "csv": ("corpus.csv", _read_corpus),
    "tsv": ("corpus.tsv", _read_corpus),
    "parquet": ("corpus.parquet", _read_corpus),
}


def seed(kind: str, folder: Path) -> bytes:
    """The bytes of a valid file of this kind."""
    path = folder / LOADERS[kind][0]
    if kind == "stats":
        shapes = {name: (2,) if name == "count" else (2, 3) for name in FIELDS}
        arrays = {name: np.ones(shapes[name], dtype) for name, dtype in FIELDS.items()}
        ActivationStats({"emotion": ["anger", "joy"]}, [["anger"], ["joy"]], {"mlp": arrays}).save(path)
    elif kind == "neurons":
        NeuronSet([NeuronList("anger", "emotion", [("mlp", 1, 0.5)])], {"mlp": 3}, {}).save(path)
    elif kind == "program":
        schedule(amplify([("mlp", 1), ("mlp", 4)], 2.0), start=3, half_life=2).save(path)
    elif kind == "record":
        path.unlink(missing_ok=True)
        path.with_name("neurons.json").write_text("{}")
        Cache(folder).add("select", "key", ["neurons.json"], 1.5)
    elif kind == "config":
        path.write_text(json.dumps({"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 9}))
    elif kind == "jsonl":
        path.write_text('{"text": "a b", "label": ["joy", "irony"], "split": "dev"}\n{"text": "c", "label": "joy"}\n')
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"text": ["a b", "c"], "label": [["joy"], ["irony", "joy"]]}), path)
    else:
        rows = (("text", "label", "id"), ('"a, b"', "joy|irony", "7"), ('c "d"', "joy", ""))
        separator = "\t" if kind == "tsv" else ","
        path.write_text("".join(separator.join(row) + "\n" for row in rows))
    return path.read_bytes()


def check(kind: str, data: bytes, folder: Path) -> bool:
    """Load ``data`` as a file of this kind, and return whether it is valid.

    A refusal must be one line that names the file, and the memory must be within the bounds above.
    """
    name, load = LOADERS[kind]
    path = folder / name
    path.write_bytes(data)
    refused = ""
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(path)
    except InputError as error:
        refused = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < _ALLOWANCE + _BYTES_A_BYTE * len(data), f"{peak:,} bytes for a file of {len(data):,}"
    assert "\n" not in refused
    assert not refused or str(folder) in refused
    return not refused
