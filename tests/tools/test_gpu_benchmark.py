"""benchmarks/gpu.py at tiny sizes on a CPU: what it compares, what it keeps, and what a failure costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from affectron import _native

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

# What each part has to compare: contender -> those that it is held against; True where there is a goal for it.
COMPARED: dict[str, dict[str, dict[str, bool]]] = {
    "ops": {
        "glu native": {"copy of as many bytes": True, "torch.compile silu(g) * u": True},
        "glu_stats native: 10 labels in runs": {"glu native": True, "eager hook": True},
        "glu_stats native: 10 labels shuffled": {"glu native": True},
        "glu_stats native: 64 labels shuffled": {"glu native": True},
        "glu_steer native: one program": {"glu native": True},
        "glu_steer native: 8 programs in runs": {"glu native": True},
        "glu_steer native: 8 programs row by row": {"glu native": True},
        "glu_steer native: 8 programs and none row by row": {"glu native": True},
        "glu_stats native: 10 labels in runs: peak memory": {"the output": True},
        "glu_steer native: 8 programs row by row: peak memory": {"the output": True},
        "neuron_stats native: 10 labels in runs": {"read of as many bytes": False},
        "SegmentPlan": {"glu_stats native: 10 labels in runs": False},
    },
    "mlp": {
        "masked_mlp native: none masked": {"read of as many bytes": True, "torch, five kernels": True},
        "masked_mlp native: 50% masked": {
            "masked_mlp native: none masked": True,
            "torch, five kernels, half the neurons left": False,
            "masked_mlp native: half the neurons left": False,
        },
        "masked_mlp native: half the neurons left": {"torch, five kernels, half the neurons left": False},
        "glu_steer native": {"glu native": True},
    },
    "screen": {
        "screen native": {"forward with lm_head": True, "base model": True},
        "screen native: 1108 tokens: peak memory": {"base model (buffers apart)": True},
    },
    "decode": {
        "steered native: one program": {"plain": True},
        "steered native: a program for each row": {"plain": True},
        "steered native": {"plain": True},
    },
    "attribution": {
        "glu_attribution native: backward": {
            "glu native: backward": True,
            "torch autograd and index_add": False,
        },
        "glu_attribution native: backward, gradients": {"glu_attribution native: backward": False},
        "glu_attribution native: backward: peak memory": {"the two gradients": True},
        "attribute native": {"forward with lm_head": False, "base model": False, "retain_grad on every h": False},
        "attribute native, recomputed": {"forward with lm_head": False},
        "attribute native: peak memory": {"retain_grad on every h": False},
    },
}
# The form beside the one that is chosen, where the build has both.
BESIDE = [
    "glu native, long silu",
    "glu_stats native, centred: 10 labels in runs",
    "glu_stats native, long silu, centred: 64 labels shuffled",
    "glu_steer native, long silu: 8 programs row by row",
    "neuron_stats native, centred: 10 labels in runs",
]


def run(*arguments: str, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py", "--dry-run", *arguments],
        env=os.environ | {"OUT": str(out), "OMP_NUM_THREADS": "1"},  # threads would only wait for one another
        capture_output=True,
        text=True,
        timeout=300,
    )


def records(folder: Path) -> dict[str, Any]:
    found = [json.loads(file.read_text()) for file in folder.iterdir()]
    assert all(file.name.endswith(".json") for file in folder.iterdir())
    return {record["part"]: record for record in found}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Output and records of a run of all parts."""
    out = tmp_path_factory.mktemp("out")
    done = run(out=out)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, records(out)


@pytest.mark.parametrize("part", COMPARED)
def test_every_comparison_is_there(everything: tuple[str, dict[str, Any]], part: str) -> None:
    record = everything[1][part]
    # Where a comparison is made in several works, one that has a goal stands for it.
    rows = sorted(record["rows"], key=lambda row: row["goal"] is not None)
    found = {(row["name"], row["against"]): row for row in rows}
    for name, others in COMPARED[part].items():
        for other, has_goal in others.items():
            row = found[name, other]
            assert (row["goal"] is not None) == has_goal, (name, other)
            assert row["ok"] == (row["ratio"] <= row["goal"] if has_goal else None)
            assert name in everything[0]
    if part == "ops" and _native.CUDA_BUILT:
        assert {name for name, _ in found}.issuperset(BESIDE)


def test_rows_hold_together(everything: tuple[str, dict[str, Any]]) -> None:
    for part, record in everything[1].items():
        assert (record["gpu"], record["errors"], record["not_measured"]) == ("no GPU", {}, [])
        assert record["versions"]["torch"]
        assert record["serves"]["glu"] == "native"
        times = {(row["work"], row["name"]): row["ms"] for row in record["rows"]}
        for row in record["rows"]:
            assert row["error"] is None
            if row["ms"] is not None:
                low, high = row["quartiles"]
                assert 0 < low <= row["ms"] <= high or "more" in row["work"], (part, row)
                if row["ratio"] is not None and row["against"] != "read of as many bytes":
                    assert row["ratio"] == pytest.approx(row["ms"] / times[row["work"], row["against"]])


def test_the_rows_of_precisions_and_activations(everything: tuple[str, dict[str, Any]]) -> None:
    works = {row["work"] for row in everything[1]["ops"]["rows"] if row["name"] == "glu_steer native: one program"}
    assert {work.split(" x 48 ")[1] for work in works} == {
        "bfloat16 silu",
        "bfloat16 gelu_tanh",
        "float16 silu",
        "float32 silu",
    }


# --- what goes wrong ---


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module, which writes into tmp_path."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("OUT", str(tmp_path))
    return import_module("gpu")


def test_an_unknown_part_is_named(gpu: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--dry-run", "--only", "ops,nonsense"])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.err == ("error: --only names 'nonsense', expected some of ops, mlp, screen, decode, attribution\n")
    assert not printed.out
    assert not list(tmp_path.iterdir())


def test_a_failure_loses_nothing_else(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A work that raises, a contender that does, and one that another is held against."""
    timing, record = import_module("on_gpu.timing"), import_module("on_gpu.record")

    def broken() -> None:
        raise RuntimeError("no such kernel")

    def works(scale: Any, clock: Any) -> Any:
        contenders = [
            timing.Contender("broken", "none", broken),
            timing.Contender("sound", "none", lambda: None, {"broken": 1.0}),
        ]
        yield "first", broken
        yield "second", lambda: record.rows_of("second", contenders, timing.compete(clock, contenders, 2))

    monkeypatch.setitem(gpu.PARTS, "ops", works)
    assert gpu.main(["--dry-run", "--only", "ops,mlp"]) == 1
    found = records(tmp_path)
    assert found["ops"]["errors"] == {"first": "RuntimeError: no such kernel"}
    rows = {row["name"]: row for row in found["ops"]["rows"]}
    assert rows["broken"]["error"] == "RuntimeError: no such kernel"
    assert rows["broken"]["ms"] is None
    assert rows["sound"]["ms"] > 0
    assert rows["sound"]["ratio"] is None
    assert len(found["mlp"]["rows"]) > 20
    printed = capsys.readouterr().out
    assert "ops: FAILED first: RuntimeError: no such kernel" in printed
    assert "ops: FAILED second, broken: RuntimeError: no such kernel" in printed


@pytest.mark.parametrize(("calls", "enough"), [(8, True), (1, False)])
def test_an_interrupt_keeps_whole_rounds(gpu: ModuleType, calls: int, enough: bool) -> None:
    """Of two contenders, each tried once before; with fewer than two rounds there is nothing to compare."""
    timing, scale = import_module("on_gpu.timing"), import_module("on_gpu.scale")
    left = iter(range(calls + 1))

    def run() -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    contenders = [timing.Contender("steady", "torch", lambda: None), timing.Contender("late", "torch", run)]
    if not enough:
        with pytest.raises(KeyboardInterrupt):
            timing.compete(timing.Clock(scale.DRY), contenders, 50, cold=False)
    else:
        times = timing.compete(timing.Clock(scale.DRY), contenders, 50, cold=False)
        assert {name: len(found) for name, found in times.rounds.items()} == {"steady": calls, "late": calls}


def test_what_there_is_no_time_for_is_said(gpu: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert gpu.main(["--dry-run", "--seconds", "0", "--only", "decode,screen"]) == 0
    found = records(tmp_path)
    assert found["screen"]["not_measured"] == ["screen"]
    assert found["decode"]["not_measured"] == [
        "captured step, batch 1",
        "captured step, batch 8",
        "captured step, batch 32",
        "generate, batch 1",
        "generate, batch 8",
    ]
    printed = capsys.readouterr().out
    for name in found["decode"]["not_measured"]:
        assert f"decode: NOT MEASURED, out of time: {name}" in printed


def test_a_dry_run_keeps_nothing_unasked(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OUT")
    before = list((BENCHMARKS / "results").iterdir())
    monkeypatch.setitem(gpu.PARTS, "ops", lambda scale, clock: iter([("nothing", list)]))
    assert gpu.main(["--dry-run", "--only", "ops"]) == 0
    assert list((BENCHMARKS / "results").iterdir()) == before
