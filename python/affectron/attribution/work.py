"""The attribution of every neuron in every sentence of a batch, added to the statistics of each site."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from affectron import ops
from affectron._internal import overlap
from affectron.attribution.batching import QuestionBatch
from affectron.attribution.recompute import Recomputation, layers
from affectron.corpus import Corpus
from affectron.corpus.batching import Batch
from affectron.errors import InputError
from affectron.evaluation.batched import ProgramBatch
from affectron.evaluation.metrics import Metric
from affectron.models import Kernel, Reader, Routed, Site, attach, parallel
from affectron.screening.accumulate import SiteBuffers

# Gradients of a mean over many tokens vanish in float16, whose smallest number is 6e-8: m is multiplied by this.
_HALF_SCALE = 1024.0


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no weight require a gradient meanwhile; what ``torch.compile`` has compiled runs eagerly.

    The compiler (torch 2.13) fails to divide some graphs of several batch shapes into forward and backward.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)


@contextmanager
def attributing(reader: Reader, kernel: Kernel) -> Iterator[None]:
    """Compute the sites' activations by a kernel meanwhile, without gradients of weights.

    A forward raises InputError at an MLP whose output has no gradient: its neurons would seem to do nothing.
    """

    def check(module: nn.Module, _args: Any, output: Any) -> None:
        outputs = output if isinstance(output, tuple) else (output,)
        if torch.is_grad_enabled() and not any(isinstance(one, Tensor) and one.requires_grad for one in outputs):
            site = next(site.name for site in reader.sites if site.module is module)
            raise InputError(f"{type(reader.model).__name__}: torch cannot differentiate what {site} gives")

    with ExitStack() as undo:
        undo.enter_context(frozen(reader.model))
        undo.enter_context(attach(reader.sites, kernel))
        for module in dict.fromkeys(site.module for site in reader.sites):
            undo.callback(module.register_forward_hook(check).remove)
        yield


def differentiate(value: Tensor, model: Any) -> float:
    """Run the backward pass of a number of a model.

    Returns:
        the factor by which the gradients are too large.

    Raises:
        InputError: an operation in between has no gradient.
    """
    if not value.requires_grad:
        raise InputError(
            f"{type(model).__name__}: the metric does not depend on the activation of any MLP through operations that "
            "torch can differentiate"
        )
    scale = _HALF_SCALE if model.dtype is torch.float16 else 1.0
    with warnings.catch_warnings():
        # Torch would go on as if nothing depended on the operation.
        warnings.filterwarnings("error", message=".*an autograd kernel was not registered")
        try:
            value.backward(value.new_tensor(scale))
        except UserWarning as told:
            operation = str(told).partition(": an autograd")[0]
            raise InputError(f"{type(model).__name__}: torch cannot differentiate {operation}") from told
    return scale


class Start:
    """The start of the graph that autograd goes back through: the first layer with a site."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._layer = {
            position: number
            for number, layer in enumerate(layers(reader.model, reader.sites))
            for parts in [set(layer.modules())]
            for position, site in enumerate(reader.sites)
            if site.module in parts
        }

    def __call__(self, position: int, gate: Tensor, up: Tensor | None, held: Mapping[int, Tensor]) -> Tensor:
        """The gate of a site; where nothing before it needs a gradient, detached and with one. ``held`` has the
        positions of the sites that were called before.

        Raises:
            InputError: torch cannot differentiate what the site reads.
        """
        if gate.requires_grad or (up is not None and up.requires_grad):
            return gate
        first = next(iter(held), position)
        if not torch.is_grad_enabled() or self._layer.get(position) != self._layer.get(first):
            site = self._reader.sites[position].name
            raise InputError(f"{type(self._reader.model).__name__}: torch cannot differentiate what {site} reads")
        return gate.detach().requires_grad_()


class Gradients:
    """Sums over a sentence's positions of h · dm/dh and of dm/dh, at every site, from one backward pass.

    Args:
        reader: the model, and its sites.
        metric: gives m.
        gradients: sum dm/dh as well.
        recompute: compute layers again in the backward pass; None: once a forward has kept too many bytes.

    Attributes:
        products: of the last batch, position of a site -> float32 [n, F], sum of h · dm/dh. A site that no token of
            the batch reached is absent.
        slopes: the same of dm/dh; empty unless asked for.
    """

    def __init__(self, reader: Reader, metric: Metric, gradients: bool, recompute: bool | None) -> None:
        self.reader, self.metric, self.gradients = reader, metric, gradients
        self._recomputation = Recomputation(reader, recompute)
        self.products: dict[int, Tensor] = {}
        self.slopes: dict[int, Tensor] = {}
        self._start = Start(reader)
        self._rows: Tensor  # the question of each token of the batch, -1 where it is not attributed
        self._questions = 0
        self._plans: dict[torch.device, ops.SegmentPlan] = {}

    def __call__(self, batch: QuestionBatch) -> None:
        """Fill the sums of a batch of questions."""
        rows = np.where(batch.counted, batch.owner[:, None], -1).flatten()
        self._rows, self._questions = torch.from_numpy(rows), len(batch.questions)
        self._recomputation(lambda: self._differentiate(batch), batch.input_ids.size)

    def _differentiate(self, batch: QuestionBatch) -> None:
        self.products, self.slopes, self._plans = {}, {}, {}
        mask, device = self.reader.mask(batch.attention_mask), self.reader.model.device
        inputs = ProgramBatch(
            programs=slice(0, 1),
            rows=np.arange(len(batch.owner)),
            ids=torch.from_numpy(batch.input_ids).to(device),
            mask=None if mask is None else torch.from_numpy(mask).to(device),
            cached=0,
            prefix=(),
        )
        with torch.enable_grad():
            total = self.metric(inputs, batch.questions).sum()
        scale = differentiate(total, self.reader.model)
        for sums in (*self.products.values(), *self.slopes.values()):
            sums /= scale

    def kernel(self, position: int, gate: Tensor, up: Tensor | None, act: str, routed: Routed | None = None) -> Tensor:
        """:class:`affectron.models.Kernel`: compute h; the backward pass adds to the sums.

        Raises:
            InputError: torch cannot differentiate what the site reads.
        """
        plan, shape = self._plan(gate.device, routed), (self._questions, gate.shape[-1])
        gate = self._start(position, gate, up, self.products)
        products = self._sums(self.products, position, shape, gate.device)
        slopes = self._sums(self.slopes, position, shape, gate.device) if self.gradients else None
        return ops.glu_attribution(gate, up, products, plan, act, slopes)

    def _sums(self, held: dict[int, Tensor], position: int, shape: tuple[int, int], device: torch.device) -> Tensor:
        """The sums of a site; an expert that is called again, and a layer that is computed again, has them already."""
        if position not in held:
            held[position] = torch.zeros(shape, device=device)
        return held[position]

    def _plan(self, device: torch.device, routed: Routed | None) -> ops.SegmentPlan:
        """The plan of the batch on ``device``, made once for all sites there; an expert has one for its tokens."""
        if routed is not None:
            return ops.SegmentPlan(self._rows.to(device)[routed.tokens], self._questions)
        if device not in self._plans:
            self._plans[device] = ops.SegmentPlan(self._rows.to(device), self._questions)
        return self._plans[device]


def unreached(site: Site, rows: int, buffers: ops.StatsBuffers | None) -> Tensor:
    """The attributions in ``rows`` sentences at an expert that no token of them reached: 0, float32 [rows, F], where
    the expert's activations are."""
    if buffers is not None:
        return torch.zeros(rows, buffers.neurons, device=buffers.device)
    return torch.zeros(rows, site.neurons, device=next(site.module.parameters()).device)


class Attributor(SiteBuffers):
    """The statistics over sentences of each neuron's attribution (:class:`affectron.screening.shards.Work`).

    Args:
        reader, corpus: as in :class:`SiteBuffers`.
        gradients: of each batch.
        baseline: site -> float32 [F], the value that a neuron is set to; None for zero.
        keeps_gradient: the observation is the sum of dm/dh itself.
        idle_batch: a batch for processes that have none left, which adds nothing.
    """

    def __init__(
        self,
        reader: Reader,
        corpus: Corpus,
        gradients: Gradients,
        baseline: Mapping[str, NDArray[np.float32]] | None,
        keeps_gradient: bool,
        idle_batch: QuestionBatch,
    ) -> None:
        super().__init__(reader, corpus, "product")
        self.gradients, self.keeps_gradient, self.idle_batch = gradients, keeps_gradient, idle_batch
        self.baseline = baseline

    def forward(self, batch: Batch) -> None:
        """Attribute a batch and add its sentences to the statistics."""
        assert isinstance(batch, QuestionBatch)
        self.texts.append(overlap.hashed(sentence.text for sentence in batch.sentences))
        self.gradients(batch)
        rows = torch.from_numpy(batch.segments)
        plans: dict[torch.device, ops.SegmentPlan] = {}
        for position, site in enumerate(self.sites):
            observed = self._observed(position, site, len(batch.questions))
            if observed.device not in plans:
                plans[observed.device] = ops.SegmentPlan(rows.to(observed.device), self.segments)
            ops.neuron_stats(observed, plans[observed.device], self.buffers_at(position, observed))

    def _observed(self, position: int, site: Site, questions: int) -> Tensor:
        """The observation of each question at a site, float32 [n, F]; 0 where no token reached it."""
        products, slopes = self.gradients.products.get(position), self.gradients.slopes.get(position)
        if products is None:
            return unreached(site, questions, self.buffers[position])
        if self.keeps_gradient:
            assert slopes is not None
            return slopes
        if self.baseline is None:
            return products
        assert slopes is not None
        neurons = parallel.local_neurons(site, products.shape[1])
        return products - slopes * torch.from_numpy(self.baseline[site.name][neurons]).to(products.device)

    def idle(self) -> None:
        """Run a forward and a backward pass that add nothing, for other processes that need one."""
        self.gradients(self.idle_batch)
