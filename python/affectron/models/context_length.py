"""The number of tokens that a model reads at most."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from affectron._internal.arguments import checked_arguments
from affectron.models.wrappers import unwrapped

# Names of the limit in configurations; attribute maps of transformers lead most other names to the first.
_LIMITS = ("max_position_embeddings", "max_seq_len", "max_sequence_length")


@checked_arguments
def max_length(model: Any) -> int | None:
    """The number of tokens that a model of transformers reads at most, of an encoder-decoder model its encoder; None
    if there is no limit, as with relative positions.

    The limit is the smallest of those in the configuration and of the model's tables of positions. The tables tell
    more: RoBERTa counts in ``max_position_embeddings`` two rows that no token reaches, OPT and BART leave them out.
    """
    inner: Any = unwrapped(model)
    config = inner.config
    if config.is_encoder_decoder:
        inner = inner.get_encoder()
        config = getattr(inner, "config", config)
    limits = [getattr(config.get_text_config(), name, None) for name in _LIMITS]
    limits += [_positions(table) for table in _position_tables(inner)]
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)


def _position_tables(model: Any) -> Iterator[Any]:
    """The tables of positions beside the embeddings of the tokens; those of images are elsewhere."""
    try:
        tokens = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):  # FSMT's encoder has none, CANINE hashes characters
        return
    for parent in model.modules():
        children = dict(parent.named_children())
        if any(child is tokens or getattr(child, "weight", 0) is tokens.weight for child in children.values()):
            for name, child in children.items():
                if hasattr(child, "padding_idx") and hasattr(child, "weight") and re.search("pos|wpe", name):
                    yield child


def _positions(table: Any) -> int:
    """The tokens that a table has rows for, after the row of the padding or the ``offset`` that the table names."""
    after_padding = 0 if table.padding_idx is None else table.padding_idx + 1
    return len(table.weight) - int(getattr(table, "offset", after_padding))
