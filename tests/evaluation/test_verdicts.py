"""The verdict follows its rule."""

from __future__ import annotations

import pytest

from affectron.evaluation.verdicts import verdict


@pytest.mark.parametrize(
    ("interval", "beats", "specific", "expected"),
    [
        ((-0.2, -0.01), True, (-0.2, -0.01), "specific"),
        ((-0.2, -0.01), True, None, "specific"),  # there are no others to suffer
        ((-0.2, -0.01), True, (-0.2, 0.0), "unspecific"),
        ((-0.2, -0.01), False, (-0.2, -0.01), "unspecific"),
        ((-0.2, 0.0), True, (-0.2, -0.01), "no effect"),
        ((0.1, 0.2), False, (0.1, 0.2), "no effect"),
        ((-0.2, 0.0), None, None, "no effect"),
        ((-0.2, -0.01), None, (-0.2, -0.01), None),
    ],
)
def test_the_verdict_follows_its_rule(interval, beats, specific, expected) -> None:
    assert verdict(interval, beats, specific) == expected
