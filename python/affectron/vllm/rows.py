"""The program of each token of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from affectron.vllm.library import Served


class Rows:
    """The place of each token's program in the tables, written before each forward.

    The tensor keeps its address, so that a step which was compiled, or captured into a graph, reads what is written
    later.

    Attributes:
        rows: int32 [tokens] on the device: -1 for a token that is not steered, and for padding.
    """

    def __init__(self, tokens: int, device: torch.device) -> None:
        self.rows = torch.full((tokens,), -1, dtype=torch.int32, device=device)
        self._written = 0  # rows from here on are -1

    def write(
        self,
        programs: Sequence[Served | None],
        tokens: NDArray[np.integer],
        first: NDArray[np.integer],
        prompt: NDArray[np.integer],
    ) -> None:
        """Write the rows of a batch of B requests, one after another.

        Args:
            programs: program of each request.
            tokens: integers [B]: its tokens in this batch.
            first: integers [B]: position of the first of them in its text.
            prompt: integers [B]: length of its prompt.
        """
        if not any(programs):
            self.clear()
            return
        places = np.array([-1 if program is None else program.prompt for program in programs], dtype=np.int32)
        host = np.repeat(places, tokens)
        ends = np.cumsum(tokens)
        for request, program in enumerate(programs):
            if program is not None and not program.constant:
                generated = int(first[request]) - int(prompt[request]) + np.arange(tokens[request], dtype=np.int64)
                host[ends[request] - tokens[request] : ends[request]] = program.places_at(generated)
        self._copy(host)

    def clear(self) -> None:
        """Make all tokens unsteered."""
        if self._written:
            self._copy(np.empty(0, dtype=np.int32))

    def _copy(self, host: NDArray[np.int32]) -> None:
        length = max(len(host), self._written)
        source = torch.from_numpy(np.concatenate([host, np.full(length - len(host), -1, dtype=np.int32)]))
        if not self.rows.is_cpu:  # a new pinned block each time: torch keeps it until the copy is done
            source = source.pin_memory()
        self.rows[:length].copy_(source, non_blocking=True)
        self._written = len(host)
