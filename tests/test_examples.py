"""The examples run as they stand, and show what they say."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import pytest
import torch
import transformers
from nbclient import NotebookClient
from numpy.testing import assert_allclose
from tokenizers import Tokenizer, models, pre_tokenizers

from affectron import ActivationStats, Corpus, load_model, screen
from tests.report.reading import Page
from tests.support.tiny import build, make_tokenizer
from tests.support.workers import write_sentences

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None):
    def run(name: str, *lines: str, arguments: Sequence[str] = ()) -> str:
        said = iter([*lines, ""])

        def answer(prompt: str) -> str:
            print("\0")  # what comes after is what was said to this line
            return next(said)

        monkeypatch.setattr("builtins.input", answer)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def grammatical(tmp_path: Path, one_thread: None) -> Path:
    """A model of 2 layers that was trained on the texts of agreement.py and their verbs, each word a token."""
    example = runpy.run_path(str(EXAMPLES / "agreement.py"))
    pairs = example["pairs_of"](example["SUBJECTS"])
    texts = [f"{pair.text} {pair.answer}" for pair in pairs] + [f"{pair.other} {pair.other_answer}" for pair in pairs]
    words = ["<s>", *sorted({word for text in texts for word in text.split()})]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<s>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=512, num_hidden_layers=2, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config)
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(text)] for text in texts])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:the beginning-of-sequence token")
def test_agreement(run, grammatical: Path) -> None:
    lines = run("agreement.py", arguments=[str(grammatical)]).splitlines()
    assert float(lines[0].split(": ")[1].split(" ")[0]) > 3
    assert lines[1] == "with 100 of 1,024 neurons masked:"
    attributed, drawn = (int(line.split(": ")[1].split("%")[0]) for line in lines[2:])
    assert attributed > drawn + 25


def test_steer_chat(run) -> None:
    said = run(
        "steer_chat.py", "This morning", "/surprise 4", "This morning", "/off", "This morning", "/envy 2", "/fear much"
    )
    labels, plain, set_surprise, surprised, set_off, again, unknown, wrong, _ = (
        part.strip() for part in said.split("\0")
    )
    assert "surprise" in labels
    assert plain
    assert set_surprise == set_off == ""
    assert surprised != plain
    assert again == plain
    assert "label 'envy'" in unknown
    assert "could not convert" in wrong


def test_per_request(run) -> None:
    lines = run("per_request.py").splitlines()
    assert [line.split(" ")[:2] for line in lines[::2]] == [["induce", strength] for strength in "4848"]
    assert all(line.strip().startswith("Yesterday evening") for line in lines[1::2])
    assert len(set(lines[1::2])) >= 3


def test_own_model(run) -> None:
    shown = run("own_model.py").splitlines()
    for label, line in enumerate(shown[2:5]):
        own, others = (float(word) for word in line.split(": ")[1].split(" against "))
        assert own > others + 0.1, line
        changes = [float(number) for number in shown[5 + label].split("[")[1].rstrip("]").replace("'", "").split(", ")]
        assert changes[label] > 0.05
        assert all(change < 1e-3 for other, change in enumerate(changes) if other != label)


def test_files_of_a_ray_cluster(tmp_path: Path, one_thread: None) -> None:
    """The task and the merge, without Ray: the counts of the files are those of the whole."""
    model, whole = tmp_path / "model", write_sentences(tmp_path / "whole.jsonl", 101)
    build("llama").save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    lines = whole.read_text().splitlines(keepends=True)
    example, parts = runpy.run_path(str(EXAMPLES / "ray_screen.py")), []
    for number, cut in enumerate((slice(0, 37), slice(37, 101))):
        file = tmp_path / f"{number}.jsonl"
        file.write_text("".join(lines[cut]))
        parts.append(example["screen_file"](str(model), str(file), tmp_path / "parts" / str(number)))
    output = tmp_path / "out.safetensors"
    example["merge"](parts, str(output))
    stats, expected = ActivationStats.load(output), screen(*load_model(model), Corpus.from_file(whole))
    assert stats.segments == expected.segments
    for site in expected.sites:
        assert (stats.count[site] == expected.count[site]).all()
        assert_allclose(stats.mean[site], expected.mean[site], atol=1e-5)


def test_the_slurm_script_can_be_read() -> None:
    subprocess.run(["bash", "-n", str(EXAMPLES / "screen.sbatch")], check=True)


def test_neuron_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(EXAMPLES / "neuron_card.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "an output is stored"
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()

    def shown(line: str) -> dict[str, str]:
        """Return the output of the cell that ends with this line, by type."""
        (cell,) = (cell for cell in code if cell.source.splitlines()[-1] == line)
        return cell.outputs[-1].data

    assert shown("corpus")["text/plain"].startswith("Corpus(frame; task emotion; ")
    assert "attribution of 2,240 neurons at 5 sites; 7 labels: anger, " in shown("attributions")["text/plain"]
    assert shown("neurons")["text/plain"].startswith("NeuronSet(1,568 neurons of 7 labels; anger: 224, ")
    assert "… and 204 more rows" in shown('neurons["anger"]')["text/html"]
    assert shown("program")["text/plain"] == "Program(contrast 2 anger; 224 neurons at 5 sites)"
    card = shown("card")["text/html"]
    assert "<article" in card
    assert all(part in card for part in ("anger", "iling", "over"))
    (told,) = (cell.outputs[-1].text for cell in code if "written():" in cell.source)
    without, with_anger = (line.split("At the office", 1)[1] for line in told.splitlines())
    assert without != with_anger
    page = tmp_path / "counts.html"
    page.write_text(shown('frame.groupby(["label", "site"], observed=True).size().unstack(fill_value=0)')["text/html"])
    _, _, *rows = Page(page).tables["0"]
    assert [sum(map(int, row[1:])) for row in ([cell for (cell,) in row] for row in rows)] == [224] * 7
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "attribution.safetensors", "cards.json", "neurons.json", "stats.safetensors",
    ]  # fmt: skip
