"""The evaluator ``label_likelihood``: the label that a model finds likeliest after a prompt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor, nn

from affectron import models
from affectron._internal.checks import OneOf, check
from affectron._internal.names import CALIBRATIONS, CONTENT_FREE, LABEL_LIKELIHOOD, TRAIN
from affectron._internal.warning import warn
from affectron.corpus import Sentence
from affectron.corpus.encoding import length_limit, overlaps, split_template, template_frame, tokenise
from affectron.corpus.special_tokens import Frame, starts_with_bos
from affectron.errors import InputError, Note
from affectron.evaluation.batched import AS_IT_IS, BatchedModel, Integers, ProgramBatch, Programs, output_layer
from affectron.evaluation.labels import best_label, label_matrix
from affectron.evaluation.metrics import Question, log_probability
from affectron.ops.float64 import in_float64
from affectron.options import Ask

# Fewest tokens with which all prompts begin for their keys and values to be computed once and handed to every batch.
_LEAST_PREFIX = 16
# Texts without content, after Zhao et al. 2021.
_CONTENT_FREE = [Sentence(text, (), None, f"{text!r} (content-free)") for text in ("N/A", "[MASK]", "")]
# Most sentences of a task that labels are calibrated on: the mean of so many is known to a sixteenth of the spread of
# one. They are drawn at random, as evenly spaced ones may all have one label where the labels take turns.
_CALIBRATED = 256


class LabelLikelihood:
    """The label that the model finds likeliest after a prompt; for models that can be prompted.

    A label's score is the mean log-likelihood of its tokens, less the label's offset if it is calibrated. The label
    follows the prompt after one space, or at once where the prompt ends in white space. Prompt and label are tokenised
    together; where that changes the prompt's last tokens, all labels of the sentence are scored from the last token on
    which they agree.

    A prompt too long for the model loses the end of the text, the same for all labels, and never what follows the
    text. Only the logits that are needed are computed, and labels of one token share one forward.

    A model may prefer some labels whatever the text says. A label's offset is its mean log-likelihood over three texts
    without content (contextual calibration, Zhao et al. 2021), or over at most 256 sentences of the train split (cf.
    domain-context calibration, Fei et al. 2023, and Holtzman et al. 2021). It is measured on the unsteered model and
    stays the same under every program. Offsets are kept in ``options``, in nats.

    Args:
        prompts: task -> template with {text} and perhaps {bos}; tokenised as it stands, after the tokenizer's
            beginning-of-sequence token, if it has one. A task without a template is asked in words
            (:func:`default_prompt`).
        calibrate: ``none``, or the texts of the offsets: ``content_free`` or ``train``, which needs :meth:`fit`.

    Raises:
        InputError: a template without {text}, an unknown calibration; from :meth:`classifier` a model that is no causal
            language model, a template that the tokenizer cannot serve, a prompt without room for the text, or labels
            that have not been calibrated.
    """

    name = LABEL_LIKELIHOOD
    metric = staticmethod(log_probability)

    def __init__(self, prompts: Mapping[str, str] | None = None, calibrate: str = Ask.calibrate) -> None:
        check("calibrate", calibrate, OneOf(CALIBRATIONS))
        self.prompts, self.calibrate = dict(prompts or {}), calibrate
        for template in self.prompts.values():
            split_template(template)
        self.trains = calibrate == TRAIN
        self.options: dict[str, Any] = {"prompts": {}}
        if calibrate != Ask.calibrate:
            self.options |= {"calibrate": calibrate, "offsets": {}}

    def fit(
        self,
        model: Any,
        tokenizer: Any,
        train: Sequence[Sentence],
        dev: Sequence[Sentence],
        task: str,
        labels: Sequence[str],
    ) -> None:
        """Measure the offset of each label over ``train``, or 256 sentences of it.

        Raises:
            InputError: the score of a label is not finite.
        """
        drawn = np.sort(np.random.default_rng(0).permutation(len(train))[:_CALIBRATED])
        self._measure(model, self._prompt(model, tokenizer, task, labels), task, [train[place] for place in drawn])

    def classifier(
        self, model: Any, tokenizer: Any, sentences: Sequence[Sentence], task: str, labels: Sequence[str]
    ) -> LikelihoodClassifier:
        """Tokenise the prompts of all sentences with all labels."""
        prompt = self._prompt(model, tokenizer, task, labels)
        return LikelihoodClassifier(model, prompt.head, prompt.rows(sentences), self._offsets(model, prompt, task))

    def differentiable(self, model: Any, tokenizer: Any, task: str, labels: Sequence[str]) -> LikelihoodMetric:
        """The metric of a task: log P of a sentence's label among all labels."""
        prompt = self._prompt(model, tokenizer, task, labels)
        return LikelihoodMetric(model, prompt, self._offsets(model, prompt, task))

    def _offsets(self, model: Any, prompt: _Prompt, task: str) -> NDArray[np.float64]:
        """The offset of each label of a task, float64 [L]; 0 without calibration."""
        if self.calibrate == Ask.calibrate:
            return np.zeros(len(prompt.labels))
        if self.calibrate == CONTENT_FREE:
            self._measure(model, prompt, task, _CONTENT_FREE)
        offsets = self.options["offsets"].get(task, {})
        if tuple(offsets) != prompt.labels:
            raise InputError(f"task {task!r}: its labels have not been calibrated")
        return np.array(list(offsets.values()))

    def _measure(self, model: Any, prompt: _Prompt, task: str, sentences: Sequence[Sentence]) -> None:
        plain = LikelihoodClassifier(model, prompt.head, prompt.rows(sentences), np.zeros(len(prompt.labels)))
        means = plain.scores(np.arange(len(sentences)))[0].mean(axis=0)
        offsets = dict(zip(prompt.labels, means.tolist(), strict=True))
        for label, offset in offsets.items():
            if not math.isfinite(offset):
                raise InputError(f"task {task!r}: the mean score of label {label!r} is {offset}, expected a finite one")
        self.options["offsets"][task] = offsets

    def _prompt(self, model: Any, tokenizer: Any, task: str, labels: Sequence[str]) -> _Prompt:
        if task in self.prompts:
            template = self.prompts[task]
            frame = template_frame(tokenizer, template)
        else:
            template = default_prompt(tokenizer, task, labels)
            frame = Frame()
            if self.prompts:
                warn(f"task {task!r} has no prompt of its own: it is asked {template!r}", Note)
        self.options["prompts"][task] = template
        head = output_layer(model)
        limit = length_limit(tokenizer, models.max_length(model))
        return _Prompt(tokenizer, head, template, frame, tuple(labels), limit)


def label_probabilities(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    task: str,
    labels: Sequence[str],
    prompts: Mapping[str, str] | None = None,
) -> NDArray[np.float64]:
    """P of each of L labels after each of n texts, among these labels: the softmax of their scores.

    Args:
        model, tokenizer: a causal language model.
        texts: n texts, such as those that were generated.
        task, labels: the question.
        prompts: as for :class:`LabelLikelihood`.

    Returns:
        float64 [n, L]; each row sums to 1.

    Raises:
        InputError: fewer than two labels, or as :class:`LabelLikelihood`.
    """
    if len(labels) < 2:
        raise InputError(f"task {task!r} has the labels {', '.join(labels)}, expected two or more")
    sentences = [Sentence(text, (), None, str(number)) for number, text in enumerate(texts)]
    classifier = LabelLikelihood(prompts).classifier(model, tokenizer, sentences, task, labels)
    with models.evaluating(model):
        scores = classifier.scores(np.arange(len(sentences)))[0]
    return np.asarray(special.softmax(scores, axis=-1))


def default_prompt(tokenizer: Any, task: str, labels: Sequence[str]) -> str:
    """The prompt of a task that has none of its own: a question in words, in the tokenizer's chat template if it has
    one that keeps the question.

    The answer in a chat is begun for the model, so that a label follows words: SmolLM2-135M-Instruct names 0.41 of the
    emotions then, and 0.23 where the label begins the answer (scores less their means, 6 labels).
    """
    choice = labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} or {labels[-1]}"
    if getattr(tokenizer, "chat_template", None):
        question = f"Which {task} does this text have: {choice}? Answer with one of these only.\n\n{{text}}"
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        if isinstance(prompt, str) and prompt.count("{text}") == 1:
            return f"{prompt}The {task} of this text is"
    return f"{'{bos}' if starts_with_bos(tokenizer) else ''}Text: {{text}}\nThe {task} of this text ({choice}) is:"


@dataclass(frozen=True)
class _Prompt:
    """The prompt of a task: its template and special tokens, the labels, and the most tokens of a row."""

    tokenizer: Any
    head: nn.Module
    template: str
    frame: Frame
    labels: tuple[str, ...]
    limit: int | None

    def rows(self, sentences: Sequence[Sentence]) -> list[list[_Row]]:
        return _label_rows(self.tokenizer, sentences, self.template, self.frame, self.labels, self.limit)


@dataclass(frozen=True, slots=True)
class _Row:
    """Input tokens for a sentence and one or more labels.

    The logits from position ``first`` on are those of a label's first token and of the tokens after it. ``answers``
    holds (position of the label, its tokens). ``text`` tells which tokens are the sentence's own, ``truncated`` whether
    some were cut off.
    """

    ids: list[int]
    first: int
    answers: tuple[tuple[int, tuple[int, ...]], ...]
    text: list[bool]
    truncated: bool


class LikelihoodClassifier:
    """Labels by likelihood, and the likelihoods themselves; made by :meth:`LabelLikelihood.classifier`.

    ``rows`` holds the inputs of each sentence, ``offsets`` [L] what is subtracted from each label's score.
    """

    def __init__(self, model: Any, head: nn.Module, rows: list[list[_Row]], offsets: NDArray[np.float64]) -> None:
        self._model, self._head, self._rows, self._offsets = model, head, rows, offsets
        self._prefix = _prefix([row for of_sentence in rows for row in of_sentence])
        self._batched = BatchedModel(model)

    def __call__(self, rows: Integers, programs: Programs = AS_IT_IS) -> Integers:
        return best_label(self.scores(rows, programs))

    def scores(self, rows: Integers, programs: Programs = AS_IT_IS) -> NDArray[np.float64]:
        """float64 [P, len(rows), L]: the mean log-likelihood of each label's tokens under each program, less the
        label's offset, in nats."""
        selected = [(place, row) for place, sentence in enumerate(rows.tolist()) for row in self._rows[sentence]]
        scores = np.zeros((len(programs), len(rows), len(self._offsets)))

        def read(batch: ProgramBatch) -> None:
            inputs = [selected[row] for row in batch.rows]
            parts, line, label = _answer_parts(self._model, self._head, batch, [row for _, row in inputs])
            sentence = np.array([place for place, _ in inputs])[line]
            for of_program, part in zip(scores[batch.programs], parts.cpu().numpy(), strict=True):
                np.add.at(of_program, (sentence, label), part)

        ids, text = [row.ids for _, row in selected], [row.text for _, row in selected]
        self._batched.run(ids, programs, read, self._prefix, text=text)
        return scores - self._offsets


class LikelihoodMetric:
    """Log P of a sentence's label among all labels, in nats; :class:`affectron.evaluation.metrics.Metric`.

    ``offsets`` [L] are subtracted from the labels' scores.
    """

    def __init__(self, model: Any, prompt: _Prompt, offsets: NDArray[np.float64]) -> None:
        self._model, self._prompt, self._offsets = model, prompt, torch.from_numpy(offsets)

    def questions(self, sentences: Sequence[Sentence]) -> list[Question]:
        """Tokenise the prompts of sentences with all labels."""
        return [
            Question(
                sentence,
                tuple(row.ids for row in rows),
                tuple(row.text for row in rows),
                rows[0].truncated,
                rows,
            )
            for sentence, rows in zip(sentences, self._prompt.rows(sentences), strict=True)
        ]

    def __call__(self, batch: ProgramBatch, questions: Sequence[Question]) -> Tensor:
        """Log P of the label of each of n questions, float64 [n]."""
        rows = [row for question in questions for row in question.content]
        owner = np.repeat(np.arange(len(questions)), [len(question.ids) for question in questions])
        labels = self._prompt.labels
        scores = _answer_scores(self._model, self._prompt.head, batch, rows, owner, len(labels))
        truth = label_matrix([question.sentence for question in questions], labels)
        return log_probability(scores - self._offsets.to(scores.device), torch.from_numpy(truth).to(scores.device))


class AnswerRows:
    """The rows of texts with answers of their own, and the scores of the answers.

    Raises:
        InputError: as :class:`LabelLikelihood`.
    """

    def __init__(self, model: Any, tokenizer: Any, template: str) -> None:
        self._model, self._tokenizer, self._template = model, tokenizer, template
        self._head = output_layer(model)
        self._frame = template_frame(tokenizer, template)
        self._limit = length_limit(tokenizer, models.max_length(model))

    def of(self, sentence: Sentence, answers: Sequence[str]) -> list[_Row]:
        """The rows of a text with each answer after it."""
        prompt = _Prompt(self._tokenizer, self._head, self._template, self._frame, tuple(answers), self._limit)
        return prompt.rows([sentence])[0]

    def scores(self, batch: ProgramBatch, rows: Sequence[_Row], owner: Integers, answers: int) -> Tensor:
        """The mean log-likelihood of each answer's tokens, in nats, float64 [n, answers]; ``owner`` [R] is the text, 0
        to n - 1, of each row of the batch."""
        return _answer_scores(self._model, self._head, batch, rows, owner, answers)


def _answer_scores(
    model: Any, head: nn.Module, batch: ProgramBatch, rows: Sequence[_Row], owner: Integers, answers: int
) -> Tensor:
    parts, line, label = _answer_parts(model, head, batch, rows)
    places = torch.from_numpy(owner[line]).to(parts.device), torch.from_numpy(label).to(parts.device)
    return parts.new_zeros(int(owner.max()) + 1, answers).index_put(places, parts[0], accumulate=True)


def _answer_parts(
    model: Any, head: nn.Module, batch: ProgramBatch, rows: Sequence[_Row]
) -> tuple[Tensor, Integers, Integers]:
    """The log-likelihood of each token of each answer over the answer's length, float64 [P, tokens]; the row and the
    label that each belongs to."""
    longest = max(len(answer) for row in rows for _, answer in row.answers)
    first = torch.tensor([row.first - batch.cached for row in rows])
    positions = (first[:, None] + torch.arange(longest)).clamp(max=batch.ids.shape[1] - 1)
    with _head_reads_only(head, positions):
        logits = batch.forward(model).logits.float()
    likelihood = torch.log_softmax(logits.view(-1, *positions.shape, logits.shape[-1]), dim=-1)
    table = [
        (line, step, token, label, len(answer))
        for line, row in enumerate(rows)
        for label, answer in row.answers
        for step, token in enumerate(answer)
    ]
    line, step, token, label, length = np.array(table).T
    lines, steps, tokens = torch.from_numpy(np.stack([line, step, token])).to(likelihood.device)
    of_tokens = in_float64(likelihood[:, lines, steps, tokens])
    return of_tokens / torch.from_numpy(length).to(of_tokens.device), line, label


def _label_rows(
    tokenizer: Any,
    sentences: Sequence[Sentence],
    template: str,
    frame: Frame,
    labels: Sequence[str],
    limit: int | None,
) -> list[list[_Row]]:
    """The rows of each sentence: one, unless labels of several tokens begin differently."""
    before, after = split_template(template, tokenizer)
    if not tokenizer.is_fast:
        raise InputError(f"{type(tokenizer).__name__} gives no character offsets to tell prompt and label apart")
    prompts = [f"{before}{sentence.text}{after}" for sentence in sentences]
    joined = [f"{prompt}{'' if prompt[-1:].isspace() else ' '}{label}" for prompt in prompts for label in labels]
    if not joined:
        return []
    tokenised = tokenise(tokenizer, joined, offsets=True)
    rows = []
    for sentence, prompt in zip(sentences, prompts, strict=True):
        ids, offsets = zip(*(next(tokenised) for _ in labels), strict=True)
        bare = frame.bare(ids[0])
        inputs = [[*frame.before, *row[bare.start :]] for row in ids]
        places = [(0, 0)] * len(frame.before) + offsets[0][bare.start :]
        shared = _shared_tokens(inputs, places, len(prompt))
        if shared == 0:
            raise InputError(
                f"sentence {sentence.id}: no token precedes the label in prompt {template!r}; "
                "begin it with {bos} or with words"
            )
        characters = len(before), len(before) + len(sentence.text)
        in_text = [position for position in range(shared) if overlaps(places[position], [characters])]
        excess = 0 if limit is None else max(0, max(map(len, inputs)) - 1 - limit)
        if excess and excess >= len(in_text):
            raise InputError(
                f"sentence {sentence.id}: prompt {template!r} with its label leaves no room for the text in the "
                f"model's {limit} positions"
            )
        own, dropped = set(in_text), set(in_text[len(in_text) - excess :])
        kept = [position for position in range(shared) if position not in dropped]
        context, is_text = [inputs[0][position] for position in kept], [position in own for position in kept]
        rows.append(_grouped(context, is_text, [tuple(row[shared:]) for row in inputs], excess > 0))
    return rows


def _shared_tokens(inputs: Sequence[Sequence[int]], offsets: Sequence[tuple[int, int]], prompt: int) -> int:
    """The number of first tokens that are the same before every label and lie in the prompt's ``prompt`` characters.

    ``offsets`` are those of the first of ``inputs``: where the ids agree, so do the characters.
    """
    most = min(len(row) - 1 for row in inputs)
    for position in range(most):
        if offsets[position][1] > prompt or any(row[position] != inputs[0][position] for row in inputs):
            return position
    return most


def _grouped(context: list[int], text: list[bool], answers: Sequence[tuple[int, ...]], truncated: bool) -> list[_Row]:
    """The fewest rows that serve all answers after a context, of which ``text`` tells the sentence's own tokens."""
    # An answer of k tokens needs its first k - 1 in the input; a longer input with the same beginning does as well.
    inputs = sorted({answer[:-1] for answer in answers}, key=len, reverse=True)
    kept: list[tuple[int, ...]] = []
    for ids in inputs:
        if not any(longer[: len(ids)] == ids for longer in kept):
            kept.append(ids)
    served: list[list[tuple[int, tuple[int, ...]]]] = [[] for _ in kept]
    for label, answer in enumerate(answers):
        row = next(row for row, ids in enumerate(kept) if ids[: len(answer) - 1] == answer[:-1])
        served[row].append((label, answer))
    return [
        _Row([*context, *ids], len(context) - 1, tuple(group), [*text, *(False for _ in ids)], truncated)
        for ids, group in zip(kept, served, strict=True)
    ]


def _prefix(rows: Sequence[_Row]) -> list[int]:
    """The tokens with which all rows begin, up to the first whose logits are read or that is not the text's own in all
    rows alike; none if they are few."""
    if len(rows) < 2:
        return []
    told = [list(zip(row.ids, row.text, strict=True)) for row in rows]
    least, most = min(told), max(told)
    pairs = enumerate(zip(least, most, strict=False))
    stop = next((position for position, (first, last) in pairs if first != last), len(least))
    stop = min(stop, *(row.first for row in rows))
    return rows[0].ids[:stop] if stop >= _LEAST_PREFIX else []


@contextmanager
def _head_reads_only(head: nn.Module, positions: Tensor) -> Iterator[None]:
    """Give the model's output layer the hidden states of each program's B rows at ``positions`` [B, K] only.

    It happens inside the model's own forward, so that whatever the model does to its logits (scaling, soft caps) is
    done to these.
    """

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
