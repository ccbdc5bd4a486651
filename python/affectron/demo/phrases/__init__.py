"""Words of the demo corpus: phrases by label and slot, and the templates that they fill.

Braces name slots, filled by :mod:`affectron.demo.corpus`. Six of them stand for the person who speaks or is spoken of:
``{I}`` (first mention), ``{i}`` (later mentions), ``{me}``, ``{my}``, ``{was}`` and ``{myself}``. All others name a
table of phrases. Many phrases deliberately occur under several labels (crying is sad or happy, a furnace is a figure of
speech or a furnace), so that no single word decides a label.
"""

from __future__ import annotations

from affectron.demo.phrases.common import COMMON, PERSONS
from affectron.demo.phrases.devices import DEVICE_SLOTS
from affectron.demo.phrases.emotions import EMOTIONS
from affectron.demo.phrases.templates import NEUTRAL, SARCASTIC, WITH_EMOTION, WITHOUT_EMOTION

__all__ = ["COMMON", "DEVICE_SLOTS", "EMOTIONS", "NEUTRAL", "PERSONS", "SARCASTIC", "WITHOUT_EMOTION", "WITH_EMOTION"]
