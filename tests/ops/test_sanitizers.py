"""Under ``make sanitize`` a fault in the native module ends the process and is reported: else its tests would show
nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif("libasan" not in os.environ.get("LD_PRELOAD", ""), reason="for make sanitize")

# The kernel is told of one row more than `gate` has.
BEYOND = """
import torch
from affectron import _native
gate, out = torch.ones(3, 431), torch.empty(4, 431)
_native.glu((out.data_ptr(), 431), (gate.data_ptr(), 431), (0, 0), (4, 431), 0, 0, 1)
"""
# Accumulators at the end of all memory: nothing is read there, but the address of the next accumulator is computed.
NOWHERE = """
import torch
from affectron import _native
count = torch.zeros(1, dtype=torch.int64)
_native.neuron_stats((0, 5), (0, 0), (0, 5), (0, 0, 0, 1), (count.data_ptr(), 2**64 - 8, 0, 0, 5), 0, 1)
"""


@pytest.mark.parametrize(
    ("code", "report"),
    [(BEYOND, "AddressSanitizer: heap-buffer-overflow"), (NOWHERE, "runtime error: pointer index expression")],
    ids=["address", "undefined"],
)
def test_a_fault_is_reported(code: str, report: str) -> None:
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert report in done.stderr
    assert "csrc/" in done.stderr
