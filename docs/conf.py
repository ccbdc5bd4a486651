"""The configuration of the documentation's site: ``make docs`` builds it in build/docs."""

from __future__ import annotations

import re
from typing import Any

import affectron

project = "affectron"
author = "the affectron developers"
version = release = affectron.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_default_options = {"members": True, "no-value": True}
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # fields that have a docstring are members already
html_theme = "furo"
html_show_copyright = False
html_show_sourcelink = False


def escape(app: Any, what: str, name: str, value: object, options: Any, lines: list[str]) -> None:
    """Show | and * outside of literals as they are written: |h| is no substitution, and [*shape, H] no emphasis."""
    lines[:] = [re.sub(r"(``.*?``)|([|*])", lambda part: part[1] or f"\\{part[2]}", line) for line in lines]


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", escape, priority=400)  # before napoleon, whose priority is 500
