"""Small random models of many families, and the neurons of each, written down from the models' own code: the reference
for the search of sites. tiny.py has the six families that get every test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from packaging.version import Version
from torch import Tensor, nn

import affectron
from affectron import interventions

VOCABULARY, HIDDEN, NEURONS, LAYERS, EXPERTS = 97, 24, 43, 2, 4
GELU_TANH = "gelu_tanh"

_LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": NEURONS,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 64,
}
_BERT = {key: value for key, value in _LLAMA.items() if key not in ("num_key_value_heads", "bos_token_id")}
_HEADS = {**_LLAMA, "head_dim": 6}
# The grouped products of torch want rows of a multiple of 16 bytes.
EXPERT_NEURONS = 44
_MOE = {**_HEADS, "num_experts_per_tok": 2, "intermediate_size": EXPERT_NEURONS}
_GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": HIDDEN,
    "n_inner": NEURONS,
    "n_layer": LAYERS,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_T5 = {"vocab_size": VOCABULARY, "d_model": HIDDEN, "d_ff": NEURONS, "d_kv": 6, "num_layers": LAYERS, "num_heads": 4}
_T5_SITES = ("encoder.block.{}.layer.1.DenseReluDense", "decoder.block.{}.layer.2.DenseReluDense")
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": HIDDEN,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_ffn_dim": NEURONS,
    "decoder_ffn_dim": NEURONS,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Family:
    """``sites`` are patterns of site names; ``gate`` and ``last`` modules in the site, ``gate`` the one whose output is
    or holds the gate (the activation module, for a family of the layout ``other``)."""

    model: str
    config: dict[str, Any]
    sites: tuple[str, ...]
    layout: str
    act: str
    gate: str
    last: str
    path: str = "fused"
    neurons: int = NEURONS
    head: str = "ForCausalLM"
    config_class: str = ""
    layers: int = LAYERS
    extra: dict[str, Any] = field(default_factory=dict)
    since: int = 4  # the major version of transformers from which it is as described here
    broken: tuple[str, str] | None = None  # the first version that cannot run it as it was trained, the first that can

    def build(self) -> Any:
        torch.manual_seed(0)
        config = getattr(transformers, self.config_class or f"{self.model}Config")(**self.config, **self.extra)
        model = getattr(transformers, self.model + self.head)(config)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() >= 2:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
        return model.eval()

    @property
    def names(self) -> list[str]:
        """The sites in forward order."""
        layers = [pattern.format(layer) for pattern in self.sites for layer in range(self.layers)]
        if not self.stacked:
            return layers
        return [f"{name}.{expert}" for name in layers for expert in range(EXPERTS)]

    @property
    def stacked(self) -> bool:
        return self.last == "experts"


def _gated(model: str, config: dict[str, Any] = _LLAMA, act: str = "silu", **more: Any) -> Family:
    return Family(model, config, ("model.layers.{}.mlp",), "gated", act, "gate_proj", "down_proj", **more)


def _plain(model: str, config: dict[str, Any], site: str, act: str, gate: str, last: str, **more: Any) -> Family:
    return Family(model, config, (site,), "plain", act, gate, last, **more)


def _experts(model: str, config: dict[str, Any], layout: str = "gate_up", act: str = "silu", **more: Any) -> Family:
    more = {"since": 5, "sites": ("model.layers.{}.mlp.experts",), "neurons": EXPERT_NEURONS, **more}
    return Family(model, config, layout=layout, act=act, gate="", last="experts", **more)


def _followed(model: str, config: dict[str, Any], site: str, act: str = "SiLUActivation", **more: Any) -> Family:
    """Stacked experts of which nothing but the shapes is known."""
    return _experts(model, config, "other", act, path="fallback", sites=(site,), **more)


FAMILIES = {
    "mistral": _gated("Mistral"),
    "qwen2": _gated("Qwen2"),
    "qwen3": _gated("Qwen3", _HEADS),
    "gemma2": _gated("Gemma2", _HEADS, GELU_TANH),
    "gemma3": _gated("Gemma3", _HEADS, GELU_TANH, config_class="Gemma3TextConfig"),
    "olmo2": _gated("Olmo2"),
    "granite": _gated("Granite"),
    "cohere": _gated("Cohere"),
    "stablelm": _gated("StableLm"),
    "glm4": Family("Glm4", _HEADS, ("model.layers.{}.mlp",), "gate_up", "silu", "gate_up_proj", "down_proj"),
    "phi": _plain("Phi", {**_LLAMA, "num_attention_heads": 2}, "model.layers.{}.mlp", GELU_TANH, "fc1", "fc2"),
    "gptj": _plain("GPTJ", {**_GPT2, "rotary_dim": 6}, "transformer.h.{}.mlp", GELU_TANH, "fc_in", "fc_out"),
    "gpt_neo": _plain(
        "GPTNeo",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "intermediate_size": NEURONS,
            "num_layers": LAYERS,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 64,
        },
        "transformer.h.{}.mlp",
        GELU_TANH,
        "c_fc",
        "c_proj",
    ),
    "bloom": _plain(
        "Bloom",
        {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": 4},
        "transformer.h.{}.mlp",
        GELU_TANH,
        "dense_h_to_4h",
        "dense_4h_to_h",
        neurons=4 * HIDDEN,
    ),
    "falcon": _plain(
        "Falcon",
        {**_BERT, "ffn_hidden_size": NEURONS},
        "transformer.h.{}.mlp",
        "gelu",
        "dense_h_to_4h",
        "dense_4h_to_h",
    ),
    "t5": Family("T5", _T5, _T5_SITES, "plain", "relu", "wi", "wo", head="ForConditionalGeneration"),
    "t5_gated": Family(
        "T5",
        {**_T5, "feed_forward_proj": "gated-gelu"},
        _T5_SITES,
        "gated",
        GELU_TANH,
        "wi_0",
        "wo",
        head="ForConditionalGeneration",
    ),
    "bert": _plain(
        "Bert", _BERT, "bert.encoder.layer.{}", "gelu", "intermediate.dense", "output.dense", head="ForMaskedLM"
    ),
    "roberta": _plain(
        "Roberta", _BERT, "roberta.encoder.layer.{}", "gelu", "intermediate.dense", "output.dense", head="ForMaskedLM"
    ),
    "modernbert": Family(
        "ModernBert",
        {**_BERT, "cls_token_id": 1, "sep_token_id": 2, "eos_token_id": 2, "bos_token_id": 1},
        ("model.layers.{}.mlp",),
        "gate_up",
        "gelu",
        "Wi",
        "Wo",
        head="ForMaskedLM",
    ),
    "mixtral": _experts("Mixtral", {**_MOE, "num_local_experts": EXPERTS}),
    "qwen3_moe": _experts("Qwen3Moe", {**_MOE, "num_experts": EXPERTS, "moe_intermediate_size": EXPERT_NEURONS}),
    "olmoe": _experts("Olmoe", {**_MOE, "num_experts": EXPERTS}),
    "gpt_oss": _experts(
        "GptOss", {**_MOE, "num_local_experts": EXPERTS}, layout="other", act="?", path="fallback", since=4
    ),
    "jetmoe": _followed(
        "JetMoe",
        {
            **{key: value for key, value in _MOE.items() if key not in ("num_attention_heads", "head_dim")},
            "kv_channels": 6,
            "num_local_experts": EXPERTS,
        },
        "model.layers.{}.mlp",
        since=4,
    ),
    "llama4": _followed(
        "Llama4",
        {**_MOE, "num_local_experts": EXPERTS, "intermediate_size_mlp": NEURONS},
        "model.layers.{}.feed_forward.experts",
        config_class="Llama4TextConfig",
        since=4,
    ),
    "dbrx": _followed(
        "Dbrx",
        {
            "vocab_size": VOCABULARY,
            "d_model": HIDDEN,
            "n_heads": 4,
            "n_layers": LAYERS,
            "max_seq_len": 64,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
            "ffn_config": {
                "hidden_size": HIDDEN,
                "ffn_hidden_size": EXPERT_NEURONS,
                "moe_num_experts": EXPERTS,
                "moe_top_k": 2,
            },
            "pad_token_id": 0,
        },
        "transformer.blocks.{}.ffn.experts",
        broken=("5.0", "5.16"),  # takes a width for the other; 5.0 also multiplies what is not transposed
    ),
    "longcat": _followed(
        "LongcatFlash",
        {
            **{
                key: value
                for key, value in _LLAMA.items()
                if key not in ("num_key_value_heads", "intermediate_size", "num_hidden_layers")
            },
            "num_layers": LAYERS,
            "ffn_hidden_size": NEURONS,
            "expert_ffn_hidden_size": EXPERT_NEURONS,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_nope_head_dim": 4,
            "qk_rope_head_dim": 4,
            "v_head_dim": 4,
            "head_dim": 4,
            "moe_topk": 2,
            "n_routed_experts": EXPERTS,
            "zero_expert_num": 2,
        },
        "model.layers.{}.mlp.experts",
    ),
    # No line of code was written for the families below.
    "nemotron": _plain("Nemotron", _LLAMA, "model.layers.{}.mlp", "relu2", "up_proj", "down_proj"),
    "starcoder2": _plain("Starcoder2", _LLAMA, "model.layers.{}.mlp", GELU_TANH, "c_fc", "c_proj"),
    "mpt": _plain(
        "Mpt",
        {"vocab_size": VOCABULARY, "d_model": HIDDEN, "n_heads": 4, "n_layers": LAYERS},
        "transformer.blocks.{}.ffn",
        "gelu",
        "up_proj",
        "down_proj",
        neurons=4 * HIDDEN,
    ),
    "bart": Family(
        "Bart",
        _BART,
        ("model.encoder.layers.{}", "model.decoder.layers.{}"),
        "plain",
        "gelu",
        "fc1",
        "fc2",
        head="ForConditionalGeneration",
    ),
    "albert": _plain(
        "Albert",
        {**_BERT, "embedding_size": 8},
        "albert.encoder.albert_layer_groups.0.albert_layers.{}",
        GELU_TANH,
        "ffn",
        "ffn_output",
        head="ForMaskedLM",
        layers=1,  # the model's layers are one module
    ),
    "bitnet": Family(
        "BitNet",
        _LLAMA,
        ("model.layers.{}.mlp",),
        "other",
        "ReLUSquaredActivation",
        "act_fn",
        "down_proj",
        path="fallback",
    ),
    "apertus": Family(
        "Apertus",
        _LLAMA,
        ("model.layers.{}.mlp",),
        "other",
        "XIELUActivation",
        "act_fn",
        "down_proj",
        path="fallback",
    ),
}  # fmt: skip


def available(name: str) -> bool:
    """Tell whether this version of transformers has the family in the form described here."""
    family = FAMILIES[name]
    version = Version(transformers.__version__)
    broken = family.broken is not None and Version(family.broken[0]) <= version < Version(family.broken[1])
    return version.major >= family.since and not broken and hasattr(transformers, family.model + family.head)


def inputs(family: Family, rows: int = 3, length: int = 7) -> dict[str, Tensor]:
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(5))
    found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {**found, "decoder_input_ids": ids.flip(1)} if family.head == "ForConditionalGeneration" else found


@contextmanager
def watched(model: Any, family: Family, change: Any) -> Iterator[None]:
    """Let ``change(site, h, gate, tokens)`` replace the activation h of every site, with hooks and plain torch alone.

    ``gate`` is what tells whether a neuron is active (None in GPT-OSS, where h itself does), ``tokens`` in an expert
    the rows' places in the flattened batch, else None.
    """
    undo: list[Any] = []
    gates: dict[str, Tensor] = {}
    for name in {name.rpartition(".")[0] if family.stacked else name for name in family.names}:
        block = model.get_submodule(name)
        if family.stacked:
            block.forward = lambda *args, block=block, name=name, **named: _experts_forward(
                block, name, change, *args, *named.values()
            )
            undo.append(lambda block=block: block.__dict__.pop("forward"))
            continue

        def keep(_module: nn.Module, _args: Any, out: Tensor, name: str = name) -> None:
            gates[name] = out

        def replace(_module: nn.Module, args: tuple[Tensor, ...], name: str = name) -> tuple[Tensor, ...]:
            h = args[0]
            return (change(name, h, gates.pop(name).reshape(*h.shape[:-1], -1)[..., : h.shape[-1]], None),)

        undo.append(block.get_submodule(family.gate).register_forward_hook(keep).remove)
        undo.append(block.get_submodule(family.last).register_forward_pre_hook(replace).remove)
    try:
        yield
    finally:
        for step in undo:
            step()


def _experts_forward(block: Any, name: str, change: Any, x: Tensor, *routing: Tensor) -> Any:
    """One expert after another, as the class's documentation describes it."""
    kind = type(block).__name__
    out = x.new_zeros(x.numel() // HIDDEN, HIDDEN)
    rows = x.reshape(-1, HIDDEN)
    logits: Tensor | None = None
    if "Llama4" in kind:  # each expert's inputs, scaled by its scores, which are 0 where a token is not routed to it
        chosen = torch.stack([(part != 0).any(-1) for part in rows.chunk(EXPERTS)], 1)
        weights = chosen.float()
    elif "JetMoe" in kind:
        _, tokens, gates, sizes, logits = block.router(rows)
        weights = torch.zeros(len(rows), EXPERTS)
        weights[tokens, torch.arange(EXPERTS).repeat_interleave(torch.tensor(sizes))] = gates
        chosen = weights > 0
    else:  # [N, K] experts, and their weights, or those of all experts
        top, given = routing
        chosen = torch.stack([(top == expert).any(-1) for expert in range(EXPERTS)], 1)
        weights = given
        if given.shape == top.shape:
            weights = torch.stack([(given * (top == expert)).sum(-1) for expert in range(EXPERTS)], 1)
    for expert in range(EXPERTS):
        tokens = chosen[:, expert].nonzero()[:, 0]
        given = rows.chunk(EXPERTS)[expert][tokens] if "Llama4" in kind else rows[tokens]
        bias = 0
        if "JetMoe" in kind:
            first, last = block.input_linear.weight[expert].T, block.output_linear.weight[expert].T
        elif "Dbrx" in kind:
            gate_weight, up_weight, last = (
                weight.view(EXPERTS, -1, HIDDEN)[expert] for weight in (block.mlp.w1, block.mlp.v1, block.mlp.w2)
            )
            first = torch.cat([gate_weight.T, up_weight.T], 1)
        else:
            first, last = block.gate_up_proj[expert], block.down_proj[expert]
            if first.shape[0] != HIDDEN:
                first, last = first.T, last.T
        if "GptOss" in kind:
            both, bias = given @ first + block.gate_up_proj_bias[expert], block.down_proj_bias[expert]
            gate, up = both[:, ::2].clamp(max=7.0), both[:, 1::2].clamp(-7.0, 7.0)
            h = change(f"{name}.{expert}", gate * torch.sigmoid(1.702 * gate) * (up + 1), None, tokens)
        else:
            gate, up = (given @ first).chunk(2, -1)
            h = change(f"{name}.{expert}", F.silu(gate) * up, gate, tokens)
        if "Llama4" in kind:  # the block adds up the experts' outputs itself
            whole = x.new_zeros(len(rows) // EXPERTS, HIDDEN).index_copy(0, tokens, h @ last)
            out[expert * len(whole) : (expert + 1) * len(whole)] = whole
        else:
            out.index_add_(0, tokens, (h @ last + bias) * weights[tokens, expert, None])
    if "Longcat" in kind:  # an expert beyond the last returns what it is given
        out += rows * (routing[1] * (routing[0] >= EXPERTS)).sum(-1, keepdim=True)
    if "JetMoe" in kind:
        out = out + block.bias
        if int(transformers.__version__.partition(".")[0]) < 5:
            return out.view(x.shape), logits
    return out.view(x.shape)


def experts_program(family: Family, layer: int, factor: float = 3.0) -> interventions.Program:
    """Every third neuron of every expert of a layer, times ``factor``."""
    names = family.names[layer * EXPERTS : (layer + 1) * EXPERTS]
    return interventions.amplify([(name, i) for name in names for i in range(0, family.neurons, 3)], factor)


LABELS = ("anger", "joy", "irony")


def corpus() -> affectron.Corpus:
    """12 sentences of random words, with one or two of :data:`LABELS`."""
    rng = np.random.default_rng(2)
    kinds = [("anger",), ("joy",), ("irony", "joy")]
    return affectron.Corpus.from_records(
        {"text": " ".join(f"w{w}" for w in rng.integers(0, 60, rng.integers(2, 9))), "label": list(kinds[i % 3])}
        for i in range(12)
    )


class Mixture(nn.Module):
    """Experts as modules in a list, each called with the rows that are routed to it, as transformers 4 writes them."""

    def __init__(self, blocks: list[nn.Module], flat: bool) -> None:
        super().__init__()
        self.experts, self.router, self.flat = nn.ModuleList(blocks), nn.Linear(HIDDEN, len(blocks)), flat

    def forward(self, hidden_states: Tensor) -> Tensor:
        x = hidden_states.view(-1, HIDDEN)
        weights, chosen = self.router(x).softmax(-1).topk(2, dim=-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            slot, tokens = torch.where(number == chosen.T)  # not in the order of the batch
            rows = x[None, tokens].reshape(-1, HIDDEN) if self.flat else x.index_select(0, tokens)
            out.index_add_(0, tokens, expert(rows) * weights[tokens, slot, None])
        return out.view(hidden_states.shape)
