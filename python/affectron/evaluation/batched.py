"""Batched forwards of a model under many programs of neurons, and the loss of plain text under each.

The programs of a batch share what none of them changes (:func:`affectron.models.sweep`), and the keys and values of the
tokens with which all rows begin.

Rows are padded on the right. In a causal model no token sees what follows it, so the padding cannot change a result,
and no attention mask is passed. Any other model is given a mask, and shares no keys and values between rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, DynamicCache

from affectron import models
from affectron.corpus import Sentence
from affectron.corpus.batching import cut, filled, padded
from affectron.corpus.encoding import encode
from affectron.errors import InputError
from affectron.interventions import Program, Schedule

Integers: TypeAlias = NDArray[np.int64]

#: Programs under which a model runs, each by itself; None leaves the model as it is at that moment.
Programs: TypeAlias = Sequence[Program | Schedule | None]

#: The one entry that leaves the model as it is.
AS_IT_IS: Programs = (None,)

#: ``readout(rows, programs)``: float64 [P, len(rows), ...], numbers of each sentence under each of P programs. ``rows``
#: are positions in the list of sentences that the readout was made for.
Readout: TypeAlias = Callable[[Integers, Programs], NDArray[np.float64]]

# Tokens of a batch. On a CPU the activations of a small batch stay in the cache, and narrow batches need little
# padding: 1024 tokens ran 1.4x as fast as 8192 (models of 1.3 and 3.1 million parameters, sentences of 25 tokens).
_CPU_BATCH_TOKENS = 1024
_BATCH_TOKENS = 8192
# Most programs of a batch. More would leave too few rows to what they share: at 1024 tokens of 25 a sentence, eight
# programs still share batches of five sentences.
_MOST_PROGRAMS = 8
# Most logits of a batch when every token's are needed: 2^26 are 256 MiB in float32.
_BATCH_LOGITS = 1 << 26


@dataclass(frozen=True)
class ProgramBatch:
    """B rows of tokens under P programs.

    Attributes:
        programs: the positions of the P programs.
        rows: int64 [B], the positions of the rows.
        ids: int64 [B, T] on the model's device, without the first ``cached`` tokens.
        mask: int64 [B, T], 0 at the padding; None where the model is given none.
        cached: number of leading tokens whose keys and values are in ``prefix``.
        prefix: (keys, values) of each layer; each is [1, ...] where the layer serves all programs alike, else [P, ...].
    """

    programs: slice
    rows: Integers
    ids: Tensor
    mask: Tensor | None
    cached: int
    prefix: Sequence[tuple[Tensor, Tensor]]

    def forward(self, model: Any) -> Any:
        """The output of ``model`` (the swept model or a part of it) for P B rows: row ``p B + b`` is row b under
        program p."""
        if self.mask is not None:
            return model(input_ids=self.ids, attention_mask=self.mask)
        if not self.cached:
            return model(input_ids=self.ids, use_cache=False)
        cache = DynamicCache()
        for layer, states in enumerate(self.prefix):
            keys, values = (state.repeat_interleave(len(self.ids), 0) for state in states)
            cache.update(keys, values, layer)
        return model(input_ids=self.ids, past_key_values=cache, use_cache=True)


class BatchedModel:
    """A model that runs rows of tokens under many programs, batch by batch.

    Args:
        model: a causal language model or an encoder of transformers.
        batch_tokens: most tokens of a batch; by default what suits the device.
    """

    def __init__(self, model: Any, batch_tokens: int | None = None) -> None:
        self.model = model
        self._reader = models.Reader(model)  # knows whether the model needs an attention mask
        self._batch_tokens = default_batch_tokens(model) if batch_tokens is None else batch_tokens

    def run(
        self,
        rows: Sequence[Sequence[int]],
        programs: Programs,
        read: Callable[[ProgramBatch], None],
        prefix: Sequence[int] = (),
        *,
        text: Sequence[Sequence[bool]],
    ) -> None:
        """Call ``read`` with each batch while the model is steered by the batch's programs.

        ``text`` tells which tokens of each row are the text's own: a schedule may limit a program to these.

        All rows begin with the tokens ``prefix``, and ``text`` begins alike. Their keys and values are computed once
        for each program, provided that the model is causal and keeps them in a form that can be handed on.
        """
        if not rows:
            return
        prefix = prefix if self._reader.causal else ()
        longest = max(map(len, rows)) - len(prefix)
        size = max(1, min(len(programs), _MOST_PROGRAMS, self._batch_tokens // max(longest, 1)))
        if any(site.time_first for site in self._reader.sites):  # sweep multiplies the first dimension
            size = 1
        for start in range(0, len(programs), size):
            chunk = programs[start : start + size]
            with torch.no_grad(), models.sweep(self.model, chunk) as steering:
                _tell(steering, text[:1], len(prefix))
                states = _prefix_states(self.model, prefix)
                cached = len(prefix) if states else 0
                shown = [row[cached:] for row in rows]
                self._run_chunk(shown, slice(start, start + len(chunk)), states, cached, read, text, steering)

    def _run_chunk(
        self,
        rows: Sequence[Sequence[int]],
        programs: slice,
        prefix: Sequence[tuple[Tensor, Tensor]],
        cached: int,
        read: Callable[[ProgramBatch], None],
        text: Sequence[Sequence[bool]],
        steering: models.Steering | None,
    ) -> None:
        order = np.argsort([-len(row) for row in rows], kind="stable")
        budget = self._batch_tokens // (programs.stop - programs.start)
        for batch, width in cut([len(rows[row]) for row in order], budget, self._reader.padding):
            ids, padding_mask = padded([rows[row] for row in order[batch]], width)
            mask = self._reader.mask(padding_mask)
            tensor = torch.from_numpy(ids).to(self.model.device)
            tensor_mask = None if mask is None else torch.from_numpy(mask).to(self.model.device)
            _tell(steering, [text[row] for row in order[batch]], cached + width)
            read(ProgramBatch(programs, order[batch], tensor, tensor_mask, cached, prefix))


def default_batch_tokens(model: Any) -> int:
    """Tokens of a batch that suit the model's device."""
    return _CPU_BATCH_TOKENS if model.device.type == "cpu" else _BATCH_TOKENS


def _tell(steering: models.Steering | None, text: Sequence[Sequence[bool]], width: int) -> None:
    """Say which of the first ``width`` tokens of each row are the text's own, if a program depends on it."""
    if steering is not None and steering.scheduled:
        own, _ = padded([row[:width] for row in text], width)
        steering.text = torch.from_numpy(own).bool()


def _prefix_states(model: Any, prefix: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of the prefix for each layer; empty without a prefix or where a layer keeps anything else."""
    if not prefix:
        return []
    cache = DynamicCache()
    model(input_ids=torch.tensor([list(prefix)], device=model.device), past_key_values=cache, use_cache=True)
    layers = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in cache.layers]
    states = [(keys, values) for keys, values in layers if keys is not None and values is not None]
    whole = len(states) == len(layers) and all(keys.shape[-2] == len(prefix) for keys, _ in states)
    return states if whole else []


def output_layer(model: Any) -> nn.Module:
    """The layer that gives the logits of a causal language model.

    Raises:
        InputError: the model is none: its logits at a token are not those of the next one.
    """
    head: nn.Module | None = model.get_output_embeddings()
    config = model.config
    # An encoder that transformers loads as a causal language model sees later tokens, unless it is set to be a decoder.
    encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if head is None or not model.can_generate() or config.is_encoder_decoder or encoder:
        raise InputError(
            f"model is a {type(model).__name__}, expected a causal language model to read likelihoods from"
        )
    return head


def token_losses(model: Any, batch: ProgramBatch) -> Tensor:
    """-ln p(token | tokens before it) of each token but the first, in nats: float32 [P, B, T - 1]."""
    logits = batch.forward(model).logits[:, :-1].float()
    programs = len(logits) // len(batch.ids)
    targets = batch.ids[:, 1:].repeat(programs, 1)
    nats = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return nats.view(programs, len(batch.ids), targets.shape[1])


def most_tokens(model: Any, wanted: int) -> int:
    """The most tokens of a batch, at most ``wanted``, when the logits of every token are needed."""
    vocabulary = int(model.get_output_embeddings().weight.shape[0])
    return max(1, min(wanted, _BATCH_LOGITS // vocabulary))


def text_loss(model: Any, tokenizer: Any, sentences: Sequence[Sentence]) -> tuple[Readout, Integers]:
    """The model's loss on plain text: a function of sentences and programs, and int64 [n], the tokens that count.

    ``loss(rows, programs)`` gives float64 [P, len(rows)]: the sum of -ln p(token | tokens before it) over a sentence's
    tokens that count, in nats. A sentence is encoded as it is for screening, and its text's own tokens count, without a
    token that no other precedes.
    """
    encoded = encode(tokenizer, sentences, max_length=models.max_length(model))
    return token_loss(model, [(row.input_ids, row.counted) for row in encoded])


def token_loss(model: Any, texts: Sequence[tuple[Sequence[int], Sequence[bool]]]) -> tuple[Readout, Integers]:
    """:func:`text_loss` of tokenised texts: (tokens, which of them count)."""
    batched = BatchedModel(model, most_tokens(model, default_batch_tokens(model)))

    def loss(rows: Integers, programs: Programs) -> NDArray[np.float64]:
        selected = [texts[row] for row in rows.tolist()]
        sums = np.zeros((len(programs), len(selected)))

        def read(batch: ProgramBatch) -> None:
            counted = filled([selected[row][1] for row in batch.rows], batch.ids.shape[1])[:, 1:]
            nats = token_losses(model, batch).cpu().double()
            sums[batch.programs, batch.rows] = np.where(counted, nats.numpy(), 0.0).sum(-1)

        batched.run([ids for ids, _ in selected], programs, read, text=[counted for _, counted in selected])
        return sums

    return loss, np.array([sum(counted[1:]) for _, counted in texts], dtype=np.int64)
