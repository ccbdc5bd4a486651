"""Golden files: output that must not change by accident. ``AFFECTRON_GOLDEN=write`` writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "golden"


def compare(name: str, text: str) -> None:
    """Compare ``text`` with the golden file ``name``."""
    file = FOLDER / name
    if os.environ.get("AFFECTRON_GOLDEN") == "write":
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8"), f"{file} differs: AFFECTRON_GOLDEN=write writes it anew"
