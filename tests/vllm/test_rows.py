"""The program of each token of a batch, against a loop over the definition of schedules."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affectron.vllm.library import Served
from affectron.vllm.rows import Rows

TOKENS = 67


def made(prompt: int, pieces: tuple[tuple[int, int], ...]) -> Served:
    starts, places = zip(*pieces, strict=True)
    return Served("made", "digest", (), prompt, np.array(starts, np.int64), np.array(places, np.int32))


SERVED = [
    None,
    made(0, ((0, 0),)),  # a program
    made(3, ((0, 3),)),
    made(1, ((0, -1),)),  # the prompt alone
    made(-1, ((0, 2),)),  # generated tokens alone
    made(4, ((0, -1), (3, 5), (9, 4), (11, -1))),
]


@dataclass(frozen=True)
class Part:
    """What a forward computes of one request."""

    served: Served | None
    tokens: int
    first: int
    prompt: int

    def places(self) -> list[int]:
        """The place of each token, one by one."""
        if self.served is None:
            return [-1] * self.tokens
        places = []
        for position in range(self.first, self.first + self.tokens):
            place = self.served.prompt
            for start, piece in zip(self.served.starts.tolist(), self.served.places.tolist(), strict=True):
                if position - self.prompt >= start:
                    place = piece
            places.append(place)
        return places


PARTS = st.builds(Part, st.sampled_from(SERVED), st.integers(1, 12), st.integers(0, 30), st.integers(1, 25))
BATCHES = st.lists(PARTS, max_size=5)


def write(rows: Rows, batch: list[Part]) -> None:
    tokens, first, prompt = (
        np.array([getattr(part, name) for part in batch], dtype=np.int32) for name in ("tokens", "first", "prompt")
    )
    rows.write([part.served for part in batch], tokens, first, prompt)


@settings(max_examples=80, deadline=None)
@given(batches=st.lists(st.none() | BATCHES, min_size=1, max_size=6))
def test_each_step_has_the_places_of_its_tokens_and_nothing_of_earlier_steps(batches: list[list[Part] | None]) -> None:
    """None stands for a dummy run."""
    rows = Rows(TOKENS, torch.device("cpu"))
    address = rows.rows.data_ptr()
    for batch in batches:
        if batch is None:
            rows.clear()
        else:
            write(rows, batch)
        places = [place for part in batch or () for place in part.places()]
        assert rows.rows.tolist() == places + [-1] * (TOKENS - len(places))
        assert (rows.rows.data_ptr(), rows.rows.dtype) == (address, torch.int32)


def test_a_chunk_may_end_the_prompt_and_hold_drafts() -> None:
    rows = Rows(TOKENS, torch.device("cpu"))
    write(rows, [Part(SERVED[5], 8, 3, 5), Part(None, 2, 0, 9), Part(SERVED[4], 3, 7, 8)])
    assert rows.rows[:14].tolist() == [4, 4, -1, -1, -1, 5, 5, 5, -1, -1, -1, 2, 2, -1]


def test_a_full_batch_fits() -> None:
    rows = Rows(TOKENS, torch.device("cpu"))
    write(rows, [Part(SERVED[2], TOKENS, 0, TOKENS)])
    assert rows.rows.tolist() == [3] * TOKENS
    write(rows, [Part(None, TOKENS, 0, TOKENS)])
    assert rows.rows.tolist() == [-1] * TOKENS
