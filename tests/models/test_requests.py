"""Rows of a request, in towers that read images or sound, in encoders, and in models that compute [time, batch,
hidden]: against hooks, and against the same program for all rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from affectron import interventions
from affectron.errors import InputError
from affectron.interventions import Program, schedule
from affectron.models import find_sites, intervene, sweep
from affectron.models.layout import Site
from tests.support.tiny import HIDDEN, NEURONS, VOCABULARY, batch, build, state

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*exact, but not fused")]

IMAGE = 5
_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": NEURONS,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_VISION = {
    "hidden_size": HIDDEN,
    "intermediate_size": 31,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 4,
}


def strong(model: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
    return model.eval()


def llava() -> Any:
    """Images are [images, patches, hidden]."""
    text, vision = transformers.LlamaConfig(**_TEXT), transformers.CLIPVisionConfig(**_VISION)
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE)
    return strong(transformers.LlavaForConditionalGeneration(config))


def qwen() -> Any:
    """The patches of all images are one sequence [patches, hidden]."""
    rope = {"rope_type": "default", "mrope_section": [1, 1, 1], "rope_theta": 10000.0}
    vision = {"depth": 1, "embed_dim": HIDDEN, "hidden_size": HIDDEN, "num_heads": 3, "mlp_ratio": 2, "patch_size": 4}
    config = transformers.Qwen2VLConfig(
        text_config={**_TEXT, "rope_parameters": rope}, vision_config=vision, image_token_id=IMAGE
    )
    return strong(transformers.Qwen2VLForConditionalGeneration(config))


def pictured(model: Any, images: int) -> dict[str, Tensor]:
    """Two texts of 14 tokens; the second has one image, the first all others."""
    ids = torch.randint(10, VOCABULARY, (2, 14), generator=torch.Generator().manual_seed(2))
    pixels = torch.randn(images, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    given = {"attention_mask": torch.ones_like(ids)}
    if "Qwen" in type(model).__name__:  # two by two patches of an image become one token
        ids[0, 1 : 2 * images - 2 : 2], ids[1, 2] = IMAGE, IMAGE
        patches = pixels.view(images, 1, 3, 1, 2, 4, 2, 4).expand(-1, 2, -1, -1, -1, -1, -1, -1)
        given["pixel_values"] = patches.permute(0, 4, 6, 2, 1, 3, 5, 7).reshape(4 * images, -1)
        given["image_grid_thw"] = torch.tensor([[1, 2, 2]] * images)
        given["mm_token_type_ids"] = (ids == IMAGE).int()
    else:
        for image in range(images - 1):
            ids[0, 1 + 4 * image : 5 + 4 * image] = IMAGE
        ids[1, 2:6] = IMAGE
        given["pixel_values"] = pixels
    return {"input_ids": ids, **given}


def triple(sites: list[Site]) -> Program:
    return interventions.amplify([(site.name, i) for site in sites for i in range(0, site.neurons, 2)], 3.0)


@contextmanager
def hooked(sites: list[Site], rows: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Triple every second neuron of the rows h[...] that ``rows(h)`` tells, with hooks."""

    def change(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        h = args[0].clone()
        h[..., ::2] = torch.where(rows(h), 3 * h[..., ::2], h[..., ::2])
        return (h,)

    handles = [s.module.get_submodule(s.structure.last).register_forward_pre_hook(change) for s in sites]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def everywhere(h: Tensor) -> Tensor:
    return torch.tensor(True)


def first_half(h: Tensor) -> Tensor:
    return (torch.arange(len(h)) < len(h) // 2).view(-1, *[1] * (h.dim() - 1))


@torch.no_grad()
@pytest.mark.parametrize("make", [llava, qwen])
@pytest.mark.parametrize("images", [2, 3, 4])
def test_images_are_not_requests(make: Callable[[], Any], images: int) -> None:
    model = make()
    if make is llava and images == 4:
        given = pictured(model, 3)
        given["input_ids"][1, 8:12] = IMAGE
        given["pixel_values"] = torch.cat([given["pixel_values"], given["pixel_values"][:1] / 2])
    else:
        given = pictured(model, images)
    language, vision = ([s for s in find_sites(model) if ("language" in s.name) == wanted] for wanted in (True, False))
    text, image, both = triple(language), triple(vision), triple([*language, *vision])
    plain = model(**given).logits
    with hooked(language, first_half):
        halved = model(**given).logits
    with hooked(vision, everywhere):
        seen = model(**given).logits
    with hooked([*language, *vision], everywhere):
        all_steered = model(**given).logits
    assert (halved[0] - plain[0]).abs().max() > 1e-2
    assert (seen - plain).abs().amax((1, 2)).min() > 1e-3
    for programs, wanted in (
        ([text, None], halved),
        ([image, image], seen),
        (image, seen),
        ([both, both], all_steered),
        ([schedule(image, stop=0), image], seen),
    ):
        with intervene(model, programs):
            torch.testing.assert_close(model(**given).logits, wanted, rtol=1e-4, atol=1e-4)
    for programs in ([image, None], [both, text], [image, both, None, None]):
        with (
            intervene(model, programs),
            pytest.raises(InputError, match=r"vi.* reads \d+ rows that are not the tokens .*: expected one program"),
        ):
            model(**given)
    with intervene(model, schedule(image, where="text")) as steering:
        steering.text = torch.ones(2, 14, dtype=torch.bool)
        with pytest.raises(InputError, match=r"vi.* reads \d+ rows that are not the tokens .*, and no schedule"):
            model(**given)
    with intervene(model, [image, None]) as steering:
        steering[1] = image
        torch.testing.assert_close(model(**given).logits, seen, rtol=1e-4, atol=1e-4)
        ids = batch(rows=2)["input_ids"]
        steering[0], steering[1] = text, None
        torch.testing.assert_close(model(input_ids=ids).logits[1], model(input_ids=ids[1:].repeat(2, 1)).logits[1])


@torch.no_grad()
def test_the_text_about_images_is_generated_by_request() -> None:
    model = llava()
    given = pictured(model, 3)
    language = [site for site in find_sites(model) if "language" in site.name]
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    plain = model.generate(**given, **options)
    with intervene(model, triple(language)):
        full = model.generate(**given, **options)
    with intervene(model, [triple(language), None]):
        half = model.generate(**given, **options)
    assert torch.equal(half, torch.stack([full[0], plain[1]]))
    assert not torch.equal(half, plain)


def idefics() -> Any:
    """The tower is a part of what reads the text."""
    config = transformers.IdeficsConfig(
        vocab_size=VOCABULARY, additional_vocab_size=0, hidden_size=HIDDEN, intermediate_size=NEURONS,
        num_hidden_layers=2, num_attention_heads=4, cross_layer_interval=1, use_resampler=False, pad_token_id=0,
        vision_config={
            "embed_dim": HIDDEN, "intermediate_size": 31, "num_hidden_layers": 1, "num_attention_heads": 4,
            "image_size": 8, "patch_size": 4,
        },
    )  # fmt: skip
    model = strong(transformers.IdeficsForVisionText2Text(config))
    for name, gate in model.named_parameters():
        if "alpha" in name:  # images matter to the text
            gate.data.fill_(1.0)
    return model


@torch.no_grad()
@pytest.mark.parametrize("images", [1, 3])
def test_a_tower_inside_of_what_reads_the_text(images: int) -> None:
    """With one image a request its rows are known; with more only that a program for all serves."""
    model, ids = idefics(), batch(rows=2)["input_ids"]
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(2, images, 3, 8, 8)}
    given["image_attention_mask"] = torch.ones(2, ids.shape[1], images, dtype=torch.long)
    language, vision = (
        [s for s in find_sites(model) if ("vision" not in s.name) == wanted] for wanted in (True, False)
    )
    text, image = triple(language), triple(vision)
    with hooked(language, first_half):
        wanted = model(**given).logits
    with hooked(vision, first_half):
        seen = model(**given).logits
    with hooked(language, lambda h: (torch.arange(h.shape[1]) >= 4)[:, None]):
        later = model(**given).logits
    assert (seen - model(**given).logits)[0].abs().max() > 1e-3
    with intervene(model, [text, None]) as steering:
        torch.testing.assert_close(model(**given).logits, wanted, rtol=1e-4, atol=1e-4)
        steering[0] = steering[1] = schedule(text, prompt=False)
        steering.prompt_length = 4
        torch.testing.assert_close(model(**given).logits, later, rtol=1e-4, atol=1e-4)
    with intervene(model, [image, None]):
        if images == 1:
            torch.testing.assert_close(model(**given).logits, seen, rtol=1e-4, atol=1e-4)
        else:
            with pytest.raises(InputError, match=r"vision_model.* that are not the tokens of the requests' texts"):
                model(**given)


def whisper() -> Any:
    config = transformers.WhisperConfig(
        vocab_size=VOCABULARY, d_model=HIDDEN, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=NEURONS, decoder_ffn_dim=NEURONS, num_mel_bins=8,
        max_source_positions=10, max_target_positions=20, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
    )  # fmt: skip
    return strong(transformers.WhisperForConditionalGeneration(config))


@torch.no_grad()
def test_sound_that_an_encoder_reads_is_a_request() -> None:
    model = whisper()
    given = {"input_features": torch.randn(2, 8, 20), "decoder_input_ids": batch(rows=2, length=5)["input_ids"]}
    sites = find_sites(model)
    with hooked(sites, first_half):
        wanted = model(**given).logits
    assert not torch.allclose(wanted, model(**given).logits, atol=1e-2)
    with intervene(model, [triple(sites), None]):
        torch.testing.assert_close(model(**given).logits, wanted, rtol=1e-4, atol=1e-4)


# --- [time, batch, hidden] ---


def fsmt() -> Any:
    config = transformers.FSMTConfig(
        langs=["en", "de"], src_vocab_size=VOCABULARY, tgt_vocab_size=VOCABULARY, d_model=HIDDEN, encoder_layers=2,
        decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=NEURONS,
        decoder_ffn_dim=NEURONS, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    return strong(transformers.FSMTForConditionalGeneration(config))


def xlnet() -> Any:
    config = transformers.XLNetConfig(
        vocab_size=VOCABULARY, d_model=HIDDEN, n_layer=2, n_head=4, d_inner=NEURONS, pad_token_id=0
    )
    return strong(transformers.XLNetLMHeadModel(config))


def translated(rows: int, length: int, written: int) -> dict[str, Tensor]:
    ids = batch(rows=rows, length=length)["input_ids"]
    return {"input_ids": ids, "decoder_input_ids": batch(rows=rows, length=written, seed=1)["input_ids"]}


@torch.no_grad()
@pytest.mark.parametrize(("length", "written"), [(6, 3), (2, 5), (5, 2), (2, 2), (1, 2), (2, 1)])
@pytest.mark.parametrize("make", [fsmt, xlnet])
def test_time_may_come_first(make: Callable[[], Any], length: int, written: int) -> None:
    """Also where the first batch has as many rows as tokens; of one row the reference is a batch of its own."""
    model = make()
    given = translated(2, length, written)
    if make is xlnet:
        del given["decoder_input_ids"]
    program, before = triple(find_sites(model)), state(model)
    one = [{name: value[row : row + 1] for name, value in given.items()} for row in range(2)]
    plain = model(**one[1]).logits[0]
    with intervene(model, program):
        steered = model(**one[0]).logits[0]
    with intervene(model, [program, None]):
        for _ in range(2):
            found = model(**given).logits
            torch.testing.assert_close(found[0], steered, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found[1], plain, rtol=1e-4, atol=1e-4)
    assert state(model) == before
    assert not torch.allclose(steered, model(**one[0]).logits[0], atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("rows", [2, 3])
def test_schedules_where_time_comes_first(rows: int) -> None:
    model = fsmt()
    decoder = [site for site in find_sites(model) if "decoder" in site.name]
    given = translated(rows, 4, 5)
    for start in (0, 2, 3):  # of 5 tokens the first 2 are prompt; hooks see [T, B, F]
        with hooked(decoder, lambda h, start=start: (torch.arange(len(h)) >= 2 + start)[:, None, None]):
            wanted = model(**given).logits
        with intervene(model, [schedule(triple(decoder), prompt=False, start=start)] * rows) as steering:
            steering.prompt_length = 2
            torch.testing.assert_close(model(**given).logits, wanted, rtol=1e-4, atol=1e-4)
    encoder = [site for site in find_sites(model) if "encoder" in site.name]
    own = torch.tensor([[True, False, True, True], [False, True, True, False], [True, True, False, False]])[:rows]
    with hooked(encoder, lambda h: own.T[..., None]):
        wanted = model(**given).logits
    with intervene(model, [schedule(triple(encoder), where="text")] * rows) as steering:
        steering.text = own
        torch.testing.assert_close(model(**given).logits, wanted, rtol=1e-4, atol=1e-4)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": 1, "eos_token_id": None}
    ids = given["input_ids"]
    with intervene(model, [schedule(triple(decoder), prompt=False), None, None][:rows]):
        cached, whole = (model.generate(ids, use_cache=cached, **options) for cached in (True, False))
    plain = model.generate(ids, **options)
    assert torch.equal(cached, whole)
    assert torch.equal(cached[1:], plain[1:])
    assert not torch.equal(cached[0], plain[0])


@torch.no_grad()
@pytest.mark.parametrize("length", [2, 5])
def test_a_mask_where_time_comes_first(length: int) -> None:
    """Also where the first batch has as many rows as tokens."""
    model, ids = xlnet(), batch(rows=2, length=length)["input_ids"]
    sites = find_sites(model)
    own = torch.tensor([[True, False, True, True, False], [False, True, True, False, False]])[:, :length]
    for where, wanted in (("text", own), ("prompt", ~own)):
        with hooked(sites, lambda h, wanted=wanted: wanted.T[..., None]):
            expected = model(ids).logits
        with intervene(model, schedule(triple(sites), where=where)) as steering:
            steering.text = own
            torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("rows", "length"), [(1, 3), (2, 2), (3, 1), (2, 5)])
def test_a_sweep_where_time_comes_first_is_refused(rows: int, length: int) -> None:
    model, ids = xlnet(), batch(rows=rows, length=length)["input_ids"]
    message = r"XLNetLayer is given hidden states \[.*\], expected \[batch|which of the two comes first"
    with sweep(model, [triple(find_sites(model)), None]), pytest.raises(InputError, match=message):
        model(ids)


@torch.no_grad()
def test_a_sweep_over_as_many_programs_as_rows_and_tokens() -> None:
    model, ids = build("llama"), batch(rows=2, length=2)["input_ids"]
    sites = find_sites(model)
    with hooked(sites, everywhere):
        steered = model(ids).logits
    with sweep(model, [triple(sites), None]):
        found = model(ids, use_cache=False).logits
    torch.testing.assert_close(found, torch.cat([steered, model(ids).logits]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("compiled", [False, True])
def test_as_many_rows_as_tokens(compiled: bool) -> None:
    torch._dynamo.reset()
    model, ids = build("llama"), batch(rows=4, length=4)["input_ids"]
    sites = find_sites(model)
    with hooked(sites, first_half):
        wanted = model(ids).logits
    with hooked(sites, lambda h: ~first_half(h)):
        swapped = model(ids).logits
    run = torch.compile(model, backend="eager") if compiled else model
    with intervene(model, [triple(sites), None]) as steering:
        torch.testing.assert_close(run(ids).logits, wanted, rtol=1e-4, atol=1e-4)
        steering[0], steering[1] = None, steering[0]
        torch.testing.assert_close(run(ids).logits, swapped, rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()
