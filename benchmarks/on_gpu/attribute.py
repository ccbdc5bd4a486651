"""Attribution in a Llama with random weights: against the plain forwards of the batches that it reads, and against
hooks that keep h of every site and its gradient.

The model has few layers, so that the hooks' memory does not end the comparison. The plain forward computes every logit,
the others only those that the labels need. All tokenise the corpus, within their time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import affectron
from affectron.attribution.batching import QuestionBatch, question_batches
from affectron.evaluation.label_likelihood import LabelLikelihood
from on_gpu.contenders import serving
from on_gpu.llama import BASE, WITH_HEAD, corpus, forward, llama, tokenizer
from on_gpu.record import Row, memory_rows, rows_of
from on_gpu.scale import Scale
from on_gpu.timing import Clock, Contender, compete

HOOKS = "retain_grad on every h"
PROMPTS = {"label": "w0 {text} w0 w0"}


def questions(model: Any, tokens: Any, sentences: affectron.Corpus, batch_tokens: int) -> Iterator[QuestionBatch]:
    """The batches that attribution reads; each label is a word."""
    metric = LabelLikelihood(PROMPTS).differentiable(model, tokens, "label", sentences.labels)
    return question_batches(sentences, metric, "all", batch_tokens, True, sentences)


def by_hooks(model: Any, batches: Iterable[QuestionBatch], labels: Tensor) -> Tensor:
    """The mean attribution of each neuron under each of L labels, [sites, L, F], by plain torch with frozen weights.

    ``labels`` [L] is the token of each.
    """
    layers, device = model.model.layers, model.device
    held: list[Tensor] = []

    def keep(_: Any, args: tuple[Tensor]) -> None:
        args[0].retain_grad()
        held.append(args[0])

    hooks = [layer.mlp.down_proj.register_forward_pre_hook(keep) for layer in layers]
    model.requires_grad_(False)
    sums = torch.zeros(len(layers), len(labels), model.config.intermediate_size, device=device)
    count = torch.zeros(len(labels), 1, device=device)
    for batch in batches:
        held.clear()
        ids, mask, segments = (
            torch.from_numpy(array).to(device) for array in (batch.input_ids, batch.attention_mask, batch.segments)
        )
        # Something before the first site has to need a gradient.
        embedded = model.get_input_embeddings()(ids).requires_grad_()
        hidden = model.model(inputs_embeds=embedded, attention_mask=mask, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[torch.arange(len(mask)), mask.sum(1) - 1])
        likelihood = logits[:, labels].float().log_softmax(-1)
        likelihood.gather(1, segments[:, None]).sum().backward()
        for site, h in enumerate(held):
            sums[site].index_add_(0, segments, (h.detach() * h.grad).sum(1).float())
        count += segments.bincount(minlength=len(labels))[:, None]
    for hook in hooks:
        hook.remove()
    model.requires_grad_(True)
    return sums / count


def attribute(scale: Scale, clock: Clock) -> list[Row]:
    model, tokens = llama(scale, scale.attributed_layers), tokenizer(scale)
    sentences, size = corpus(scale, scale.sentences[0]), scale.batch_tokens
    labels = torch.tensor(tokens.convert_tokens_to_ids(list(sentences.labels)), device=scale.device)

    def read() -> Iterator[QuestionBatch]:
        return questions(model, tokens, sentences, size)

    def run(recompute: bool) -> None:
        affectron.attribute(model, tokens, sentences, prompts=PROMPTS, batch_tokens=size, recompute=recompute)

    ways: dict[str, Callable[[], Any]] = {
        WITH_HEAD: lambda: forward(model, read()),
        BASE: lambda: forward(model.model, read()),
        HOOKS: lambda: by_hooks(model, read(), labels),
    }
    contenders = [Contender(name, "torch", way) for name, way in ways.items()]
    for backend in scale.backends:
        for name, recompute in ((f"attribute {backend}", False), (f"attribute {backend}, recomputed", True)):
            goals: dict[str, float | None] = dict.fromkeys(ways)
            context = partial(serving, backend, {})
            contenders.append(Contender(name, backend, partial(run, recompute), goals, context=context))
    times = compete(clock, contenders, scale.screen_rounds, cold=False)
    work = f"Llama of {scale.attributed_layers} layers, attributed, {size} tokens a batch"
    rows = rows_of(work, contenders, times)

    # Memory is compared with the model included: that is what has to fit.
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    against = weights + times.peaks.get(HOOKS, 0)
    for one in contenders[len(ways) :]:
        rows += memory_rows(one, work, times, None, against, HOOKS, held=weights)
    return rows
