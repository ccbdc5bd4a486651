"""The configuration of the plug-in: the entry ``affectron`` of vLLM's ``--additional-config``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from affectron.errors import InputError

#: Key of the configuration, and of the program's name in a request.
KEY = "affectron"


@dataclass(frozen=True)
class Settings:
    """The configuration of the plug-in.

    Attributes:
        programs: the folder of the programs, ``<name>.safetensors`` each.
        capacity: places in each site's table. Programs take one each, schedules one for each different program.

    Raises:
        InputError: a value is not as described here.
    """

    programs: Path
    capacity: int = 16

    def __post_init__(self) -> None:
        if type(self.capacity) is not int or not 1 <= self.capacity <= 1 << 16:
            raise InputError(f"capacity is {self.capacity!r}, expected a whole number from 1 to {1 << 16}")

    @classmethod
    def of(cls, config: Any) -> Settings | None:
        """The settings in a ``VllmConfig``; None where there are none, so that the plug-in does nothing.

        Raises:
            InputError: they are not ``{"programs": FOLDER, "capacity": NUMBER}``, where the capacity may be left out.
        """
        additional = config.additional_config
        if not isinstance(additional, dict) or KEY not in additional:
            return None
        given, known = additional[KEY], [field.name for field in fields(cls)]
        folder = given.get("programs") if isinstance(given, dict) else None
        if not isinstance(folder, str) or not folder or not {*given} <= {*known}:
            raise InputError(
                f'{KEY} is {given!r} in additional_config, expected {{"programs": "FOLDER"}}, perhaps with "capacity"'
            )
        return cls(**{**given, "programs": Path(folder)})
