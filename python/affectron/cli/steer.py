"""``affectron steer``."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import affectron
from affectron._internal.files import read_text
from affectron._internal.names import MAX, RMS
from affectron._internal.wording import count
from affectron.cli.inputs import check_model, load_model, stats_beside
from affectron.cli.options import JsonOption, ModelArgument, template_text
from affectron.cli.output import print_json, watched
from affectron.errors import InputError
from affectron.options import Load

if TYPE_CHECKING:
    from affectron import ActivationStats, NeuronList, Program, Schedule


class ProgramName(str, enum.Enum):
    zero = "zero"
    mean = "mean"
    attenuate = "attenuate"
    induce = "induce"
    amplify = "amplify"
    cross_signal = "cross-signal"


class Where(str, enum.Enum):
    all = "all"
    prompt = "prompt"
    generated = "generated"


# Where no strength is given: alpha, beta, factor, omega.
_STRENGTH = {
    ProgramName.attenuate: 0.5,
    ProgramName.induce: 1.0,
    ProgramName.amplify: 2.0,
    ProgramName.cross_signal: 1.0,
}


def steer(
    model: ModelArgument,
    neurons: Annotated[Path, typer.Option(help="Neurons saved by select.")],
    label: Annotated[list[str], typer.Option(help="A label whose neurons are steered. Repeatable: one text for each.")],
    load: Load,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help=r"Text to continue, perhaps with {bos} in it; \n is a line break. Repeatable."),
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="File with a prompt on each line, written in the same way.")] = (
        None
    ),
    program: Annotated[ProgramName, typer.Option(help="What is done to the neurons.")] = ProgramName.induce,
    strength: Annotated[
        list[float] | None,
        typer.Option(
            help="attenuate: alpha (0.5); induce: beta (1); amplify: factor (2); cross-signal: omega (1). "
            "Repeatable: one text for each."
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="attenuate: the magnitude of a neuron's activation under the label that alpha is relative to, the "
            "largest (max) or the root mean square (rms); default: max.",
            metavar=f"{MAX}|{RMS}",
        ),
    ] = None,
    signal: Annotated[str | None, typer.Option(help="cross-signal: the label whose mean activation is added.")] = None,
    where: Annotated[
        Where, typer.Option(help="Tokens that are steered: all, those of the prompt, or the generated ones.")
    ] = Where.all,
    share: Annotated[float, typer.Option(help="Share of a label's neurons to steer, best first.")] = 1.0,
    stats: Annotated[Path | None, typer.Option(help="Statistics; default: stats.safetensors beside NEURONS.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the tokenizer's chat template.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write at most.")] = 40,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always writes the likeliest token.")] = 0.0,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="For a temperature above 0; all texts are drawn alike.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Continue each prompt without and with steering, side by side in one batch, as the texts are written."""
    from affectron.generation import continuations

    texts = _prompts(prompt or [], prompts)
    selected = affectron.NeuronSet.load(neurons)
    steering = []
    strengths: Sequence[float | None] = strength or [None]
    for name in dict.fromkeys(label):
        members = selected[name].top(share)
        if not members:
            raise InputError(f"label {name!r} has no neurons in {neurons}; select more with a larger --top")
        for value in strengths:
            steering.append(_program(program, members, lambda: stats_beside(neurons, stats), value, reference, signal))
    limited = [_limited(steered, where) for steered in steering]
    loaded, tokenizer = load_model(model, load)
    check_model(loaded, selected)
    named = [(steered.name, len(whole)) for steered, whole in zip(limited, steering, strict=True)]
    columns = ["unsteered", *(f"{name}, {count(touched, 'neuron')}" for name, touched in named)]
    results = []
    for text in texts:
        with watched(text, columns, as_json) as watch:
            written = continuations(
                loaded, tokenizer, text, [None, *limited], max_new_tokens=max_new_tokens, temperature=temperature,
                seed=seed, chat=chat, watch=watch,
            )  # fmt: skip
            watch(written.texts)
        results.append(written)
    tokens, seconds = sum(written.tokens for written in results), sum(written.seconds for written in results)
    if as_json:
        print_json(
            {
                "programs": [{"name": name, "neurons": touched} for name, touched in named],
                "texts": [
                    {"prompt": text, "unsteered": written.texts[0], "steered": written.texts[1:]}
                    for text, written in zip(texts, results, strict=True)
                ],
                "tokens": tokens,
                "tokens_per_second": round(tokens / seconds, 1),
            }
        )
        return
    print(f"{count(tokens, 'token')} in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s")


def _prompts(given: Sequence[str], file: Path | None) -> list[str]:
    prompts = list(given)
    if file is not None:
        prompts += [line for line in read_text(file).splitlines() if line.strip()]
    if not prompts:
        raise InputError("no prompt is given, expected --prompt or --prompts with a line in it")
    return [template_text(text) for text in prompts]


def _limited(program: Program, where: Where) -> Program | Schedule:
    match where:
        case Where.all:
            return program
        case Where.prompt:  # all given tokens: nothing stands around the text of a plain prompt
            return affectron.schedule(program, stop=0)
        case Where.generated:
            return affectron.schedule(program, where="generated")


def _program(
    name: ProgramName,
    neurons: NeuronList,
    load_stats: Callable[[], ActivationStats],
    strength: float | None,
    reference: str | None,
    signal: str | None,
) -> Program:
    if name not in _STRENGTH and strength is not None:
        raise InputError(f"strength is {strength}, but the program {name.value} has none")
    if (name is ProgramName.cross_signal) != (signal is not None):
        raise InputError(f"signal is {signal!r}, expected a label with the program cross-signal and none without it")
    if name is not ProgramName.attenuate and reference is not None:
        raise InputError(f"reference is {reference!r}, but the program {name.value} has none")
    strength = _STRENGTH.get(name, 0.0) if strength is None else strength
    match name:
        case ProgramName.zero:
            return affectron.zero(neurons)
        case ProgramName.mean:
            return affectron.mean(neurons, load_stats())
        case ProgramName.attenuate:
            return affectron.attenuate(neurons, load_stats(), strength, reference=reference or MAX)
        case ProgramName.induce:
            return affectron.induce(neurons, load_stats(), strength)
        case ProgramName.amplify:
            return affectron.amplify(neurons, strength)
        case ProgramName.cross_signal:
            return affectron.cross_signal(neurons, load_stats(), str(signal), strength)
