"""Worker processes for tests: a server process imports the package once and forks a worker for each call.

The server has run no native code before a fork.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from affectron import Corpus, screen
from tests.support.tiny import build, make_tokenizer

WORKERS = multiprocessing.get_context("forkserver")
WORKERS.set_forkserver_preload(["tests.support.workers"])


def write_sentences(path: Path, sentences: int) -> Path:
    """Write sentences of random words with three labels of two tasks; some sentences have two labels."""
    rng = np.random.default_rng(11)
    kinds = [(["anger"], ["emotion"]), (["joy"], ["emotion"]), (["anger", "irony"], ["emotion", "rhetoric"])]
    with path.open("w") as file:
        for i in range(sentences):
            labels, tasks = kinds[i % 3]
            text = " ".join(f"w{w}" for w in rng.integers(0, 60, rng.integers(1, 15)))
            file.write(json.dumps({"text": text, "label": labels, "task": tasks}) + "\n")
    return path


def measure(corpus: Path, output: Path, **options: Any) -> None:
    """Screen a tiny model and save the statistics."""
    torch.set_num_threads(1)
    stats = screen(build("llama"), make_tokenizer(), Corpus.from_file(corpus), batch_tokens=64, **options)
    stats.save(output)


def start(function: Callable[..., None], *arguments: Any, **options: Any) -> BaseProcess:
    worker = WORKERS.Process(target=function, args=arguments, kwargs=options)
    worker.start()
    return worker


def _joined(function: Callable[..., None], rank: int, size: int, store: Path, arguments: tuple[Any, ...]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    function(*arguments)
    dist.destroy_process_group()


def start_group(size: int, store: Path, function: Callable[..., None], *arguments: Any) -> list[BaseProcess]:
    """Start ``size`` processes of one gloo group; ``{rank}`` in a text argument is replaced by the rank."""
    store.unlink(missing_ok=True)

    def of_rank(rank: int) -> tuple[Any, ...]:
        return tuple(item.format(rank=rank) if isinstance(item, str) else item for item in arguments)

    return [start(_joined, function, rank, size, store, of_rank(rank)) for rank in range(size)]


def succeed(workers: list[BaseProcess], seconds: float = 120) -> None:
    for worker in workers:
        worker.join(seconds)
    codes = [worker.exitcode for worker in workers]
    for worker in workers:
        worker.kill()
    assert codes == [0] * len(workers)
