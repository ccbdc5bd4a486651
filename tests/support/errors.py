"""Access to the message of an error, which must be one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from affectron.errors import InputError


def message(call: Callable[[], Any]) -> str:
    """Return the message of the InputError that ``call`` raises; it must be one line."""
    with pytest.raises(InputError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text
    return text
