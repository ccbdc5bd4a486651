"""Embedded demo: a small language model, the corpus it was trained on, and the scripts that made both.

The library never imports it, so no label name is built into the library.
"""

from __future__ import annotations

from pathlib import Path

#: Folder of the trained model and its tokenizer, written by :mod:`affectron.demo.train`.
MODEL = Path(__file__).resolve().parent / "model"

#: Task -> prompt that asks the model for a sentence's label. The answer is one token, with its leading space.
PROMPTS = {"emotion": "{bos}{text}\nEmotion:", "rhetoric": "{bos}{text}\nDevice:"}

__all__ = ["MODEL", "PROMPTS"]
