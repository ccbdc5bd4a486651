"""Small random models of every layout, and an independent way to see and change their neurons: forward pre-hooks on the
last linear layer of each MLP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
import transformers
from tools.planted import make_tokenizer as make_tokenizer
from torch import Tensor, nn

VOCABULARY = 97
LAYERS = 3
# Odd on purpose: no SIMD width divides them.
HIDDEN, NEURONS = 24, 43

_GATED = {
    "hidden_size": HIDDEN,
    "intermediate_size": NEURONS,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_BUILD: dict[str, Callable[..., nn.Module]] = {
    "llama": lambda **kw: transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**_GATED, **kw})),
    "gemma": lambda **kw: transformers.GemmaForCausalLM(transformers.GemmaConfig(**{**_GATED, "head_dim": 6, **kw})),
    "phi3": lambda **kw: transformers.Phi3ForCausalLM(transformers.Phi3Config(**{**_GATED, **kw})),
    "gpt2": lambda **kw: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            **{"n_embd": HIDDEN, "n_inner": NEURONS, "n_layer": LAYERS, "n_head": 4, "n_positions": 64, **kw}
        )
    ),
    "opt": lambda **kw: transformers.OPTForCausalLM(
        transformers.OPTConfig(
            **{
                "hidden_size": HIDDEN,
                "ffn_dim": NEURONS,
                "num_hidden_layers": LAYERS,
                "num_attention_heads": 4,
                "word_embed_proj_dim": HIDDEN,
                "max_position_embeddings": 64,
                **kw,
            }
        )
    ),
    "neox": lambda **kw: transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            **{
                "hidden_size": HIDDEN,
                "intermediate_size": NEURONS,
                "num_hidden_layers": LAYERS,
                "num_attention_heads": 4,
                **kw,
            }
        )
    ),
}
FAMILIES = tuple(_BUILD)

#: torch's own activation functions by the package's names.
ACTIVATIONS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x) ** 2,
}

# Of each family: names of the MLP sites and of their last linear layer, layout and activation.
SITES = {
    "llama": ("model.layers.{}.mlp", "down_proj", "gated", "silu"),
    "gemma": ("model.layers.{}.mlp", "down_proj", "gated", "gelu_tanh"),
    "phi3": ("model.layers.{}.mlp", "down_proj", "gate_up", "silu"),
    "gpt2": ("transformer.h.{}.mlp", "c_proj", "plain", "gelu_tanh"),
    "opt": ("model.decoder.layers.{}", "fc2", "plain", "relu"),
    "neox": ("gpt_neox.layers.{}.mlp", "dense_4h_to_h", "plain", "gelu"),
}


def build(family: str, seed: int = 0, **config) -> nn.Module:
    """A model whose weights are large enough that every neuron matters to the logits; token 0 pads."""
    torch.manual_seed(seed)
    model = _BUILD[family](
        vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False, **config
    )
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
    return model.eval()


def site_names(family: str) -> list[str]:
    return [SITES[family][0].format(layer) for layer in range(LAYERS)]


@contextmanager
def last_inputs(model: nn.Module, family: str, change: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Let ``change(site, h)`` replace the input of each MLP's last linear layer, without code of the package."""
    handles = []
    for name in site_names(family):
        last = getattr(model.get_submodule(name), SITES[family][1])

        def hook(module: nn.Module, args: tuple[Tensor], name: str = name) -> tuple[Tensor]:
            return (change(name, args[0]),)

        handles.append(last.register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def layer_names(family: str) -> list[str]:
    """The outputs of the layers, as sites."""
    return [f"{name.removesuffix('.mlp')}:output" for name in site_names(family)]


@contextmanager
def layer_outputs(model: nn.Module, names: Sequence[str], change: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Let ``change(site, h)`` replace the hidden states that layers return, without code of the package."""
    handles = []
    for name in names:

        def hook(module: nn.Module, args: object, output: object, name: str = name) -> object:
            if isinstance(output, tuple):
                return (change(name, output[0]), *output[1:])
            return change(name, output)

        handles.append(model.get_submodule(name.removesuffix(":output")).register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def batch(rows: int = 3, length: int = 9, seed: int = 0, side: str | None = None) -> dict[str, Tensor]:
    """Random tokens; with ``side`` row r is r tokens shorter and padded there."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(rows if side else 0):
        pad = slice(0, row) if side == "left" else slice(length - row, length)
        ids[row, pad], mask[row, pad] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def state(model: nn.Module) -> dict[str, object]:
    """Everything of a model's modules that attaching could leave changed, by identity."""
    return {
        name: (
            {key: id(value) for key, value in vars(module).items() if not isinstance(value, (bool, int, float, str))},
            list(vars(module)),
            {key: id(child) for key, child in module._modules.items()},
            list(module._modules),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            len(module._forward_pre_hooks_with_kwargs),
        )
        for name, module in model.named_modules()
    }
