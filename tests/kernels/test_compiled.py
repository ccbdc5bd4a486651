"""The Triton kernels compiled ahead of time for sm_80, sm_90 and gfx942: no spills, and wide loads.

A load is wide where every lane asks for 16 bytes, the most that one instruction takes: gate, up and h are read and
the output is written so, at a row length that is a multiple of 16. Small or uniform values of a block (tile numbers,
row numbers, the store of a partial) may be narrower.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def code() -> list[dict]:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("compile.py")],
        env={key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_no_spills(code):
    assert not [entry for entry in code if entry["spills"]]


def test_wide_loads_and_stores(code):
    for entry in code:
        if entry["kernel"] in ("merge_kernel", "add_carried_kernel"):
            continue
        once = entry["bytes"] / (16 * entry["lanes"])
        backward = entry["kernel"] in ("glu_backward_kernel", "glu_attribution_kernel")  # grad too, and two outputs
        assert entry["loads"] >= once * (1 + entry["gated"] + backward), entry
        assert entry["stores"] >= (once * (1 + backward) if entry["kernel"].startswith("glu") else 0), entry


def test_every_kernel_and_form_is_here(code):
    kernels = {"glu_kernel", "glu_stats_kernel", "glu_steer_kernel", "neuron_stats_kernel", "merge_kernel"}
    kernels |= {"glu_backward_kernel", "glu_attribution_kernel", "add_carried_kernel"}
    kernels |= {"gate_up_kernel", "down_by_neuron_kernel", "down_by_output_kernel"}
    assert {entry["kernel"] for entry in code} == kernels
    assert {entry["target"] for entry in code} == {"sm_80", "sm_90", "gfx942"}
    statistics = {(entry["target"], entry["single_pass"]) for entry in code if "stats" in entry["kernel"]}
    assert len(statistics) == 6
    sums = {(entry["target"], entry["gradients"]) for entry in code if entry["kernel"] == "glu_attribution_kernel"}
    assert len(sums) == 6
