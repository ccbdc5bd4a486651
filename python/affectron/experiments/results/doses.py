"""Choice of a strength: what the strengths that were tried do to neutral text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from affectron._internal.display import Shown
from affectron._internal.records import from_plain, to_plain
from affectron.errors import InputError


@dataclass(frozen=True)
class Dose(Shown):
    """A strength that was tried.

    Attributes:
        beta: the strength.
        rise: rise of the loss of a token, expected over text that the unsteered model would write, in nats: the
            divergence of the next token on neutral text (:class:`affectron.evaluation.divergence.Divergence`). None
            where it is not finite.
    """

    beta: float
    rise: float | None

    def within(self, budget: float) -> bool:
        """Tell whether the rise is finite and at most ``budget``."""
        return self.rise is not None and self.rise <= budget


@dataclass(frozen=True)
class BetaChoice(Shown):
    """Result of :func:`affectron.choose_beta`.

    Attributes:
        beta: the strength that was chosen. No smaller one of the curve is beyond the budget.
        budget: largest rise that was allowed, in nats a token.
        curve: all strengths that were tried, ascending.
    """

    beta: float
    budget: float
    curve: tuple[Dose, ...]

    def __post_init__(self) -> None:
        betas = [dose.beta for dose in self.curve]
        if betas != sorted(set(betas)) or self.beta not in betas:
            raise InputError(f"curve has beta {betas}, expected ascending numbers, with beta {self.beta} among them")

    @property
    def bounded(self) -> bool:
        """True where a larger strength was tried and found beyond the budget."""
        return any(not dose.within(self.budget) for dose in self.curve)

    def to_json(self) -> dict[str, Any]:
        """The choice as a JSON object."""
        return dict(to_plain(self))

    @classmethod
    def from_json(cls, content: Mapping[str, Any], file: str = "content") -> BetaChoice:
        """The choice of a JSON object that :meth:`to_json` gave. ``file`` names it in messages.

        Raises:
            InputError: a field is missing, unknown, of another type or out of its bound; names the field.
        """
        return from_plain(cls, dict(content), file)
