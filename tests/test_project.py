"""The files around the package: targets, paths, links and versions that they name exist and agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from tools import matrix

import affectron

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GUIDES = ("CONTRIBUTING.md", "RELEASE.md", "SECURITY.md")
#: Folders of the checkout that a path in a guide begins with; the others are made by a build.
TRACKED = "benchmarks|csrc|docs|kernels|python|tests|tools"


def test_every_target_is_listed_and_phony() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert set(phony.split()) - {"another"} == TARGETS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_name_targets_that_exist(page: Path) -> None:
    commands = re.findall(r"^ *make ([a-z-]+)|`make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for pair in commands for name in pair if name} <= TARGETS


@pytest.mark.parametrize("page", sorted(path.name for path in ROOT.glob("*.md")))
def test_links_outside_of_docs_lead_to_files(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).is_file()] == []


@pytest.mark.parametrize("guide", GUIDES)
def test_guides_name_paths_that_exist(guide: str) -> None:
    named = re.findall(rf"`((?:{TRACKED})/[^`]*)`", (ROOT / guide).read_text(encoding="utf-8"))
    # NAME stands for a new file; one like it exists.
    assert [path for path in named if not any(ROOT.glob(path.replace("NAME", "*")))] == []


def test_modules_have_500_lines_at_most() -> None:
    sources = [
        path
        for folder in ("benchmarks", "csrc", "kernels", "python", "tools")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".pyi", ".cpp", ".cu", ".h") and not path.is_symlink()
    ]
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in sources}
    assert len(lines) > 200
    assert {path.relative_to(ROOT).as_posix(): count for path, count in lines.items() if count > 500} == {}


def test_the_list_of_slow_tests_names_tests_that_exist() -> None:
    for name in (ROOT / "tests" / "slow.txt").read_text(encoding="utf-8").split():
        file, _, function = name.partition("::")
        assert f"def {function}" in (ROOT / file).read_text(encoding="utf-8"), name


def test_the_matrix_runs_tests_that_exist() -> None:
    assert [path for path in matrix.TESTS if not (ROOT / path).exists()] == []


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == affectron.__version__
    assert f'license = "{citation["license"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    # The required keys of the Citation File Format 1.2.
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
