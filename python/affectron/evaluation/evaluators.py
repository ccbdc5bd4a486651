"""Evaluators: how a model's answer to a labelled sentence is read, and what it makes of plain text.

Apart from validation.py, which asks the same questions under one intervention after another and does not care how
they are put. Everything is tokenised once; a reader then runs the model under any number of programs at once, which
share what none of them changes (:func:`affectron.models.sweep`) and the tokens that all prompts begin with.

Sentences are padded on the right. In a causal model no token sees what follows it, so the padding cannot change an
answer, and no attention mask is passed; any other model is given one, and shares no keys and values between prompts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache

from affectron import models
from affectron.corpus import Sentence
from affectron.corpus.batching import Encoded, cut, encode, length_limit, split_template, template_frame
from affectron.corpus.special_tokens import Frame, starts_with_bos
from affectron.errors import InputError, Note
from affectron.interventions import Program
from affectron.models import max_length, sweep

Integers = NDArray[np.int64]

Programs = Sequence[Program | None]
"""What the model is steered by, each by itself; None is the model as it is at that moment."""

AS_IT_IS: Programs = (None,)


class Reader(Protocol):
    """``reader(rows, programs)``: int64 [P, len(rows)], the answer of the model under each of P programs to each of
    these sentences (their positions in the list that the reader was made for). An answer is a label's position in the
    list of labels, or -1 where the model gives none that is a number."""

    def __call__(self, rows: Integers, programs: Programs = AS_IT_IS) -> Integers: ...


# Tokens of a batch. On a CPU the activations of a small batch stay in the cache, and narrow batches need little
# padding: 1024 tokens ran 1.4x as fast as 8192 (models of 1.3 and 3.1 million parameters, sentences of 25 tokens).
_CPU_BATCH_TOKENS = 1024
_BATCH_TOKENS = 8192
# Programs of a batch at most. More would leave too few rows to what they share: at 1024 tokens of 25 a sentence, eight
# programs still share batches of five sentences.
_MOST_PROGRAMS = 8
# Tokens that all prompts must begin with before their keys and values are computed once and handed to every batch.
_LEAST_PREFIX = 16
# Logits of a batch when every token's are needed: 2^26 are 256 MiB in float32.
_BATCH_LOGITS = 1 << 26
# Ridge penalties to choose from, in units of the mean eigenvalue of the features' scatter matrix.
_PENALTIES = tuple(float(penalty) for penalty in np.logspace(2, -6, 17))


class Evaluator(Protocol):
    """What :func:`affectron.experiments.validation.validate` needs of an evaluator.

    Attributes:
        name: what the result calls it.
        trains: whether :meth:`fit` learns from sentences; if not it is never called.
        options: what the evaluator used or chose, as JSON; saved with the result.
    """

    name: str
    trains: bool
    options: dict[str, Any]

    def fit(
        self,
        model: Any,
        tokenizer: Any,
        train: Sequence[Sentence],
        dev: Sequence[Sentence],
        task: str,
        labels: Sequence[str],
    ) -> None:
        """Learn to answer a task from the unsteered model."""

    def reader(
        self, model: Any, tokenizer: Any, sentences: Sequence[Sentence], task: str, labels: Sequence[str]
    ) -> Reader:
        """Prepare sentences to be asked about, any number of times and in any selection."""


class LabelLikelihood:
    """The label that the model finds likeliest after a prompt; for models that can be prompted.

    A label's score is the mean log-likelihood of its tokens. The label follows the prompt after one space, or at
    once where the prompt ends in white space. Prompt and label are tokenised together; where that changes the
    prompt's last tokens, all labels of the sentence are scored from the last token on which they agree.

    A prompt too long for the model loses the end of the text, the same for all labels, and never what follows the
    text. Only the logits that are needed are computed, and labels of one token share one forward.

    Args:
        prompts: task -> template with {text} and perhaps {bos}; tokenised as it stands, after the tokenizer's
            beginning-of-sequence token, where it has one. A task without one is asked in words: through the tokenizer's
            chat template, as it stands, where it has one, else as text.

    Raises:
        InputError: a template without {text}; from :meth:`reader` a template that the tokenizer cannot serve, or a
            prompt without room for the text.
    """

    name = "label_likelihood"
    trains = False

    def __init__(self, prompts: Mapping[str, str] | None = None) -> None:
        self.prompts = dict(prompts or {})
        for template in self.prompts.values():
            split_template(template)
        self.options: dict[str, Any] = {"prompts": {}}

    def fit(self, *_: Any) -> None:
        """Nothing to learn."""

    def reader(
        self, model: Any, tokenizer: Any, sentences: Sequence[Sentence], task: str, labels: Sequence[str]
    ) -> Reader:
        if task in self.prompts:
            template = self.prompts[task]
            frame = template_frame(tokenizer, template)
        else:
            template = default_prompt(tokenizer, task, labels)
            frame = Frame()
            if self.prompts:
                warnings.warn(f"task {task!r} has no prompt of its own: it is asked {template!r}", Note, stacklevel=1)
        self.options["prompts"][task] = template
        head = model.get_output_embeddings()
        if head is None:
            raise InputError(f"{type(model).__name__} has no output layer to read a label's likelihood from")
        limit = length_limit(tokenizer, max_length(model))
        rows = _label_rows(tokenizer, sentences, template, frame, labels, limit)
        return LikelihoodReader(model, head, rows, len(labels), _pad(tokenizer))


class LikelihoodReader:
    """Answers by likelihood, and the likelihoods themselves; made by :meth:`LabelLikelihood.reader`."""

    def __init__(self, model: Any, head: nn.Module, rows: list[list[_Row]], labels: int, pad: int) -> None:
        self._model, self._head, self._rows, self._labels, self._pad = model, head, rows, labels, pad
        self._prefix = _prefix([row for found in rows for row in found])
        self._reading = models.Reader(model)

    def scores(self, wanted: Integers, programs: Programs = AS_IT_IS) -> NDArray[np.float64]:
        """float64 [P, len(wanted), L]: the mean log-likelihood, in nats, of each label's tokens under each program."""
        asked = [(line, row) for line, index in enumerate(wanted.tolist()) for row in self._rows[index]]
        scores = np.zeros((len(programs), len(wanted), self._labels))

        def read(run: _Run) -> None:
            batch = [asked[place] for place in run.places]
            longest = max(len(answer) for _, row in batch for _, answer in row.answers)
            first = torch.tensor([row.first - run.cached for _, row in batch])
            positions = (first[:, None] + torch.arange(longest)).clamp(max=run.ids.shape[1] - 1)
            with _head_reads_only(self._head, positions):
                logits = run(self._model).logits.float()
            logits = logits.view(-1, *positions.shape, logits.shape[-1])
            at = [
                (place, step, token, line, label, len(answer))
                for place, (line, row) in enumerate(batch)
                for label, answer in row.answers
                for step, token in enumerate(answer)
            ]
            place, position, token, line, label, length = np.array(at).T
            likelihood = torch.log_softmax(logits, dim=-1)
            rows, steps, tokens = torch.from_numpy(np.stack([place, position, token])).to(logits.device)
            picked = likelihood[:, rows, steps, tokens].double().cpu().numpy() / length
            for found, mine in zip(scores[run.programs], picked, strict=True):
                np.add.at(found, (line, label), mine)

        ids = [row.ids for _, row in asked]
        _each_batch(
            self._model, self._reading, ids, self._pad, _batch_tokens(self._model), programs, read, self._prefix
        )
        return scores

    def __call__(self, rows: Integers, programs: Programs = AS_IT_IS) -> Integers:
        return _answers(self.scores(rows, programs))


class LinearProbe:
    """A linear classifier on the mean final hidden state over the text's own tokens; for base models.

    One ridge regression for each label on targets 1 (the sentence has the label) and 0, with an intercept that is
    not penalised, in float64 and closed form. The penalty is the one of highest accuracy on dev, the larger one of
    equals. It is fitted on the unsteered model and then left alone: a mask changes the states it reads.
    """

    name = "linear_probe"
    trains = True

    def __init__(self) -> None:
        self.options: dict[str, Any] = {"ridge_penalty": {}}
        self._fitted: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def fit(
        self,
        model: Any,
        tokenizer: Any,
        train: Sequence[Sentence],
        dev: Sequence[Sentence],
        task: str,
        labels: Sequence[str],
    ) -> None:
        (states,) = _mean_states(model, tokenizer, train)(np.arange(len(train)), AS_IT_IS)
        (held_out,) = _mean_states(model, tokenizer, dev)(np.arange(len(dev)), AS_IT_IS)
        if not (np.isfinite(states).all() and np.isfinite(held_out).all()):
            raise InputError(f"task {task!r}: the model's final hidden states are not finite; a probe cannot be fitted")
        truth = truths(dev, labels)
        best = -1.0
        for penalty, weights, intercept in ridge(states, truths(train, labels).astype(np.float64)):
            accuracy = float(truth[np.arange(len(dev)), _answers(held_out @ weights + intercept)].mean())
            if accuracy > best:
                best = accuracy
                self._fitted[task] = (weights, intercept)
                self.options["ridge_penalty"][task] = penalty

    def reader(
        self, model: Any, tokenizer: Any, sentences: Sequence[Sentence], task: str, labels: Sequence[str]
    ) -> Reader:
        if task not in self._fitted:
            raise InputError(f"task {task!r}: the probe has not been fitted")
        weights, intercept = self._fitted[task]
        states = _mean_states(model, tokenizer, sentences)
        return lambda rows, programs=AS_IT_IS: _answers(states(rows, programs) @ weights + intercept)


def ridge(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> Iterator[tuple[float, NDArray[np.float64], NDArray[np.float64]]]:
    """Ridge regressions of y [n, L] on x [n, H], largest penalty first: (penalty, weights [H, L], intercept [L]).

    Each minimises |y - x w - b|² + p |w|², p the penalty times the mean eigenvalue of the centred x'x (Hoerl and
    Kennard 1970), so that the grid does not depend on the scale of x. One eigendecomposition serves all.
    """
    x_mean, y_mean = x.mean(0), y.mean(0)
    centred = x - x_mean
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values = np.maximum(values, 0.0)
    projected = vectors.T @ (centred.T @ (y - y_mean))
    # Features that never vary say nothing, at any penalty.
    unit = float(values.mean()) or 1.0
    for penalty in _PENALTIES:
        weights = vectors @ (projected / (values + penalty * unit)[:, None])
        yield penalty, weights, y_mean - x_mean @ weights


def truths(sentences: Sequence[Sentence], labels: Sequence[str]) -> NDArray[np.bool_]:
    """bool [n, L]: which labels each sentence has."""
    return np.array([[label in sentence.labels for label in labels] for sentence in sentences], dtype=np.bool_).reshape(
        len(sentences), len(labels)
    )


def default_prompt(tokenizer: Any, task: str, labels: Sequence[str]) -> str:
    """The prompt of a task that has none of its own: the question in words, through the tokenizer's chat template
    where it has one."""
    choice = labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} or {labels[-1]}"
    if getattr(tokenizer, "chat_template", None):
        question = f"Which {task} does this text have: {choice}? Answer with one of these only.\n\n{{text}}"
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        if isinstance(prompt, str) and prompt.count("{text}") == 1:
            return prompt
    return f"{'{bos}' if starts_with_bos(tokenizer) else ''}Text: {{text}}\nThe {task} of this text ({choice}) is:"


def text_loss(model: Any, tokenizer: Any, sentences: Sequence[Sentence]) -> tuple[States, Integers]:
    """How well the model predicts plain text: a reader, and int64 [n], the tokens that count in each sentence.

    ``reader(rows, programs)`` gives float64 [P, len(rows)], the sum over a sentence's tokens of
    -ln p(token | what precedes it), in nats. A sentence is read as it is screened; the text's own tokens count, but for
    one that nothing precedes.
    """
    encoded = encode(tokenizer, sentences, max_length=max_length(model))
    vocabulary = int(model.get_output_embeddings().weight.shape[0])
    budget = max(1, min(_batch_tokens(model), _BATCH_LOGITS // vocabulary))
    pad, reading = _pad(tokenizer), models.Reader(model)

    def loss(rows: Integers, programs: Programs) -> NDArray[np.float64]:
        asked = [encoded[index] for index in rows.tolist()]
        sums = np.zeros((len(programs), len(asked)))

        def read(run: _Run) -> None:
            counted = _counted([asked[place] for place in run.places], run.ids.shape[1])[:, 1:]
            logits = run(model).logits[:, :-1].float()
            targets = run.ids[:, 1:].repeat(len(logits) // len(run.ids), 1)
            nats = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            nats = nats.view(-1, *counted.shape).double().cpu()
            sums[run.programs, run.places] = np.where(counted, nats.numpy(), 0.0).sum(-1)

        _each_batch(model, reading, [one.input_ids for one in asked], pad, budget, programs, read)
        return sums

    return loss, np.array([sum(one.counted[1:]) for one in encoded], dtype=np.int64)


# --- label likelihood ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    """What the model reads for a sentence and one or more labels: the logits at position ``first`` and after are
    those of the label's first token and of the next ones. ``answers`` holds (label, its tokens)."""

    ids: list[int]
    first: int
    answers: tuple[tuple[int, tuple[int, ...]], ...]


def _label_rows(
    tokenizer: Any,
    sentences: Sequence[Sentence],
    template: str,
    frame: Frame,
    labels: Sequence[str],
    limit: int | None,
) -> list[list[_Row]]:
    """The rows of every sentence: one, unless labels of several tokens begin differently."""
    before, after = split_template(template, tokenizer)
    if not tokenizer.is_fast:
        raise InputError(f"{type(tokenizer).__name__} gives no character offsets to tell prompt and label apart")
    filled = [f"{before}{sentence.text}{after}" for sentence in sentences]
    joined = [f"{one}{'' if one[-1:].isspace() else ' '}{label}" for one in filled for label in labels]
    if not joined:
        return []
    found = tokenizer(
        joined,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    rows = []
    for place, (sentence, prompt) in enumerate(zip(sentences, filled, strict=True)):
        span = slice(place * len(labels), (place + 1) * len(labels))
        bare = frame.bare(found["input_ids"][span][0])
        answers = [[*frame.before, *answer[bare.start :]] for answer in found["input_ids"][span]]
        offsets = [(0, 0)] * len(frame.before) + found["offset_mapping"][span][0][bare.start :]
        text = len(before), len(before) + len(sentence.text)
        context = _context(answers, offsets, len(prompt))
        if context == 0:
            raise InputError(
                f"sentence {sentence.id}: no token precedes the label in prompt {template!r}; "
                "begin it with {bos} or with words"
            )
        excess = 0 if limit is None else max(map(len, answers)) - 1 - limit
        own = [place for place, (first, last) in enumerate(offsets[:context]) if first < text[1] and last > text[0]]
        if excess > 0 and excess >= len(own):
            raise InputError(
                f"sentence {sentence.id}: prompt {template!r} with its label leaves no room for the text in the "
                f"model's {limit} positions"
            )
        dropped = set(own[-excess:]) if excess > 0 else set()
        kept = [token for place, token in enumerate(answers[0][:context]) if place not in dropped]
        rows.append(_grouped(kept, [tuple(answer[context:]) for answer in answers]))
    return rows


def _context(answers: Sequence[Sequence[int]], offsets: Sequence[tuple[int, int]], prompt: int) -> int:
    """How many first tokens belong to the prompt's characters alone and are the same before every label.

    ``offsets`` are those of the first of ``answers``: where the ids agree, so do the characters.
    """
    most = min(len(answer) - 1 for answer in answers)
    for place in range(most):
        if offsets[place][1] > prompt or any(answer[place] != answers[0][place] for answer in answers):
            return place
    return most


def _grouped(context: list[int], answers: Sequence[tuple[int, ...]]) -> list[_Row]:
    # A label of k tokens needs its first k - 1 in the input; a longer input with the same beginning does as well.
    inputs = sorted({answer[:-1] for answer in answers}, key=len, reverse=True)
    kept: list[tuple[int, ...]] = []
    for one in inputs:
        if not any(longer[: len(one)] == one for longer in kept):
            kept.append(one)
    served: list[list[tuple[int, tuple[int, ...]]]] = [[] for _ in kept]
    for label, answer in enumerate(answers):
        place = next(i for i, one in enumerate(kept) if one[: len(answer) - 1] == answer[:-1])
        served[place].append((label, answer))
    return [_Row([*context, *one], len(context) - 1, tuple(found)) for one, found in zip(kept, served, strict=True)]


@contextmanager
def _head_reads_only(head: nn.Module, positions: Tensor) -> Iterator[None]:
    """Let the model's own output layer see the hidden states of each program's B rows at ``positions`` [B, K] only,
    inside its own forward: whatever a model does to its logits (scaling, soft caps) is done to these."""

    def pick(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0]
        index = positions.to(hidden.device).repeat(len(hidden) // len(positions), 1)
        index = index[..., None].expand(-1, -1, hidden.shape[-1])
        return (hidden.gather(1, index), *args[1:])

    handle = head.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def _answers(scores: NDArray[np.float64]) -> Integers:
    """int64 [...]: the position of the highest score [..., L], the first of equals; -1 where none is a number."""
    usable = np.where(np.isnan(scores), -np.inf, scores)
    return np.where(np.isneginf(usable).all(axis=-1), -1, usable.argmax(axis=-1)).astype(np.int64)


# --- hidden states ---------------------------------------------------------------------------------------------


States = Callable[[Integers, Programs], NDArray[np.float64]]


def _mean_states(model: Any, tokenizer: Any, sentences: Sequence[Sentence]) -> States:
    """``read(rows, programs)``: float64 [P, len(rows), H], the mean final hidden state over each text's own tokens
    (over all tokens where its tokenizer knows none of the text)."""
    encoded = encode(tokenizer, sentences, max_length=max_length(model))
    for one in encoded:
        if not any(one.counted):
            one.counted = [True] * len(one.counted)
    pad, reading = _pad(tokenizer), models.Reader(model)
    body = getattr(models.unwrapped(model), "base_model", model)

    def states(rows: Integers, programs: Programs) -> NDArray[np.float64]:
        asked = [encoded[index] for index in rows.tolist()]
        found = np.zeros((len(programs), len(asked), model.get_input_embeddings().weight.shape[1]))

        def read(run: _Run) -> None:
            counted = _counted([asked[place] for place in run.places], run.ids.shape[1])
            hidden = run(body).last_hidden_state
            weights = torch.from_numpy(counted / np.maximum(counted.sum(1, keepdims=True), 1)).to(hidden.device)
            hidden = hidden.double().view(-1, *counted.shape, hidden.shape[-1])
            found[run.programs, run.places] = torch.einsum("bt,pbth->pbh", weights, hidden).cpu().numpy()

        ids = [one.input_ids for one in asked]
        _each_batch(model, reading, ids, pad, _batch_tokens(model), programs, read)
        return found

    return states


# --- batches ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """A batch of B rows under P programs: positions of the programs (a slice) and of the rows [B] among those asked
    for, ids [B, T] without the first ``cached`` tokens, and the keys and values of these for each layer. ``mask`` is
    int64 [B, T], 0 at the padding; None for a causal model."""

    programs: slice
    places: Integers
    ids: Tensor
    mask: Tensor | None
    cached: int
    prefix: Sequence[tuple[Tensor, Tensor]]

    def __call__(self, model: Any) -> Any:
        """The model's output for P B rows, program by program."""
        if self.mask is not None:
            return model(input_ids=self.ids, attention_mask=self.mask)
        if not self.cached:
            return model(input_ids=self.ids, use_cache=False)
        cache = DynamicCache()
        for layer, states in enumerate(self.prefix):
            # One row where the layer serves all programs alike, else one for each: as sweep hands rows to the layers.
            keys, values = (state.repeat_interleave(len(self.ids), 0) for state in states)
            cache.update(keys, values, layer)
        return model(input_ids=self.ids, past_key_values=cache, use_cache=True)


def _each_batch(
    model: Any,
    reading: models.Reader,
    rows: Sequence[list[int]],
    pad: int,
    budget: int,
    programs: Programs,
    read: Callable[[_Run], None],
    prefix: Sequence[int] = (),
) -> None:
    """Let ``read`` run the model on all rows under all programs, steered for it, ``budget`` tokens at a time.

    ``reading`` knows whether ``model`` needs an attention mask. All rows begin with ``prefix``, whose keys and values
    are computed once for each program where the model is causal and keeps them in a form that can be handed on.
    """
    if not rows:
        return
    prefix = prefix if reading.causal else ()
    longest = max(map(len, rows)) - len(prefix)
    size = max(1, min(len(programs), _MOST_PROGRAMS, budget // max(longest, 1)))
    if any(site.time_first for site in reading.sites):  # sweep multiplies the first dimension
        size = 1
    for start in range(0, len(programs), size):
        chunk = programs[start : start + size]
        with torch.no_grad(), sweep(model, chunk):
            states = _prefix_states(model, prefix)
            cached = len(prefix) if states else 0
            for places, ids, mask in _batches(
                [row[cached:] for row in rows], pad, budget // len(chunk), reading.padding
            ):
                span = slice(start, start + len(chunk))
                seen = reading.mask(mask)
                given = None if seen is None else torch.from_numpy(seen).to(model.device)
                read(_Run(span, places, ids.to(model.device), given, cached, states))


def _prefix(rows: Sequence[_Row]) -> list[int]:
    """The tokens that all rows begin with, up to the first whose logits are read; none where they are few."""
    if len(rows) < 2:
        return []
    least, most = min(row.ids for row in rows), max(row.ids for row in rows)
    end = next((place for place, pair in enumerate(zip(least, most, strict=False)) if pair[0] != pair[1]), len(least))
    end = min(end, *(row.first for row in rows))
    return least[:end] if end >= _LEAST_PREFIX else []


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


def _batches(
    rows: Sequence[Sequence[int]], pad: int, budget: int, padding: bool
) -> Iterator[tuple[Integers, Tensor, Integers]]:
    """Rows as batches of similar length: (their positions [B], int64 ids [B, T] padded on the right, int64 mask [B, T]
    that is 0 there), B T within the budget but for a row that is longer by itself."""
    order = np.argsort([-len(row) for row in rows], kind="stable")
    for batch, width in cut([len(rows[place]) for place in order], budget, padding):
        places = order[batch]
        ids = np.full((len(places), width), pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for line, place in enumerate(places):
            ids[line, : len(rows[place])] = rows[place]
            mask[line, : len(rows[place])] = 1
        yield places, torch.from_numpy(ids), mask


def _counted(rows: Sequence[Encoded], width: int) -> NDArray[np.bool_]:
    counted = np.zeros((len(rows), width), dtype=np.bool_)
    for line, one in enumerate(rows):
        counted[line, : len(one.counted)] = one.counted
    return counted


def _pad(tokenizer: Any) -> int:
    # What stands at the padding is never seen; it must only be a token.
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)


def _batch_tokens(model: Any) -> int:
    return _CPU_BATCH_TOKENS if model.device.type == "cpu" else _BATCH_TOKENS
