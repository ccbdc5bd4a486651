"""Cards of the neurons that the page lists."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from affectron.errors import InputError
from affectron.report.cards import CARD_STYLE, CardView, card_views
from affectron.report.pieces import Pieces

if TYPE_CHECKING:
    from affectron import ActivationStats, NeuronSet


class Cards:
    """The cards of a neuron set, made when the first of them is asked for.

    Args:
        pieces: what is known of the neurons.

    Attributes:
        style: CSS of the cards.
    """

    style = CARD_STYLE

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self.making = threading.Lock()

    @classmethod
    def beside(cls, folder: Path, neurons: NeuronSet, stats: ActivationStats, say: Callable[[str], None]) -> Cards:
        """The cards of ``neurons``, with what lies in the folder of their file.

        Where the folder cannot be read as that of a run, ``say`` is told why, and a card has scores alone.
        """
        found = Pieces(neurons=neurons, stats=stats)
        try:
            pieces = dataclasses.replace(Pieces.read(folder), neurons=neurons, stats=stats)
            if pieces.differences:
                raise InputError("; ".join(pieces.differences))
            found = pieces
        except InputError as error:
            say(f"cards have scores alone: {error}")
        return cls(found)

    @cached_property
    def _views(self) -> dict[tuple[str, str], CardView]:
        every = card_views(self.pieces)
        return {(view.site, str(view.index)): view for views in every.values() for view in views}

    def html(self, site: str, index: str) -> str:
        """The card of a neuron, as a part of a page.

        Raises:
            InputError: the neuron is not among the selected ones.
        """
        with self.making:  # requests for cards come from several threads
            views = self._views
        found = views.get((site, index))
        if found is None:
            raise InputError(f"neuron {index} of {site!r} is not selected for any label")
        return found.html()
