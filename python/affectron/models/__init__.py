"""Models of transformers: their MLP neurons and layers found, measured and steered; loading and identity."""

from affectron.models.attaching import attach
from affectron.models.chain import Given, Kernel, Routed
from affectron.models.compaction import compact
from affectron.models.context_length import max_length
from affectron.models.discovery.sites import declare_mlp, find_sites
from affectron.models.forward import Reader, body, evaluating
from affectron.models.identity import check_tokenizer, config_hash, fingerprint, stored_fingerprint, tokenizer_hash
from affectron.models.layers import find_layers
from affectron.models.layout import Site, Structure
from affectron.models.load import load_model, load_skeleton
from affectron.models.steering import Steering, intervene
from affectron.models.sweeps import sweep
from affectron.models.wrappers import unwrapped

__all__ = [
    "Given",
    "Kernel",
    "Reader",
    "Routed",
    "Site",
    "Steering",
    "Structure",
    "attach",
    "body",
    "check_tokenizer",
    "compact",
    "config_hash",
    "declare_mlp",
    "evaluating",
    "find_layers",
    "find_sites",
    "fingerprint",
    "intervene",
    "load_model",
    "load_skeleton",
    "max_length",
    "stored_fingerprint",
    "sweep",
    "tokenizer_hash",
    "unwrapped",
]
