"""Node classification as an inner and an outer objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakTensorKeyDictionary

from lds._memory import ROOM, too_large
from lds._random import INIT, cuda_devices, forked, reseed
from lds.data.mapped import is_mapped, mapped_rows
from lds.errors import InputError, NumericalError
from lds.graph import CandidateGraph, CandidatePairs, SampledGraph, SparseMatrix, Structure
from lds.learner._known import Known
from lds.nn import GCN, GCNLoss
from lds.nn._gcn_loss import has_formula

if TYPE_CHECKING:
    from torch_geometric.data import Data

    from lds.distributed import ShardedFeatures

ModelFactory: TypeAlias = Callable[[int, int], nn.Module]
Params: TypeAlias = dict[str, Tensor]
# A term of the outer objective, made for one data set.
OuterTerm: TypeAlias = "Callable[[Data], Callable[[SampledGraph], Tensor]]"
# Whose labels train the weights.
TrainOn: TypeAlias = Literal["train", "train+val"]
# Which parameters the penalty is on.
Decay: TypeAlias = Literal["first", "all"]

# What a model says of itself, and what may make it another.
_ASKED = ("hops", "forward")
# Nodes whose logits are predicted at once, where the model says its hops: the memory of a prediction is bounded.
BLOCK = 1 << 21
# Features with fewer non-zeros than this are multiplied as a sparse matrix.
_SPARSE = 0.25


class Task:
    """A model on one data set: its logits, its inner loss on the training nodes, its loss and accuracy on any split.

    Args:
        data: features, labels and masks, as `lds.data.prepare` or `ready` returns them.
        model: factory, (number of features, number of classes) -> module called with (x, graph).
        weight_decay: coefficient λ of the penalty λ/2 ‖W‖².
        decay: "first", the penalty on the first weight matrix of the model, or "all", on all of its parameters.
        shard: what keeps this process's rows of the features, where several work on one training.
        outer_term: what makes the term that is added to the validation loss.

    Raises:
        InputError: the model is no such factory.
    """

    def __init__(
        self,
        data: Data,
        model: ModelFactory,
        weight_decay: float,
        decay: Decay = "first",
        *,
        shard: Callable[[Any], ShardedFeatures] | None = None,
        outer_term: OuterTerm | None = None,
    ) -> None:
        self.num_nodes: int = data.num_nodes
        self.device: torch.device = data.x.device
        self.cuda = cuda_devices()
        self.dtype: torch.dtype = data.x.dtype
        self.known = Known.of(data)
        self.nodes = self.known.nodes
        self._outer_term = None if outer_term is None else _term(outer_term, data)
        self._labels = self.known.y  # Of the training nodes.
        if isinstance(model, nn.Module) or not callable(model):
            raise InputError(
                "model must be a factory, (number of features, number of classes) -> module, since every epoch starts "
                f"from new weights, but {type(model).__name__} came; give its class, or a function that makes it"
            )
        self.num_classes = self.known.num_classes
        logits = self.num_nodes * self.num_classes * self.dtype.itemsize
        if logits > ROOM:
            raise too_large(
                f"logits of {self.num_nodes} nodes and {self.num_classes} classes",
                logits,
                "give labels of fewer classes",
            )
        self._model = partial(model, data.x.shape[1], self.num_classes)
        with forked(self.cuda):  # Neither draws the caller's random numbers nor has buffers that depend on them.
            reseed(INIT, cuda=self.cuda)
            self.module = self._new_module()
        self._buffers = {name: (buffer, buffer._version) for name, buffer in self.module.named_buffers()}
        self._products_only = getattr(self.module, "accepts_sparse", False)
        self.x = _features(data.x, sparse=self._products_only)
        # Of the product of the features with the first weights, about.
        numbers = self.x.csr.values().numel() if isinstance(self.x, SparseMatrix) else self.x.numel()
        self.multiplications = numbers * sum(w.numel() for w in self.module.parameters()) // data.x.shape[1]
        if shard is not None:
            self.x = shard(self.x)
        # Rows of sparse features by the active nodes they are of: a step of the sweep needs those of the step again.
        self._rows: Any = WeakTensorKeyDictionary()
        self.hops = _hops(self.module)
        self._weight_decay = weight_decay
        named = dict(self.module.named_parameters())
        first = next((name for name, value in named.items() if value.ndim > 1), next(iter(named)))
        self._penalised = [first] if decay == "first" else list(named)

    @contextmanager
    def nodes_as(self, **nodes: Tensor) -> Iterator[None]:
        """Have splits be other nodes for a while."""
        before = dict(self.nodes)
        self.nodes.update(nodes)
        try:
            yield
        finally:
            self.nodes.clear()
            self.nodes.update(before)

    @contextmanager
    def labels_as(self, labels: Tensor) -> Iterator[None]:
        """Have training nodes be of other classes for a while; int64 of shape [N]."""
        self._labels, before = labels, self._labels
        try:
            yield
        finally:
            self._labels = before

    def train_nodes(self, train_on: TrainOn) -> Tensor:
        """Return the nodes whose labels train the weights."""
        return torch.cat([self.nodes[part] for part in train_on.split("+")])

    def folds(self, seed: int) -> dict[str, Tensor]:
        """Return training and validation nodes shared out anew: as many of each class for each purpose as before."""
        train, val = [], []
        generator = torch.Generator().manual_seed(seed)
        union = torch.cat([self.nodes["train"], self.nodes["val"]])
        for label in sorted(set(self.known.y[union].tolist())):
            nodes = union[self.known.y[union] == label]
            nodes = nodes[torch.randperm(nodes.numel(), generator=generator).to(nodes.device)]
            count = int((self.known.y[self.nodes["train"]] == label).sum())
            train.append(nodes[:count])
            val.append(nodes[count:])
        return {"train": torch.cat(train).sort().values, "val": torch.cat(val).sort().values}

    def _new_module(self) -> nn.Module:
        module = self._model()
        if not isinstance(module, nn.Module) or next(module.parameters(), None) is None:
            raise InputError(f"model must make a torch.nn.Module with parameters, got {type(module).__name__}")
        if lazy := [name for name, value in module.named_parameters() if is_lazy(value)]:
            raise InputError(
                f"model must know its sizes when it is made, but {lazy[0]} waits for the first input; give the "
                "number of features that the factory is called with in place of -1"
            )
        return module.to(self.device, self.dtype)

    def initial_params(self) -> Params:
        """Return the weights of a new module, drawn with torch's default generator."""
        return {name: value.detach().clone() for name, value in self._new_module().named_parameters()}

    def inner_loss(self, params: Params, graph: SampledGraph) -> Tensor:
        """Return the training loss: cross-entropy, with dropout, plus the penalty.

        Raises:
            InputError: the model is no function of weights and graph, for it changes a buffer.
        """
        self.module.train()
        if (loss := self._by_formula(params, graph, "train")) is not None:
            return loss
        first, *others = (params[name].flatten() for name in self._penalised)
        logits = self.logits_at(params, graph, self.nodes["train"])
        self._check_buffers()
        squares = first.dot(first)
        for weight in others:
            squares = squares + weight.dot(weight)
        return self._entropy(logits, "train") + 0.5 * self._weight_decay * squares

    def inner_value_and_grad(self, params: Params, graph: SampledGraph) -> tuple[Tensor, Params] | None:
        """Return `inner_loss` and its gradient where `GCNLoss` has a formula for both; see `KnowsGradient`."""
        self.module.train()
        formula = self._formula(params, graph, "train")
        if formula is None:
            return None
        loss, part, dropout = formula
        value, grads = loss.value_and_grad(list(params.values()), part, dropout)
        return value, dict(zip(params, grads, strict=True))

    def outer_loss(self, params: Params, graph: SampledGraph) -> Tensor:
        """Return the validation loss: cross-entropy, without dropout or penalty, and a further term if given."""
        self.module.eval()
        if (loss := self._by_formula(params, graph, "val")) is None:
            loss = self._entropy(self.logits_at(params, graph, self.nodes["val"]), "val")
        return loss if self._outer_term is None else loss + self._outer_term(graph)

    def _by_formula(self, params: Params, graph: SampledGraph, split: str) -> Tensor | None:
        """Return the inner loss ("train") or the outer loss ("val") by `GCNLoss`, None where that has no formula."""
        formula = self._formula(params, graph, split)
        if formula is None:
            return None
        loss, part, dropout = formula
        return loss(list(params.values()), part, dropout)

    def _formula(self, params: Params, graph: SampledGraph, split: str) -> tuple[GCNLoss, SampledGraph, float] | None:
        """Return the inner loss ("train") or the outer loss ("val"), the part of the graph it sees, and its dropout."""
        module, weights = self.module, list(params.values())
        if not isinstance(module, GCN) or len(self._penalised) > 1:
            return None
        part, rows = self._around(graph, self.nodes[split])
        x = self._features_of(part)
        if not has_formula(module, weights, x, part):
            return None
        decay = self._weight_decay if split == "train" else 0.0
        loss = GCNLoss(x, rows, self._targets(split), self.num_classes, decay)
        return loss, part, module.dropout if module.training else 0.0

    def mean_logits(
        self, params: Params, draw: Callable[[], SampledGraph], samples: int, nodes: Tensor | None = None
    ) -> Tensor:
        """Return the logits averaged over `samples` graphs, without dropout, shape [N, C].

        Where `nodes` are given, only theirs: all others are NaN.
        """
        self.module.eval()

        def logits() -> Tensor:
            graph = draw()
            return self._in_blocks(params, graph) if nodes is None else self.logits_at(params, graph, nodes)

        with torch.no_grad():
            total = logits()
            for _ in range(samples - 1):
                total += logits()
            total /= samples
            return (
                total
                if nodes is None
                else total.new_full((self.num_nodes, self.num_classes), math.nan).index_copy_(0, nodes, total)
            )

    def logits_at(self, params: Params, graph: SampledGraph, nodes: Tensor) -> Tensor:
        """Return the logits of some nodes, shape [M, C], from the part of the graph that decides them.

        Raises:
            InputError: the model returns something else.
        """
        part, rows = self._around(graph, nodes)
        return self.logits(params, part)[rows]

    def _around(self, graph: SampledGraph, nodes: Tensor) -> tuple[SampledGraph, Tensor]:
        """Return the part of a graph that decides the logits of some nodes, and their rows in it."""
        if self.hops is None or not isinstance(graph, CandidateGraph):
            return graph, nodes
        part = graph.around(nodes, self.hops, gradient=torch.is_grad_enabled())
        return part, part.rows_of(nodes)

    def _in_blocks(self, params: Params, graph: SampledGraph) -> Tensor:
        """Return the logits of all nodes, shape [N, C]."""
        if self.hops is None or self.num_nodes <= BLOCK or not isinstance(graph, CandidateGraph):
            return self.logits(params, graph)
        every = torch.arange(self.num_nodes, device=self.device)
        return torch.cat([self.logits_at(params, graph, block) for block in torch.split(every, BLOCK)])

    def logits(self, params: Params, graph: SampledGraph) -> Tensor:
        """Return the logits of the model at these weights, shape [N, C], for the nodes that the graph has.

        Raises:
            InputError: the model returns something else.
        """
        result: Tensor = functional_call(self.module, params, (self._features_of(graph), graph))
        rows = graph.num_nodes if isinstance(graph, CandidateGraph) else self.num_nodes  # A draw may be of any kind.
        shape = (rows, self.num_classes)
        if getattr(result, "shape", None) != shape:
            came = f"shape {list(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
            raise InputError(
                f"model must return logits [N, C], here {list(shape)}, but {came} came; return a number for every node "
                "and class"
            )
        return result

    def check_structure(self, structure: Structure) -> None:
        """Check on a draw that the model takes a candidate that was not drawn for no edge: one comparison of logits.

        Raises:
            InputError: the model counts edges of weight 0.
        """
        if not isinstance(structure, CandidatePairs):
            return
        self.module.eval()
        with forked(self.cuda), torch.no_grad():
            reseed(INIT, cuda=self.cuda)
            graph, params, nodes = structure.draw(), self.initial_params(), self.nodes["train"]
            if self.hops is not None:
                self._check_hops(params, graph, nodes, self.hops)
                graph = graph.around(nodes, self.hops)
            if graph.all_drawn:
                return
            logits = self.logits(params, graph)
            there = self.logits(params, graph.without_candidates())
        if (off := _difference(logits, there)) is not None:
            raise InputError(
                "model must take an edge of weight 0 for no edge, since candidates that were not drawn have this "
                f"weight, but logits change by {off:.2g} of {float(there.abs().max()):.2g} where these edges are "
                "taken out, as with a mean over neighbours or an attention over edge attributes; take "
                "lds.nn.SAGE, layers of lds.nn.gat.WeightedGATConv, or a model that multiplies every message by "
                "its weight"
            )

    def _check_hops(self, params: Params, graph: CandidateGraph, nodes: Tensor, hops: int) -> None:
        """Check that logits do not depend on nodes further away than the model says: one comparison.

        Raises:
            InputError: they do.
        """
        near, far = (graph.around(nodes, count, gradient=False) for count in (hops, hops + 1))
        if near.nodes is None:  # The whole graph anyway.
            return
        logits, others = (self.logits(params, part)[part.rows_of(nodes)] for part in (near, far))
        if (off := _difference(logits, others)) is not None:
            raise InputError(
                f"the logits of a model must depend on nodes at most hops = {hops} edges away, but change by {off:.2g} "
                f"of {float(others.abs().max()):.2g} with the nodes beyond, as with a norm over all nodes or with one "
                "more layer; correct hops, or set it to None for all nodes"
            )

    def _features_of(self, graph: SampledGraph) -> Any:
        """Return the features of the nodes that a graph has."""
        nodes = graph.nodes if isinstance(graph, CandidateGraph) else None
        if nodes is None:
            return self.x if self._products_only or isinstance(self.x, Tensor) else self.x.whole()
        if isinstance(self.x, Tensor):
            return mapped_rows(self.x, nodes) if is_mapped(self.x) else self.x[nodes]
        if nodes not in self._rows:
            self._rows[nodes] = self.x.rows(nodes)
        return self._rows[nodes]

    def _check_buffers(self) -> None:
        for name, buffer in self.module.named_buffers():
            known, version = self._buffers.get(name, (None, 0))
            if buffer is not known or buffer._version != version:
                raise InputError(
                    "model must leave its buffers as they are, or a step that is run again would see other ones, but "
                    f"training changed {name}; set track_running_stats=False in a BatchNorm, or use LayerNorm"
                )

    def loss(self, logits: Tensor, split: str) -> Tensor:
        """Return the cross-entropy on a split."""
        return self.known.loss(logits, split)

    def _entropy(self, logits: Tensor, split: str) -> Tensor:
        """Return the cross-entropy of the logits of a split's nodes."""
        return nn.functional.cross_entropy(logits, self._targets(split))

    def _targets(self, split: str) -> Tensor:
        """Return what the nodes of a split are to be classified as."""
        return (self._labels if split == "train" else self.known.y)[self.nodes[split]]

    def accuracy(self, logits: Tensor, split: str) -> float:
        """Return the share of a split's nodes that are classified correctly."""
        return self.known.accuracy(logits, split)

    def judged(self, logits: Tensor, split: str = "es") -> tuple[float, float]:
        """Return the accuracy and the cross-entropy on a split that training is stopped by.

        Raises:
            NumericalError: the cross-entropy is not finite.
        """
        accuracy, loss = self.accuracy(logits, split), self.loss(logits, split).item()
        if not math.isfinite(loss):
            raise NumericalError(
                f"the loss on the early-stopping nodes must be finite, but is {loss}; lower the inner learning rate, "
                "or look at the features"
            )
        return accuracy, loss


@dataclass(frozen=True)
class TrainingLoss:
    """The inner objective: the inner loss on the graph among the outer variables, see `lds.updaters.KnowsGradient`."""

    task: Task
    graph: Callable[[Any], SampledGraph]

    def __call__(self, params: Params, outer: Any) -> Tensor:
        """Return the value."""
        return self.task.inner_loss(params, self.graph(outer))

    def value_and_grad(self, params: Params, outer: Any) -> tuple[Tensor, Params] | None:
        """Return value and gradient where there is a formula."""
        return self.task.inner_value_and_grad(params, self.graph(outer))


def _term(outer_term: Any, data: Data) -> Callable[[SampledGraph], Tensor]:
    found: Any = outer_term(data) if callable(outer_term) else None
    if callable(found):

        def term(graph: SampledGraph) -> Tensor:
            value = found(graph)
            if not isinstance(value, Tensor) or value.numel() != 1:
                came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise InputError(
                    f"a term of outer_term must return a scalar tensor, but {came} came; compute it from products with "
                    "the graph, and reduce it with .mean() or .sum()"
                )
            return value

        return term
    came = f"a function that returns {type(found).__name__}" if callable(outer_term) else type(outer_term).__name__
    raise InputError(
        f"outer_term must be a function of the data that returns a function of a sampled graph, but {came} came; write "
        "lambda data: lambda graph: …"
    )


def _hops(module: nn.Module) -> int | None:
    """Return the number of hops that a model says it has; None where it says none, or where a subclass is another."""
    kinds = type(module).__mro__
    said, forward = (next((i for i, kind in enumerate(kinds) if name in vars(kind)), None) for name in _ASKED)
    hops = getattr(module, "hops", None)
    if hops is None or (said is not None and forward is not None and forward < said):
        return None
    if isinstance(hops, bool) or not isinstance(hops, int) or hops < 1:
        raise InputError(f"hops of a model must be a positive integer, or None for all nodes, got {hops!r}")
    return hops


def _difference(logits: Tensor, others: Tensor) -> float | None:
    """Return by how much logits differ where it is more than rounding; None where it is not."""
    off = float((logits - others).abs().max())
    # Sums in another order differ in their last digits.
    return None if off <= 1e-3 * max(float(others.abs().max()), 1e-3) else off


def _features(x: Tensor, *, sparse: bool) -> Any:
    if x.layout != torch.strided:
        return SparseMatrix(x.to_sparse_csr()) if sparse else x.to_dense()
    if is_mapped(x):  # A sparse matrix of them would be in memory.
        return x
    return SparseMatrix.from_dense(x) if sparse and x.count_nonzero() < _SPARSE * x.numel() else x


def check_train_on(value: object) -> None:
    """Check whose labels train the weights.

    Raises:
        InputError: it is neither "train" nor "train+val".
    """
    if value not in ("train", "train+val"):
        raise InputError(f'train_on must be "train" or "train+val", got {value!r:.80}')


def check_decay(value: object) -> None:
    """Check which parameters the penalty is on.

    Raises:
        InputError: it is neither "first" nor "all".
    """
    if value not in ("first", "all"):
        raise InputError(f'decay must be "first" or "all", got {value!r:.80}')
