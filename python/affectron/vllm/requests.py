"""The program of a request: its name, admission, and the salt of its cached keys and values."""

from __future__ import annotations

from typing import Any

from affectron.errors import InputError
from affectron.vllm.library import Library, Served
from affectron.vllm.settings import KEY

_MISSING = object()


def named(params: Any) -> Any:
    """The value that the parameters of a request give for the program; None without one.

    Raises:
        InputError: the value is None, or the request is not one for text.
    """
    given = getattr(params, "extra_args", None) or getattr(params, "extra_kwargs", None) or {}
    value = given.get(KEY, _MISSING)
    if value is _MISSING:
        return None
    if value is None:
        raise InputError(f"{KEY} is None, expected the name of a program")
    return value


def admit(params: Any, library: Library | None, *, resumable: bool, optimistic: bool) -> Served | None:
    """The program of a request, or None; checks that the request can be steered.

    Args:
        params: ``SamplingParams`` or ``PoolingParams`` of the request.
        library: the programs; None if the plug-in is not configured.
        resumable: the prompt of the request grows while it is served.
        optimistic: positions after rejected drafts are not known when a step begins.

    Raises:
        InputError: the program is unknown, or the request is of a kind that cannot be steered.
    """
    name = named(params)
    if name is None:
        return None
    if library is None:
        raise InputError(f"{KEY} is {name!r}, but the server was started without programs (--additional-config)")
    if not isinstance(name, str) or name not in library:
        raise InputError(f"{KEY} is {name!r}, expected one of {library.names}")
    if not hasattr(params, "extra_args"):
        raise InputError(f"{KEY} is {name!r} in a pooling request, expected one that generates text")
    if resumable:  # each part may name another program, and all share the salt of the first
        raise InputError(f"{KEY} is {name!r} in a request whose prompt grows, expected one with a whole prompt")
    served = library[name]
    if optimistic and served.windowed:
        raise InputError(
            f"{KEY} is {name!r}, a schedule that changes after some generated tokens, which asynchronous scheduling "
            "with speculative decoding cannot count; expected another program (or --no-async-scheduling)"
        )
    return served


def salted(served: Served | None, prompt: int, salt: str | None) -> str | None:
    """The salt of a request's cached keys and values: requests have the same one only if the client's salt is the same
    and each position of their texts is steered alike.

    vLLM finds cached blocks by their tokens and this text. Without it a request would read what another program wrote.
    A schedule also needs the length of the prompt: in a later prompt, the answer to an earlier one is no longer
    generated. Salts of unsteered requests are marked too, or a client could write the salt of a program.

    Args:
        served: program of the request; None for none.
        prompt: length of its prompt.
        salt: the client's salt.
    """
    if served is None:
        return f"{KEY}:::{salt}" if salt else None
    return f"{KEY}:{served.digest}:{'' if served.constant else prompt}:{salt or ''}"
