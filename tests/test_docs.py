"""Every Python snippet of the documentation runs, page by page, each page from its top."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from affectron.models.discovery import sites

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "```python" in page.read_text())


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "import datasets" in page.read_text():
        pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sites, "_DECLARED", {})
    text = page.read_text()
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        # Lines of the page, so that an error names them.
        code = "\n" * (text[: block.start(1)].count("\n")) + block.group(1)
        exec(compile(code, str(page), "exec"), namespace)
