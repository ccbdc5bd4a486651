"""The texts in which each of some neurons has its largest or its smallest activation, found in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affectron.corpus import Sentence
from affectron.corpus.encoding import Encoded
from affectron.experiments.results import Excerpt

#: Digits of an activation in an excerpt, as many as a shade needs.
_DIGITS = 4


class Runs(NamedTuple):
    """The run of counted tokens that each token of a batch is in: int64 [B, T] first tokens, and [B, T] ends."""

    first: Tensor
    stop: Tensor

    @classmethod
    def of(cls, counted: NDArray[np.bool_]) -> Runs:
        """The runs of ``counted`` [B, T]; those of a token that is not counted are of no meaning."""
        places = np.arange(counted.shape[1])
        first = np.maximum.accumulate(np.where(counted, 0, places + 1), axis=1)
        following = np.where(counted, len(places), places)[:, ::-1]
        stop = np.minimum.accumulate(following, axis=1)[:, ::-1]
        return cls(torch.from_numpy(first), torch.from_numpy(stop.copy()))


class Extremes:
    """The ``texts`` sentences in which each of K neurons has its largest activation, with a window around the token.

    Memory is fixed: of each of these sentences the window's activations and positions are kept. Activations that agree
    in 12 bits are equal, so that the shape of a batch, which changes the last bits, changes no choice: of equal ones
    the sentence that is read first is taken, and the first token in it.

    Args:
        sign: 1, or -1 for the smallest activations.
        texts: number of sentences of a neuron.
        window: tokens of a sentence that are kept at most.
        neurons: K.
        device: the device of the activations.

    Attributes:
        value: float32 [texts, K], ``sign`` times the rounded activation, descending; -inf where there are fewer
            sentences.
        row, start, at, length: int64 [texts, K]: number of the sentence, position of the window's first token in it, of
            the extreme in the window, and the window's tokens.
        h: float32 [texts, window, K], the activations; anything beyond the window's tokens.
    """

    def __init__(self, sign: int, texts: int, window: int, neurons: int, device: torch.device) -> None:
        self.sign, self.texts, self.window = sign, texts, window
        self.value = torch.full((texts, neurons), -torch.inf, device=device)
        self.row, self.start, self.at, self.length = torch.zeros((4, texts, neurons), dtype=torch.int64, device=device)
        self.h = torch.zeros((texts, window, neurons), device=device)

    def add(self, h: Tensor, observed: Tensor, runs: Runs, row: Tensor) -> None:
        """Take a batch in.

        Args:
            h: float32 [B, T, K], the activations.
            observed: bool [B, T], the tokens that may be an extreme.
            runs: the runs of counted tokens.
            row: int64 [B], the numbers of the sentences.
        """
        signed = _rounded(self.sign * h).where(observed[..., None] & h.isfinite(), -torch.inf)
        at = signed.argmax(1)  # the first of equal ones
        best = signed.gather(1, at[:, None]).squeeze(1)
        better = (best.amax(0) > self.value[-1]).nonzero().squeeze(1)
        if not len(better):
            return
        best, at = best[:, better], at[:, better]
        # Stable: of equal ones those that were read before come first.
        order = torch.cat([self.value[:, better], best]).argsort(dim=0, descending=True, stable=True)[: self.texts]
        sentence = (order - self.texts).clamp(min=0)
        place = at.gather(0, sentence)
        first, stop = (bound.to(h.device)[sentence, place] for bound in runs)
        start = torch.minimum(place - self.window // 2, stop - self.window).maximum(first)
        positions = (start[:, None] + torch.arange(self.window, device=h.device)[:, None]).clamp(max=h.shape[1] - 1)
        taken = h[sentence[:, None], positions, better]
        found = (
            (self.value, best.gather(0, sentence)), (self.row, row.to(h.device)[sentence]), (self.start, start),
            (self.at, place - start), (self.length, (stop - start).clamp(max=self.window)), (self.h, taken),
        )  # fmt: skip
        for kept, new in found:
            is_new, before = order >= self.texts, order.clamp(max=self.texts - 1)
            if kept.dim() == 3:
                is_new, before = is_new[:, None], before[:, None].expand_as(new)
            kept[..., better] = new.where(is_new, kept[..., better].gather(0, before))

    def found(self, assemble: Callable[[Tensor], Tensor]) -> Found:
        """The extremes on the CPU; ``assemble`` puts the neurons of several processes together."""
        parts = (self.value, self.row, self.start, self.at, self.length, self.h)
        return Found(*(assemble(part).cpu().numpy() for part in parts))


def _rounded(x: Tensor) -> Tensor:
    """float32 numbers rounded to the nearest of 12 bits."""
    return ((x.view(torch.int32) + (1 << 11)) >> 12 << 12).view(torch.float32)


class Found(NamedTuple):
    """The fields of :class:`Extremes`, in numpy."""

    value: NDArray[np.float32]
    row: NDArray[np.int64]
    start: NDArray[np.int64]
    at: NDArray[np.int64]
    length: NDArray[np.int64]
    h: NDArray[np.float32]

    @property
    def rows(self) -> NDArray[np.int64]:
        """The distinct numbers of all sentences, ascending."""
        return np.unique(self.row[np.isfinite(self.value)])

    def excerpts(
        self, column: int, sentences: Sequence[Sentence], encoded: Mapping[int, Encoded]
    ) -> tuple[Excerpt, ...]:
        """The excerpts of one neuron. ``encoded`` has the sentences at :attr:`rows`, with their pieces."""
        return tuple(
            self._excerpt(rank, column, sentences[row], encoded[row])
            for rank, row in enumerate(self.row[:, column].tolist())
            if np.isfinite(self.value[rank, column])
        )

    def _excerpt(self, rank: int, column: int, sentence: Sentence, encoded: Encoded) -> Excerpt:
        start, length = int(self.start[rank, column]), int(self.length[rank, column])
        before, after = encoded.pieces[:start], encoded.pieces[start + length :]
        h = self.h[rank, :length, column].tolist()
        return Excerpt(
            labels=tuple(sentence.labels),
            tokens=tuple(encoded.pieces[start : start + length]),
            activations=tuple(float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None for value in h),
            extreme=int(self.at[rank, column]),
            cut=(bool("".join(before).strip()), encoded.truncated or bool("".join(after).strip())),
        )
