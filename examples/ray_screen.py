"""Screen each file of a corpus as a task of a Ray cluster, and merge the statistics.

python examples/ray_screen.py MODEL OUTPUT FILE...

Every node reads MODEL and the files, and writes to OUTPUT.parts, under the same paths.
"""

from __future__ import annotations

import sys
from functools import reduce
from pathlib import Path

from affectron import ActivationStats, Corpus, load_model, screen


def screen_file(model: str, file: str, folder: Path) -> Path:
    """Screen one file, from where a lost task has left it, and return the path of its statistics."""
    stats = screen(*load_model(model), Corpus.from_file(file), checkpoint=folder, resume=True)
    part = folder.with_suffix(".safetensors")
    stats.save(part)
    return part


def merge(parts: list[Path], output: str) -> None:
    """Merge the statistics in the order of the files, which fixes the result."""
    reduce(ActivationStats.merge, map(ActivationStats.load, parts)).save(output)


if __name__ == "__main__":
    import ray

    model, output, *files = sys.argv[1:]
    ray.init()
    task = ray.remote(num_cpus=1, max_retries=3)(screen_file)  # GPUs: num_gpus=1, load_model(model, device="cuda")
    folders = [Path(f"{output}.parts", f"{number:05}") for number in range(len(files))]
    merge(ray.get([task.remote(model, *of_file) for of_file in zip(files, folders, strict=True)]), output)
