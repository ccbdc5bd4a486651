"""Models on devices with and without float64 that are neither a CPU nor CUDA's, against the same models on the CPU.

The devices are pretended, and compute on the CPU: the two must agree but for the rounding of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from typer.testing import CliRunner

import affectron
from affectron import ActivationStats, Corpus, ops
from affectron.attribution.pairs import attribute_pairs
from affectron.cli.app import app
from affectron.corpus.pairs import Pair
from affectron.generation import continuations
from affectron.models import load_model
from affectron.models.directions import output_directions
from affectron.screening.pairs import screen_pairs
from affectron.screening.quantiles import magnitude_quantiles
from tests.gpu.test_models import program
from tests.support.devices import pretended_device
from tests.support.tiny import batch, build, make_tokenizer, site_names

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENIZER = make_tokenizer()
FAMILIES = ("llama", "gpt2")
DEVICES = pytest.mark.parametrize(("kind", "float64"), [("mps", False), ("xpu", True)], ids=["without", "with"])
RNG = np.random.default_rng(0)
SENTENCES = [" ".join(f"w{word}" for word in RNG.integers(0, 48, RNG.integers(2, 19))) for _ in range(30)]
CORPUS = Corpus.from_records({"text": text, "label": f"w{50 + i % 3}", "task": "t"} for i, text in enumerate(SENTENCES))
PAIRS = [Pair("ab"[i % 2], text, " ".join(text.split()[::-1]), "w50", "w51 w52") for i, text in enumerate(SENTENCES)]
PROMPTS = {"t": "{bos}{text} w1"}


def on_both(measure: Callable[[Any], Any], family: str, kind: str, float64: bool) -> tuple[Any, Any]:
    """The results of ``measure`` on a model on the CPU, by plain torch, and on the same model on the device."""
    with ops.use_backend("reference"):
        expected = measure(build(family))
    with pretended_device(kind, float64) as device:
        found = measure(build(family).to(device))
    return expected, found


def screened(**options: Any) -> Callable[[Any], ActivationStats]:
    return lambda model: affectron.screen(model, TOKENIZER, CORPUS, batch_tokens=256, **options)


def attributed(**options: Any) -> Callable[[Any], ActivationStats]:
    return lambda model: affectron.attribute(model, TOKENIZER, CORPUS, batch_tokens=256, **options)


MEASURES: dict[str, Callable[[Any], ActivationStats]] = {
    "all": screened(),
    "last": screened(tokens="last"),
    "mean": screened(tokens="mean"),
    "layers": screened(at="layers"),
    "pairs": lambda model: screen_pairs(model, TOKENIZER, PAIRS),
    "answers": attributed(prompts=PROMPTS),
    "probe": attributed(evaluator="linear_probe"),
    "text": attributed(metric="text"),
    "answers of pairs": lambda model: attribute_pairs(model, TOKENIZER, PAIRS, template="{bos}{text} w2"),
}


@DEVICES
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", MEASURES)
def test_statistics_are_those_of_the_cpu(kind: str, float64: bool, family: str, name: str) -> None:
    expected, found = on_both(MEASURES[name], family, kind, float64)
    assert found.sites == expected.sites
    assert found.provenance["device"] == kind
    for site in found.sites:
        for field in ("count", "active", "nonfinite"):
            assert np.array_equal(getattr(found, field)[site], getattr(expected, field)[site]), (field, site)
        std = np.sqrt(expected.m2[site] / expected.count[site][:, None]) + 1e-9
        assert (np.abs(found.mean[site] - expected.mean[site]) <= 1e-5 * std).all(), site
        np.testing.assert_allclose(found.m2[site], expected.m2[site], rtol=1e-5, atol=1e-15)
        for field in ("min", "max"):
            wanted = getattr(expected, field)[site]
            np.testing.assert_allclose(getattr(found, field)[site], wanted, rtol=1e-5, atol=1e-7)
    assert any(found.m2[site].any() for site in found.sites)


@DEVICES
@pytest.mark.parametrize("family", FAMILIES)
def test_quantiles_are_those_of_the_cpu(kind: str, float64: bool, family: str) -> None:
    expected, found = on_both(lambda model: magnitude_quantiles(model, TOKENIZER, CORPUS, 0.97), family, kind, float64)
    for site in site_names(family):
        assert np.array_equal(found[site], expected[site])


@DEVICES
@pytest.mark.parametrize("family", FAMILIES)
def test_output_directions_are_those_of_the_cpu(kind: str, float64: bool, family: str) -> None:
    neurons = {site: np.arange(0, 40, 7) for site in site_names(family)}

    def directions(model: Any) -> dict[str, torch.Tensor]:
        return {site: rows.cpu() for site, rows in output_directions(model, neurons).items()}

    expected, found = on_both(directions, family, kind, float64)
    assert list(expected) == site_names(family)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@DEVICES
@pytest.mark.parametrize("family", FAMILIES)
def test_steered_logits_and_texts_are_those_of_the_cpu(kind: str, float64: bool, family: str) -> None:
    def logits(model: Any) -> torch.Tensor:
        ids = batch()["input_ids"].to(model.device)
        with torch.no_grad(), affectron.intervene(model, [program(family, 0.0), None, program(family, 2.0)]):
            return model(input_ids=ids).logits.cpu()

    def texts(model: Any) -> tuple[str, ...]:
        programs = [None, program(family, 0.0)]
        written = continuations(model, TOKENIZER, "w1 w2", programs, max_new_tokens=9, temperature=0.7, seed=1)
        return tuple(written.texts)

    expected, found = on_both(logits, family, kind, float64)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    expected, found = on_both(texts, family, kind, float64)
    assert found == expected
    assert len(set(found)) == 2


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build("llama").save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


@DEVICES
def test_a_command_takes_the_device(kind: str, float64: bool, saved: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.csv"
    corpus.write_text("text,label\n" + "".join(f"{text},{'ab'[i % 2]}\n" for i, text in enumerate(SENTENCES)))
    with pretended_device(kind, float64) as device:
        model, _ = load_model(saved, device=kind)
        assert model.device == device
        done = CliRunner().invoke(
            app, ["screen", *map(str, (saved, corpus)), "-o", str(tmp_path / "S"), "--device", kind]
        )
    assert done.exit_code == 0, done.output
    assert f"float32 on {kind}" in done.stdout


def test_a_model_that_the_device_cannot_hold_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_buffer(*args: Any, **named: Any) -> Any:
        loaded, report = original(*args, **named)
        loaded.register_buffer("fine", torch.zeros(1, dtype=torch.float64))
        return loaded, report

    original = transformers.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", with_buffer)
    with pretended_device("mps", False), pytest.raises(affectron.InputError, match="on mps: Cannot convert") as refused:
        load_model(saved, device="mps")
    assert "\n" not in str(refused.value)
