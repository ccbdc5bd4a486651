"""The model ``affectron`` of lm-evaluation-harness: its tasks under a program.

``python -m affectron.lm_eval`` is the harness's own command with this model in it, and with ``--compare``; importing
the module enters the model for ``lm_eval.simple_evaluate`` (docs/lm-eval.md).
"""

from __future__ import annotations

import argparse
import gc
import inspect
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import affectron
from affectron.cli.output import print_table
from affectron.cli.programs import members_of, recipe_of
from affectron.errors import InputError
from affectron.interventions import load_program
from affectron.interventions.recipes import ProgramName
from affectron.models.provenance import note_other_weights

try:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
except ImportError as missing:
    _told = (
        f"affectron.lm_eval needs {missing.name or missing}, which is not installed: pip install 'affectron[lm-eval]'"
    )
    if __name__ == "__main__":
        print(f"error: {_told}", file=sys.stderr)
        raise SystemExit(2) from missing
    raise InputError(_told) from missing

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
            members = members_of(affectron.NeuronSet.load(file), str(label), 1.0 if share is None else share, file)
            of_stats = Path(stats) if stats else None
            recipe = recipe_of(ProgramName(program), file, of_stats, reference, signal, max_dose)
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
        self._note_other_weights()

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

    def _note_other_weights(self) -> None:
        origin = None if self.program is None else self.program.origin
        if origin is not None:
            note_other_weights(self.model, self.tokenizer, "neurons of the program", origin.provenance)

    def _check_positions(self) -> None:
        """Refuse a schedule: the rows of a batch have answers that begin at different tokens, and nothing is written.

        Raises:
            InputError: the program is a schedule.
        """
        if self.program is not None and self._scheduled:
            raise InputError(
                f"program {self.program.name!r} depends on the position in a text, which a log-likelihood does not "
                "have, expected a program that acts on all tokens; schedules are for tasks that generate"
            )


#: Options in --model_args that the harness's model ``hf`` does not have.
_OWN = [name for name, option in inspect.signature(SteeredLM).parameters.items() if option.kind is option.KEYWORD_ONLY]


def _compare(arguments: Sequence[str]) -> None:
    """Run the command of the harness without and with the program, and print the metrics of both."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model_args", "-a", nargs="+", action="extend", default=[])
    parser.add_argument("--output_path", "-o")
    parser.add_argument("--use_cache", "-c")
    given, others = parser.parse_known_args(arguments)
    if not any(re.search(r"(^|,)program=", part) for part in given.model_args):
        raise InputError("--compare is given without a program, expected program=... in --model_args")
    plain = [re.sub(rf"(^|,)({'|'.join(_OWN)})=[^,]*", "", part).strip(",") for part in given.model_args]
    results = []
    with TemporaryDirectory() as folder:
        # The program first: a bad one is refused before the tasks of the other run.
        for arm, model_args in (("with", given.model_args), ("without", list(filter(None, plain)))):
            output = Path(given.output_path or folder, arm)
            cache = ["--use_cache", str(Path(given.use_cache, arm))] if given.use_cache else []
            sys.argv[1:] = [*others, "--model_args", *model_args, "--output_path", str(output), *cache]
            cli_evaluate()
            gc.collect()  # the first of the models leaves its memory to the second
            written = sorted(output.rglob("results_*.json"), key=lambda file: file.name)  # by their date
            results += [json.loads(file.read_text("utf-8"))["results"] for file in written[-1:]]
    if len(results) == 2:  # of several processes the first alone writes
        columns = ("task", "metric", "filter", "without program", "with program", "difference")
        print_table("Without and with the program (± standard error)", columns, list(_changes(*reversed(results))))


def _changes(without: dict[str, Any], steered: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each metric of each task, of two results of the harness: task -> "metric,filter" -> value."""
    for task, metrics in without.items():
        for key, before in metrics.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(before, (int, float)):
                continue
            errors = [arm[task].get(f"{metric}_stderr,{filtered}") for arm in (without, steered)]
            after = steered[task][key]
            cells = [
                f"{value:.4f} ± {error:.4f}" if isinstance(error, (int, float)) else f"{value:.4f}"
                for value, error in zip((before, after), errors, strict=True)
            ]
            yield task, metric, filtered, *cells, f"{after - before:+.4f}"


def main() -> None:
    """Run the command of the harness; bad input to the program ends in one line."""
    arguments = sys.argv[1:]
    try:
        if "--compare" in arguments:
            _compare([argument for argument in arguments if argument != "--compare"])
        else:
            cli_evaluate()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
