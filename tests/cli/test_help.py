"""The help of every command, word for word."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from affectron.cli.app import app
from tests.support import golden

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_that_of_the_golden_file(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "120", "TERMINAL_WIDTH": "120"})
    assert result.exit_code == 0
    golden.compare(f"help/{command}.txt", result.stdout)
