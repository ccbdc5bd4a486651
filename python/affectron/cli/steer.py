"""``affectron steer``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import affectron
from affectron._internal.files import read_text
from affectron._internal.wording import count
from affectron.cli.inputs import check_model, label_questions, load_model, read_corpus
from affectron.cli.options import (
    JsonOption,
    LabelPromptOption,
    ModelArgument,
    NeuronsOption,
    StatsOption,
    template_text,
)
from affectron.cli.output import print_json, print_table, say, watched
from affectron.cli.programs import (
    LabelOption,
    MaxDoseOption,
    ProgramOption,
    ReferenceOption,
    ShareOption,
    SignalOption,
    Steered,
    StrengthOption,
    Where,
    WhereOption,
    found_stats,
    limited,
    members_of,
    recipe_of,
)
from affectron.errors import InputError
from affectron.interventions.recipes import ProgramName, Recipe, all_activations
from affectron.options import Columns, Load

if TYPE_CHECKING:
    from affectron import NeuronList, NeuronSet
    from affectron.corpus import Sentence
    from affectron.experiments.results import BetaChoice


def steer(
    model: ModelArgument,
    neurons: NeuronsOption,
    label: LabelOption,
    load: Load,
    columns: Columns,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help=r"Text to continue, perhaps with {bos} in it; \n is a line break. Repeatable."),
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="File with a prompt on each line, written in the same way.")] = (
        None
    ),
    program: ProgramOption = ProgramName.contrast,
    strength: StrengthOption = None,
    loss_budget: Annotated[
        float | None,
        typer.Option(
            help="In place of a strength: take the largest beta or omega under which the loss of a token of neutral "
            "text, all of it steered, is expected to rise by no more than this, in nats."
        ),
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="With a loss budget: labelled sentences whose split dev is the neutral text.")
    ] = None,
    neutral: Annotated[
        str | None, typer.Option(help="Label whose text is neutral; default: text without the label that is steered.")
    ] = None,
    max_dose: MaxDoseOption = None,
    reference: ReferenceOption = None,
    signal: SignalOption = None,
    where: WhereOption = Where.all,
    share: ShareOption = 1.0,
    stats: StatsOption = None,
    label_prompt: LabelPromptOption = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the tokenizer's chat template.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write at most.")] = 40,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always writes the likeliest token.")] = 0.0,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="For a temperature above 0; all texts are drawn alike.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Continue each prompt without and with steering, side by side in one batch, as the texts are written.

    Each label is steered with each strength, in a text of its own: both options can be repeated.

    P(label) is the probability of the label among those of its task that the unsteered model gives to the texts.
    """
    from affectron.generation import continuations

    texts = _prompts(prompt or [], prompts)
    selected = affectron.NeuronSet.load(neurons)
    questions = label_questions(label_prompt or (), selected, neurons)
    lists = [members_of(selected, name, share, neurons) for name in dict.fromkeys(label)]
    recipe = recipe_of(program, neurons, stats, reference, signal, max_dose)
    strengths: Sequence[float | None] = strength or [None]
    # What needs no model is checked before it is loaded: strengths by making the programs.
    programs = [(members, recipe.make(members, value)) for members in lists for value in strengths]
    neutral_texts = _neutral_texts(recipe, lists, loss_budget, strength, corpus, neutral, columns)
    loaded, tokenizer = load_model(model, load)
    check_model(loaded, tokenizer, selected)
    choices: dict[str, BetaChoice] = {}
    if loss_budget is not None:
        for members in lists:
            make, sentences = partial(recipe.make, members), neutral_texts[members.label]
            choices[members.label] = affectron.choose_beta(loaded, tokenizer, sentences, make, budget=loss_budget)
        programs = [(members, recipe.make(members, choices[members.label].beta)) for members in lists]
    measured = found_stats(recipe, neurons, stats)
    total = None if measured is None else all_activations(measured)
    steered = [Steered.of(members, made, limited(made, where), total) for members, made in programs]
    if not as_json:
        for name, choice in choices.items():
            _print_curve(name, choice)
    headings = ["unsteered", *(one.heading for one in steered)]
    results = []
    for text in texts:
        with watched(text, headings, as_json) as watch:
            written = continuations(
                loaded, tokenizer, text, [None, *(one.acting for one in steered)], max_new_tokens=max_new_tokens,
                temperature=temperature, seed=seed, chat=chat, watch=watch,
            )  # fmt: skip
            watch(written.texts)
        results.append(written)
    probabilities = _probabilities(loaded, tokenizer, [one.texts for one in results], steered, selected, questions)
    changed = [
        sum(written.texts[column] != written.texts[0] for written in results) for column in range(1, len(steered) + 1)
    ]
    tokens, seconds = sum(written.tokens for written in results), sum(written.seconds for written in results)
    if as_json:
        print_json(
            {
                "programs": [
                    {
                        "name": one.acting.name,
                        "neurons": len(one.program),
                        "dose": None if one.dose is None else one.dose[0],
                        "changed": number,
                        "probability": pair and {"unsteered": pair[0], "steered": pair[1]},
                    }
                    for one, number, pair in zip(steered, changed, probabilities, strict=True)
                ],
                "choices": {name: choice.to_json() for name, choice in choices.items()},
                "texts": [
                    {"prompt": text, "unsteered": written.texts[0], "steered": written.texts[1:]}
                    for text, written in zip(texts, results, strict=True)
                ],
                "tokens": tokens,
                "tokens_per_second": round(tokens / seconds, 1),
            }
        )
        return
    rows = [
        (one.acting.name, one.neurons.label, *(f"{value:.3f}" for value in pair))
        for one, pair in zip(steered, probabilities, strict=True)
        if pair
    ]
    if rows:
        print_table("mean P(label) of the texts", ("program", "label", "unsteered", "steered"), rows)
    for one, number in zip(steered, changed, strict=True):
        if not number:
            print(f"no text changed: {one.reason}")
    print(f"{count(tokens, 'token')} in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s")


def _prompts(given: Sequence[str], file: Path | None) -> list[str]:
    prompts = list(given)
    if file is not None:
        prompts += [line for line in read_text(file).splitlines() if line.strip()]
    if not prompts:
        raise InputError("no prompt is given, expected --prompt or --prompts with a line in it")
    return [template_text(text) for text in prompts]


def _neutral_texts(
    recipe: Recipe,
    lists: Sequence[NeuronList],
    loss_budget: float | None,
    strength: Sequence[float] | None,
    corpus: str | None,
    neutral: str | None,
    columns: Columns,
) -> dict[str, list[Sentence]]:
    """Label -> the neutral text that its strength is chosen on; empty without a budget."""
    from affectron.experiments.doses import neutral_text

    if loss_budget is None:
        for name, value in (("corpus", corpus), ("neutral", neutral)):
            if value is not None:
                raise InputError(f"{name} is {value!r}, which goes with --loss-budget")
        return {}
    recipe.of_shifts("loss_budget", loss_budget)
    if strength:
        raise InputError(f"strength is {strength[0]:g} and loss_budget {loss_budget:g}, expected one of them")
    if corpus is None:
        raise InputError(
            f"loss_budget is {loss_budget:g} without a corpus; give --corpus, labelled sentences with a split dev"
        )
    sentences = read_corpus(corpus, columns, None)
    return {members.label: neutral_text(sentences, members.label, members.task, neutral=neutral) for members in lists}


def _probabilities(
    model: Any,
    tokenizer: Any,
    texts: Sequence[Sequence[str]],
    steered: Sequence[Steered],
    selected: NeuronSet,
    questions: Mapping[str, str],
) -> list[tuple[float, float] | None]:
    """Mean P of each program's label of the texts without and with it; ``texts`` has a row for each prompt."""
    from affectron.evaluation.label_likelihood import label_probabilities

    every = [text for row in texts for text in row]
    found: dict[str, Any] = {}
    try:
        for task in dict.fromkeys(one.neurons.task for one in steered):
            asked = label_probabilities(model, tokenizer, every, task, selected.tasks[task], questions)
            found[task] = asked.reshape(len(texts), -1, asked.shape[1]).mean(axis=0)
    except InputError as error:
        say(f"P(label) is left out: {error}")
        return [None] * len(steered)
    pairs: list[tuple[float, float] | None] = []
    for column, one in enumerate(steered, start=1):
        own = found[one.neurons.task][:, selected.tasks[one.neurons.task].index(one.neurons.label)]
        pairs.append((float(own[0]), float(own[column])))
    return pairs


def _print_curve(label: str, choice: BetaChoice) -> None:
    rows = [(f"{dose.beta:.3g}", "not finite" if dose.rise is None else f"{dose.rise:.3f}") for dose in choice.curve]
    print_table(f"loss budget of {label}", ("beta", "nats a token"), rows)
    print(
        f"{label}: {choice.beta:.3g} is the largest beta up to which the loss of a token is expected to rise by at "
        f"most {choice.budget:g} nats"
    )
