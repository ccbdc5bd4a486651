"""``affectron chat``."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated

import typer

import affectron
from affectron.cli.inputs import check_model, label_questions, load_model, stats_beside
from affectron.cli.options import LabelPromptOption, ModelArgument, NeuronsOption, StatsOption
from affectron.cli.output import say
from affectron.errors import InputError
from affectron.options import Load

#: Only this machine reaches it.
LOOPBACK = "127.0.0.1"


def chat(
    model: ModelArgument,
    neurons: NeuronsOption,
    load: Load,
    stats: StatsOption = None,
    label_prompt: LabelPromptOption = None,
    host: Annotated[
        str, typer.Option(help="Address or name of this machine that the page is served at; default: no other machine.")
    ] = LOOPBACK,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0: a free one.")] = 8765,
) -> None:
    """Serve a page that writes with and without steering, side by side, with a slider for each label.

    It ends with Ctrl-C. P(label) is the probability of the label among those of its task that the unsteered model
    gives to a text.
    """
    try:
        from affectron.chat.app import Chat
        from affectron.chat.cards import Cards
        from affectron.chat.server import Server, address, in_address, listen
        from affectron.chat.writer import Writer
    except ImportError as error:
        raise InputError(
            f"chat needs {error.name or error}, which is not installed: pip install 'affectron[chat]'"
        ) from error

    selected = affectron.NeuronSet.load(neurons)
    questions = label_questions(label_prompt or (), selected, neurons)
    measured = stats_beside(neurons, stats)
    cards = Cards.beside(neurons.parent, selected, measured, say)
    with listen(host, port) as listening:  # before the model is loaded, which takes longer
        loaded, tokenizer = load_model(model, load)
        check_model(loaded, tokenizer, selected)
        writer = Writer(loaded, tokenizer, selected, measured, questions)
        page = Chat(writer, cards, model, [LOOPBACK, "localhost", in_address(host)])
        at = address(listening, host)
        if not ip_address(listening.getsockname()[0]).is_loopback:
            say(f"warning: anyone who reaches {at} can use the model, and read the texts of the cards")
        print(f"affectron chat: {at} (Ctrl-C ends it)", flush=True)
        Server(page).run(sockets=[listening])
