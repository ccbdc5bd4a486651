"""Tables of every option of a run, from affectron.options into docs/run.md: ``python -m tools.options``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from affectron._internal.options import Options, default_of, described
from affectron._internal.records import hints, members
from affectron.runs import Config

PAGE = Path(__file__).resolve().parents[1] / "docs" / "run.md"
BEGIN, END = "<!-- options: begin -->\n", "<!-- options: end -->\n"


def tables(kind: type[Options] = Config, name: str = "", meaning: str = "") -> Iterator[str]:
    """A table of each options class, those inside it after it."""
    inner = []
    known = described(kind)
    required = [option for option in known if default_of(kind, option) is MISSING]
    rows = ["| option | default | meaning |", "| --- | --- | --- |"]
    for option in dict.fromkeys([*required, *known]):
        about = known[option]
        value = members(hints(kind)[option])[0]
        if isinstance(value, type) and issubclass(value, Options):
            inner.append((value, f"{name}.{option}" if name else option, about.help))
            continue
        bound = f" Expected: {about.bound}." if about.bound else ""
        rows.append(f"| `{option}` | {_shown(default_of(kind, option))} | {_cell(about.help + bound)} |")
    yield f"### `[{name}]`\n\n{meaning}\n" if name else "### At the top\n\nInput, output, and how they are used.\n"
    yield "\n".join(rows) + "\n"
    for value, path, about_table in inner:
        yield from tables(value, path, about_table)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("{", "`{").replace("}", "}`").replace("\\n", "`\\n`")


def _shown(default: Any) -> str:
    if default is MISSING:
        return "required"
    if default is None:
        return "not set"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, str):
        return f'`"{default}"`'
    if isinstance(default, tuple):
        return f"`[{', '.join(_shown(item).strip('`') for item in default)}]`"
    return "none" if default == {} else f"`{default}`"


def with_tables(page: str) -> str:
    """The page with its tables made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{chr(10).join(tables())}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
