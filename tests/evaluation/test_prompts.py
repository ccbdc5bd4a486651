"""Every path that feeds text to a model begins it with the tokenizer's BOS token, once: looked at where the model is
given it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import processors

import affectron
from affectron.corpus import Corpus, Sentence
from affectron.corpus.pairs import Pair
from affectron.errors import InputError
from affectron.evaluation.batched import text_loss
from affectron.evaluation.label_likelihood import LabelLikelihood
from affectron.evaluation.linear_probe import LinearProbe
from affectron.experiments import activity
from affectron.generation import continuations
from affectron.neurons import NeuronList, NeuronSet
from affectron.screening.pairs import screen_pairs
from affectron.screening.screen import screen
from tests.support.tiny import build, make_tokenizer

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::affectron.errors.Note")]

TEXTS = ["w3 w4 w5", "<s> w6 w7", "w8"]
ROWS = [{"text": text, "label": label, "split": "train"} for text, label in zip(TEXTS, "xyx", strict=True)]
SENTENCES = [Sentence(text, ("x",), "train", str(number)) for number, text in enumerate(TEXTS)]


def given(model: Any, run: Callable[[], object]) -> list[list[int]]:
    """The rows of token ids that the model's embeddings are given, without the padding (token 0)."""
    rows: list[list[int]] = []

    def look(_: Any, args: Any) -> None:
        if args[0].shape == (2, 6):  # a Reader tries the model
            return
        rows.extend([token for token in row if token] for row in args[0].tolist())

    handle = model.get_input_embeddings().register_forward_pre_hook(look)
    try:
        run()
    finally:
        handle.remove()
    return rows


def neurons(model: Any) -> NeuronSet:
    sites = {site.name: site.neurons for site in affectron.find_sites(model)}
    return NeuronSet([NeuronList("x", "label", [(next(iter(sites)), 0, 1.0)])], sites)


def fit_probe(model: Any, tokenizer: Any) -> None:
    LinearProbe().fit(model, tokenizer, SENTENCES, SENTENCES, "label", ("x", "y"))


def ask(model: Any, tokenizer: Any) -> None:
    classifier = LabelLikelihood({"label": "{text} w9"}).classifier(model, tokenizer, SENTENCES, "label", ("w1", "w2"))
    classifier(np.arange(len(SENTENCES)))


def lose(model: Any, tokenizer: Any) -> None:
    loss, _ = text_loss(model, tokenizer, SENTENCES)
    loss(np.arange(len(SENTENCES)), (None,))


def collect(model: Any, tokenizer: Any) -> None:
    with activity.collect(model, tokenizer, Corpus.from_records(ROWS), neurons(model)):
        pass


def compare(model: Any, tokenizer: Any) -> None:
    screen_pairs(model, tokenizer, [Pair("x", TEXTS[0], TEXTS[1])])


PATHS: dict[str, Callable[[Any, Any], Any]] = {
    "screen": lambda model, tokenizer: screen(model, tokenizer, Corpus.from_records(ROWS)),
    "template": lambda model, tokenizer: screen(model, tokenizer, Corpus.from_records(ROWS), template="{text} w9"),
    "bos in the template": lambda model, tokenizer: screen(
        model, tokenizer, Corpus.from_records(ROWS), template="{bos}{text}"
    ),
    "windows": lambda model, tokenizer: screen(model, tokenizer, Corpus.from_records(ROWS), long_texts="windows"),
    "pairs": compare,
    "candidates": collect,
    "likelihood": ask,
    "probe": fit_probe,
    "text loss": lose,
}


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("path", PATHS)
def test_all_that_is_read_begins_with_bos_once(path: str, bos: bool) -> None:
    model, tokenizer = build("llama"), make_tokenizer(bos)
    tokenizer.model_max_length = 4 if path == "windows" else 100
    rows = given(model, lambda: PATHS[path](model, tokenizer))
    assert rows
    assert all(row[0] == 1 and row.count(1) == 1 for row in rows)


@pytest.mark.parametrize("path", ["screen", "likelihood", "probe", "text loss"])
def test_a_tokenizer_without_bos_gets_none(path: str) -> None:
    model, tokenizer = build("llama"), make_tokenizer(bos=False)
    tokenizer.bos_token = None
    tokenizer.add_special_tokens({"additional_special_tokens": ["<s>"]})
    rows = given(model, lambda: PATHS[path](model, tokenizer))
    assert rows
    assert len(TEXTS) * sum(row[0] == 1 for row in rows) == len(rows)  # one of the texts writes <s> itself


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("prompt", ["w3 w4", "{bos}w3 w4", "<s> w3 w4", "{bos}<s> w3 w4"])
def test_a_prompt_to_continue_begins_with_bos_once(prompt: str, bos: bool) -> None:
    model, tokenizer = build("llama"), make_tokenizer(bos)
    rows = given(model, lambda: continuations(model, tokenizer, prompt, [None], max_new_tokens=1))
    assert rows == [[1, 6, 7]]


def test_a_prompt_to_continue_is_not_ended() -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    around = [("<s>", 1), ("</s>", 2)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=around)
    rows = given(model, lambda: continuations(model, tokenizer, "w3 w4", [None], max_new_tokens=1))
    assert rows == [[1, 6, 7]]


def test_more_than_the_model_reads_is_not_continued() -> None:
    model, tokenizer = build("gpt2"), make_tokenizer()  # 64 positions
    prompt = " ".join(["w3"] * 60)
    continuations(model, tokenizer, prompt, [None], max_new_tokens=3)
    with pytest.raises(InputError, match="prompt has 61 tokens and max_new_tokens is 4, but the model reads 64"):
        continuations(model, tokenizer, prompt, [None], max_new_tokens=4)


@pytest.mark.parametrize("bos", ["", "<s> "])
def test_a_chat_template_is_continued_as_it_stands(bos: str) -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    tokenizer.chat_template = bos + "{% for m in messages %}w1 {{ m['content'] }} w2{% endfor %}"
    rows = given(model, lambda: continuations(model, tokenizer, "w3", [None], max_new_tokens=1, chat=True))
    assert rows == [[1] * bool(bos) + [4, 6, 5]]


def test_statistics_say_that_bos_was_added_and_do_not_merge_with_others() -> None:
    model, corpus = build("llama"), Corpus.from_records(ROWS)
    bare = make_tokenizer(bos=False)
    added, written = (screen(model, bare, corpus, template=template) for template in ("{text}", "{bos}{text}"))
    assert (added.provenance["added_bos"], written.provenance["added_bos"]) == ("<s>", None)
    assert screen(model, make_tokenizer(), corpus).provenance["added_bos"] is None
    for site in added.sites:
        np.testing.assert_array_equal(added.mean[site], written.mean[site])
    old = affectron.ActivationStats(added.tasks, added.segments, arrays(added), without(added.provenance, "added_bos"))
    with pytest.raises(InputError, match="added_bos is '<s>' in one and None in the other"):
        added.merge(old)
    old = affectron.ActivationStats(
        written.tasks, written.segments, arrays(written), without(written.provenance, "added_bos")
    )
    assert written.merge(old).provenance["template"] == "{bos}{text}"


def arrays(stats: affectron.ActivationStats) -> dict[str, dict[str, Any]]:
    from affectron.stats import FIELDS

    return {site: {name: getattr(stats, name)[site] for name in FIELDS} for site in stats.sites}


def without(provenance: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in provenance.items() if name != key}


def test_the_command_line_says_once_that_bos_is_added(tmp_path: Path) -> None:
    model = tmp_path / "model"
    build("llama").save_pretrained(model)
    make_tokenizer(bos=False).save_pretrained(model)
    corpus = tmp_path / "c.jsonl"
    corpus.write_text("\n".join(map(json.dumps, ROWS)))
    command = Path(sys.executable).with_name("affectron")
    if shutil.which(command) is None:
        pytest.skip("the command is not installed")
    done = subprocess.run(
        [command, "screen", model, corpus, "-o", tmp_path / "s.safetensors", "--shards", "2"],
        capture_output=True,
        text=True,
        check=True,
    )
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: the beginning-of-sequence token '<s>' is put before every text, "
        "since neither tokenizer nor template does"
    ]
