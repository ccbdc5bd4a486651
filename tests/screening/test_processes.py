"""Several processes on one corpus: they give the bytes of a single one, and a lost process costs its shards alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from affectron import Corpus, screen
from affectron.stats import ActivationStats
from tests.support.errors import message
from tests.support.tiny import build, make_tokenizer
from tests.support.workers import measure, start, start_group, succeed, write_sentences

SHARDS = 5


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> Path:
    return write_sentences(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", 100)


@pytest.fixture(scope="module")
def alone(sentences: Path, tmp_path_factory) -> bytes:
    output = tmp_path_factory.mktemp("alone") / "out.safetensors"
    succeed([start(measure, sentences, output, shards=SHARDS)])
    return output.read_bytes()


def _measure(sentences: Path, folder: str, output: str, resume: bool) -> None:
    measure(sentences, Path(output), shards=SHARDS, checkpoint=folder, checkpoint_minutes=1e-9, resume=resume)


def outputs(tmp_path: Path, size: int) -> list[bytes]:
    return [(tmp_path / f"{rank}.safetensors").read_bytes() for rank in range(size)]


@pytest.mark.parametrize("size", [2, 7])
def test_any_number_of_processes_gives_the_bytes_of_one(
    sentences: Path, alone: bytes, tmp_path: Path, size: int
) -> None:
    """Each process has its own folder, as on several nodes. 7 processes are more than there are shards."""
    arguments = (str(tmp_path / "shards-{rank}"), str(tmp_path / "{rank}.safetensors"), False)
    succeed(start_group(size, tmp_path / "store", _measure, sentences, *arguments))
    assert outputs(tmp_path, size) == [alone] * size


def test_a_run_goes_on_with_another_number_of_processes(sentences: Path, alone: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    arguments = (str(folder), str(tmp_path / "{rank}.safetensors"))
    succeed(start_group(2, tmp_path / "store", _measure, sentences, *arguments, False))
    for shard in (0, 3):
        (folder / f"shard-{shard:05d}.safetensors").unlink()
    succeed(start_group(3, tmp_path / "store", _measure, sentences, *arguments, True))
    assert outputs(tmp_path, 3) == [alone] * 3


def _measure_or_die(sentences: Path, folder: str, output: str, rank: str, resume: bool) -> None:
    if rank == "1" and not resume:
        from affectron.screening import shards as sharding

        measured = sharding.Shards._measure

        def die(self, shard, *rest):
            if shard == 3:  # the second of its shards
                os.kill(os.getpid(), signal.SIGKILL)
            return measured(self, shard, *rest)

        sharding.Shards._measure = die
    _measure(sentences, folder, output, resume)


def test_a_killed_process_costs_only_its_own_shards(sentences: Path, alone: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    arguments = (str(folder), str(tmp_path / "{rank}.safetensors"), "{rank}")
    first, second = start_group(2, tmp_path / "store", _measure_or_die, sentences, *arguments, False)
    first.join(120)
    assert first.exitcode == 1  # it ends with an error instead of waiting
    assert second.exitcode == -signal.SIGKILL
    kept = sorted(file.name for file in folder.glob("shard-*"))
    assert kept == [f"shard-{shard:05d}.safetensors" for shard in (0, 1, 2)]
    succeed(start_group(2, tmp_path / "store", _measure_or_die, sentences, *arguments, True))
    assert outputs(tmp_path, 2) == [alone] * 2


def _measure_other_options(sentences: Path, folder: str, output: str, rank: str) -> None:
    line = message(lambda: measure(sentences, Path(output), checkpoint=folder, shards=2 + int(rank)))
    assert "processes of one screening differ: shards is" in line


def test_processes_that_differ_are_refused(sentences: Path, tmp_path: Path) -> None:
    arguments = (str(tmp_path / "shards"), str(tmp_path / "out"), "{rank}")
    succeed(start_group(2, tmp_path / "store", _measure_other_options, sentences, *arguments))
    assert not (tmp_path / "shards").exists()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("nodes", [1, 2])
def test_torchrun_runs_the_command(sentences: Path, tmp_path: Path, nodes: int) -> None:
    """On one node with two processes, and on two nodes with one each, and a folder of shards each."""
    model = tmp_path / "model"
    build("llama").save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    output, log = tmp_path / "out.safetensors", tmp_path / "log.jsonl"
    where = [
        "--nnodes", nodes, "--nproc-per-node", 2 // nodes, "--local-addr", "localhost",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}",
    ]  # fmt: skip
    command = [
        "-m", "affectron", "screen", model, sentences, "-o", output, "--shards", SHARDS, "--batch-tokens", 64,
        "--log-json", log, "--json", "--resume", "--checkpoint",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen(
            [
                sys.executable, "-m", "torch.distributed.run", "--rdzv-conf", f"is_host={node == 0}",
                *map(str, [*where, *command, tmp_path / f"shards-{node}"]),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for node in range(nodes)
    ]  # fmt: skip
    try:
        ended = [node.communicate(timeout=300) for node in started]
    finally:
        for node in started:
            node.terminate()
    assert [node.returncode for node in started] == [0] * nodes, ended
    printed = "".join(out for out, _ in ended)
    assert json.loads(printed)["sentences"] == 100  # a single process prints
    whole = ActivationStats.load(output)
    alone = screen(build("llama"), make_tokenizer(), Corpus.from_file(sentences), batch_tokens=64, shards=SHARDS)
    for site in whole.sites:
        assert (whole.count[site] == alone.count[site]).all()
        assert (whole.active[site] == alone.active[site]).all()
    assert not [*tmp_path.glob("shards-*")]
    events = [json.loads(line) for line in log.read_text().splitlines()]
    summaries = [event for event in events if event["event"] == "summary"]
    assert sorted(event["rank"] for event in summaries) == [0, 1]
    assert sum(event["sentences"] for event in summaries) == 100
    assert sum(event["event"] == "checkpoint" for event in events) == SHARDS


def _launch(rank: int, size: int, port: int, interface: str = "lo") -> None:
    """Join as one of the processes that torchrun started; the store at ``port`` is that of its agent."""
    from affectron.screening import processes

    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "GLOO_SOCKET_IFNAME": interface,
    }  # fmt: skip
    processes.initialise()


def _cannot_connect(port: int) -> None:
    line = message(lambda: _launch(0, 1, port, "none7"))
    assert "GLOO_SOCKET_IFNAME is none7, expected the network interface" in line


def test_processes_that_cannot_connect_name_the_interface() -> None:
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    succeed([start(_cannot_connect, store.port)])


def _measure_as_launched(sentences: Path, rank: int, port: int, folder: str, output: str) -> None:
    from affectron.screening import processes

    again = Path(folder).exists()
    if again and rank == 0:
        time.sleep(1)  # rank 1 finds the addresses of the first start
    _launch(rank, 2, port)
    _measure_or_die(sentences, folder, output, str(rank), again)
    processes.finish()


def test_processes_that_are_started_again_find_each_other(sentences: Path, alone: bytes, tmp_path: Path) -> None:
    """The store of torchrun has the addresses of the first start still. Each node counts its own restarts."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    arguments = [
        (sentences, rank, store.port, str(tmp_path / f"shards-{rank}"), str(tmp_path / f"{rank}.safetensors"))
        for rank in range(2)
    ]
    first, second = (start(_measure_as_launched, *of_rank) for of_rank in arguments)
    for worker in (first, second):
        worker.join(120)
    assert (first.exitcode, second.exitcode) == (1, -signal.SIGKILL)
    succeed([start(_measure_as_launched, *of_rank) for of_rank in arguments])
    assert outputs(tmp_path, 2) == [alone] * 2
