"""Checks of an installed wheel in an environment with nothing else. ``make wheel`` runs this file, not pytest."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import torch

import affectron
from affectron import _native, ops
from affectron.demo import MODEL

package = Path(affectron.__file__).parent
root = Path(__file__).resolve().parents[1]
source, kernels = root / "python" / "affectron", root / "kernels"
assert "site-packages" in package.parts, package


def files(folder: Path) -> set[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in paths if path.suffix not in {".pyc", ".so"}}


# The wheel has every file of the package, the demo's model included, and none is a pickle.
expected = files(source) | {f"kernels/{name}" for name in files(kernels)}
assert files(package) == expected, files(package) ^ expected
assert not [name for name in files(package) if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin"))]
assert ops.backend_for("glu_stats", "cpu")[0] == "native"

# No file has a path of the machine that built the wheel.
for path in package.rglob("*"):
    if path.is_file() and path.suffix != ".pyc":
        for place in (root, Path.home()):
            assert f"{place}/".encode() not in path.read_bytes(), (path, place)

# The licence and what is linked in are told beside the package.
about = {Path(file).name for file in distribution("affectron").files or ()}
assert {"LICENSE", "THIRD-PARTY.md"} <= about, about
assert ("affectron.cdx.json" in about) == _native.CUDA_BUILT, about

# The compiled kernels and plain torch give the same output and the same counts.
torch.manual_seed(0)
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    gate, up = torch.randn(199, 431, dtype=dtype), torch.randn(199, 431, dtype=dtype)
    segments = torch.randint(-1, 3, (199,))
    results = {}
    for backend in ("native", "reference"):
        with ops.use_backend(backend):
            buffers = ops.StatsBuffers(3, 431)
            results[backend] = (ops.glu_stats(gate, up, segments, buffers), buffers.finalize())
    (h, native), (plain, reference) = results["native"], results["reference"]
    torch.testing.assert_close(h, plain)
    assert torch.equal(native.count, reference.count)
    assert torch.equal(native.active, reference.active)
    # Each mean is accurate to 1e-6 of its own size or of the spread, whichever is larger. A difference of h in its last
    # bit moves the mean by at most that bit.
    scale = torch.maximum(reference.mean.abs(), reference.var.sqrt())
    bound = 2e-6 * scale + float(torch.finfo(dtype).eps) / 64
    assert ((native.mean - reference.mean).abs() <= bound).all()

# The CPU kernels run in the threads of torch's OpenMP runtime. A second runtime would compete for the cores.
if sys.platform == "linux":
    maps = Path("/proc/self/maps").read_text()
    runtimes = {line.split()[-1] for line in maps.splitlines() if "libgomp" in line or "libomp" in line}
    assert len(runtimes) == 1, runtimes
    assert _native.openmp()

model, tokenizer = affectron.load_model(MODEL)
assert len(affectron.find_sites(model)) == model.config.num_hidden_layers

help_text = subprocess.run(
    [Path(sys.executable).parent / "affectron", "--help"], check=True, capture_output=True, text=True
).stdout
assert all(command in help_text for command in ("demo", "info", "screen", "select", "validate", "steer", "report"))
cuda = f"CUDA {_native.CUDA_TOOLKIT / 1000:.1f}" if _native.CUDA_BUILT else "no CUDA"
print(f"the wheel works: affectron {affectron.__version__} ({cuda}) with torch {torch.__version__}")
