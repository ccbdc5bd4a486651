"""The embedded demo: a small language model, the corpus it was trained on, and the scripts that made both. Apart
from the library, which never imports it: nothing in there knows a label by name."""

from __future__ import annotations

from pathlib import Path

#: The folder of the trained model and its tokenizer (:mod:`affectron.demo.train` writes it).
MODEL = Path(__file__).resolve().parent / "model"

#: How the model is asked for a sentence's label, by task. The answer is one token, with its leading space.
PROMPTS = {"emotion": "{bos}{text}\nEmotion:", "rhetoric": "{bos}{text}\nDevice:"}

__all__ = ["MODEL", "PROMPTS"]
