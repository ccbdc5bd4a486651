"""Progress without a terminal: a line every half minute, with the steps done and the time left."""

from __future__ import annotations

import pytest

from affectron._internal import progress
from affectron._internal.progress import duration, track


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Current time, set by the test."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_half_minute(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with track("screening", 1500, True) as advance:
        for done in range(0, 1501, 15):
            clock[0] = 1000.0 + done / 10
            advance(done, 40 * done)
    assert capsys.readouterr().err.splitlines() == [
        "screening: 300 of 1,500, 400 tokens/s, about 2 min 0 s left",
        "screening: 600 of 1,500, 400 tokens/s, about 1 min 30 s left",
        "screening: 900 of 1,500, 400 tokens/s, about 1 min 0 s left",
        "screening: 1,200 of 1,500, 400 tokens/s, about 30 s left",
        "screening: 1,500 of 1,500, 400 tokens/s, about 0 s left",
    ]


def test_steps_without_tokens_and_nothing_done_yet(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with track("validating", 8, True) as advance:
        clock[0] += 31
        advance(0)
        clock[0] += 29  # too soon
        advance(1)
        clock[0] += 40
        advance(2)
    assert capsys.readouterr().err.splitlines() == [
        "validating: 0 of 8",
        "validating: 2 of 8, 0.02/s, about 5 min 0 s left",
    ]


def test_nothing_in_half_a_minute_or_where_none_is_asked_for(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with track("screening", 2, True) as advance:
        clock[0] += 29
        advance(2, 10)
    with track("screening", 2, False) as advance:
        clock[0] += 3600
        advance(1, 10)
    assert capsys.readouterr().err == ""


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.6, 200, 18_130)] == [
        "0 s",
        "1 min 0 s",
        "3 min 20 s",
        "5 h 2 min",
    ]
