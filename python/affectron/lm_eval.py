"""The model ``affectron`` of lm-evaluation-harness: its tasks under a program.

``python -m affectron.lm_eval`` is the harness's own command with this model in it; importing the module enters the
model for ``lm_eval.simple_evaluate`` (docs/lm-eval.md).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import affectron
from affectron.cli.inputs import stats_beside
from affectron.errors import InputError
from affectron.interventions import load_program
from affectron.interventions.recipes import ProgramName, Recipe

try:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
except ImportError as missing:
    raise InputError(
        f"affectron.lm_eval needs {missing.name or missing}, which is not installed: pip install 'affectron[lm-eval]'"
    ) from missing

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from affectron import Program, Schedule


@register_model("affectron")
class SteeredLM(HFLM):  # type: ignore[misc] # the harness has no types
    """A causal or encoder-decoder model of transformers, every forward of which is steered by one program.

    Args:
        pretrained, options: as for the harness's model ``hf``.
        program: a kind of program as ``affectron steer --program`` has them, or a file that
            :meth:`affectron.Program.save` or :meth:`affectron.Schedule.save` wrote; None steers nothing.
        neurons: of a kind, the file of the selected neurons.
        label: of a kind, the label whose neurons are steered.
        stats: of a kind, the file of statistics; by default stats.safetensors beside ``neurons``.
        strength: of a kind, its strength; by default the usual one.
        share: of a kind, the share of the label's neurons, best first; by default all.
        reference, signal, max_dose: of some kinds, as for ``affectron steer``.

    Raises:
        InputError: an option does not go with the program, a file cannot be used, or the model lacks a neuron.
    """

    def __init__(
        self,
        pretrained: Any,
        *,
        program: str | None = None,
        neurons: str | None = None,
        label: str | None = None,
        stats: str | None = None,
        strength: float | None = None,
        share: float | None = None,
        reference: str | None = None,
        signal: str | None = None,
        max_dose: float | None = None,
        **options: Any,
    ) -> None:
        self.program: Program | Schedule | None = None
        if program in [kind.value for kind in ProgramName]:
            if neurons is None or label is None:
                raise InputError(f"program is {program!r} without neurons and label, expected both in --model_args")
            file = Path(neurons)
            members = affectron.NeuronSet.load(file)[str(label)].top(1.0 if share is None else share)
            if not members:
                raise InputError(f"label {label!r} has no neurons in {file}, expected a label that has some")
            recipe = Recipe(
                ProgramName(program), lambda: stats_beside(file, Path(stats) if stats else None), reference, signal,
                max_dose,
            )  # fmt: skip
            self.program = recipe.make(members, strength)
        else:
            given = {
                "neurons": neurons, "label": label, "stats": stats, "strength": strength, "share": share,
                "reference": reference, "signal": signal, "max_dose": max_dose,
            }  # fmt: skip
            for name, value in given.items():
                if value is not None:
                    kinds = ", ".join(kind.value for kind in ProgramName)
                    raise InputError(f"{name} is {value!r} and program {program!r}, expected program one of {kinds}")
            self.program = None if program is None else load_program(program)
        super().__init__(pretrained, **options)
        with self._steered() as steering:  # a program of another model is refused before the first task
            self._scheduled = steering is not None and steering.scheduled

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
        self._check_positions()
        with self._steered():
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
        self._check_positions()
        with self._steered():
            return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
        with self._steered():
            return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def _steered(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.program is None else affectron.intervene(self.model, self.program)

    def _check_positions(self) -> None:
        """Refuse a schedule: the rows of a batch have answers that begin at different tokens, and nothing is written.

        Raises:
            InputError: the program is a schedule.
        """
        if self.program is not None and self._scheduled:
            raise InputError(
                f"{self.program.name} depends on the position in a text, which a log-likelihood does not have, "
                "expected a program that acts on all tokens; schedules are for tasks that generate"
            )


def main() -> None:
    """Run the command of the harness; bad input to the program ends in one line."""
    try:
        cli_evaluate()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
