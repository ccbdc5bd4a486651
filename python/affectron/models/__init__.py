"""Models of transformers: where their MLP neurons are, how to measure and steer them, how to load them."""

from affectron.models.compaction import compact
from affectron.models.discovery.sites import attach, declare_mlp, evaluating, find_sites, max_length, unwrapped
from affectron.models.forward import Reader
from affectron.models.layout import Given, Kernel, Routed, Site, Structure
from affectron.models.load import check_tokenizer, config_hash, fingerprint, load_model, load_skeleton, tokenizer_hash
from affectron.models.steering import Steering, intervene
from affectron.models.sweeps import sweep

__all__ = [
    "Given",
    "Kernel",
    "Reader",
    "Routed",
    "Site",
    "Steering",
    "Structure",
    "attach",
    "check_tokenizer",
    "compact",
    "config_hash",
    "declare_mlp",
    "evaluating",
    "find_sites",
    "fingerprint",
    "intervene",
    "load_model",
    "load_skeleton",
    "max_length",
    "sweep",
    "tokenizer_hash",
    "unwrapped",
]
