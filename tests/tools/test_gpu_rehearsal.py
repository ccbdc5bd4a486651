"""The GPU tests, rehearsed where there is no GPU: a fault of theirs must not cost time on a machine that has one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu.pretended import PretendedDevice

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: they run there")
def test_the_gpu_tests_pass_on_a_pretended_device() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/gpu"],
        env={**os.environ, "AFFECTRON_REHEARSE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 150


def test_a_pretended_device_refuses_tensors_of_another() -> None:
    with PretendedDevice():
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        assert there.device.type == "cuda"
        for mix in (lambda: there + here, lambda: torch.cat([there, here]), lambda: torch.where(here > 0, there, 0)):
            with pytest.raises(RuntimeError, match="same device"):
                mix()
        assert (there.cpu() + here).tolist() == [2, 2, 2]
        assert torch.empty(3, device="cuda").copy_(here).device.type == "cuda"
