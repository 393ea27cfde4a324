"""Node classification as an inner and an outer objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from lds._memory import ROOM, too_large
from lds._random import INIT, cuda_devices, forked, reseed
from lds.data.splits import MASKS
from lds.errors import InputError, NumericalError
from lds.graph import CandidateGraph, CandidatePairs, SampledGraph, SparseMatrix, Structure

if TYPE_CHECKING:
    from torch_geometric.data import Data

ModelFactory: TypeAlias = Callable[[int, int], nn.Module]
Params: TypeAlias = dict[str, Tensor]
# Whose labels train the weights.
TrainOn: TypeAlias = Literal["train", "train+val"]
# Which parameters the penalty is on.
Decay: TypeAlias = Literal["first", "all"]

# Features with fewer non-zeros than this are multiplied as a sparse matrix.
_SPARSE = 0.25


class Task:
    """A model on one data set: its logits, its inner loss on the training nodes, its loss and accuracy on any split.

    Args:
        data: features, labels and masks, as `lds.data.prepare` or `ready` returns them.
        model: factory, (number of features, number of classes) -> module called with (x, graph).
        weight_decay: coefficient λ of the penalty λ/2 ‖W‖².
        decay: "first", the penalty on the first weight matrix of the model, or "all", on all of its parameters.

    Raises:
        InputError: the model is no such factory.
    """

    def __init__(self, data: Data, model: ModelFactory, weight_decay: float, decay: Decay = "first") -> None:
        self.num_nodes: int = data.num_nodes
        self.device: torch.device = data.x.device
        self.cuda = cuda_devices([data.x])
        self.dtype: torch.dtype = data.x.dtype
        self.y: Tensor = data.y.long()
        self.nodes: dict[str, Tensor] = {name.removesuffix("_mask"): data[name].nonzero().flatten() for name in MASKS}
        if isinstance(model, nn.Module) or not callable(model):
            raise InputError(
                "model must be a factory, (number of features, number of classes) -> module, since every epoch starts "
                f"from new weights, but {type(model).__name__} came; give its class, or a function that makes it"
            )
        self.num_classes: int = data.num_classes
        # The integers that the classes had in the data, where these were others than 0 … C−1.
        self.class_values: Tensor | None = data.get("class_values")
        self.class_names: list[str] | None = data.get("class_names")
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
        self.x = _features(data.x, sparse=getattr(self.module, "accepts_sparse", False))
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

    def train_nodes(self, train_on: TrainOn) -> Tensor:
        """Return the nodes whose labels train the weights."""
        return torch.cat([self.nodes[part] for part in train_on.split("+")])

    def folds(self, seed: int) -> dict[str, Tensor]:
        """Return training and validation nodes shared out anew: as many of each class for each purpose as before."""
        train, val = [], []
        generator = torch.Generator().manual_seed(seed)
        union = torch.cat([self.nodes["train"], self.nodes["val"]])
        for label in sorted(set(self.y[union].tolist())):
            nodes = union[self.y[union] == label]
            nodes = nodes[torch.randperm(nodes.numel(), generator=generator).to(nodes.device)]
            count = int((self.y[self.nodes["train"]] == label).sum())
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
        first, *others = (params[name].flatten() for name in self._penalised)
        logits = self.logits(params, graph)
        self._check_buffers()
        squares = first.dot(first)
        for weight in others:
            squares = squares + weight.dot(weight)
        return self.loss(logits, "train") + 0.5 * self._weight_decay * squares

    def outer_loss(self, params: Params, graph: SampledGraph) -> Tensor:
        """Return the validation loss: cross-entropy, without dropout or penalty."""
        self.module.eval()
        return self.loss(self.logits(params, graph), "val")

    def mean_logits(self, params: Params, draw: Callable[[], SampledGraph], samples: int) -> Tensor:
        """Return the logits averaged over `samples` graphs, without dropout, shape [N, C]."""
        self.module.eval()
        with torch.no_grad():
            total = self.logits(params, draw())
            for _ in range(samples - 1):
                total += self.logits(params, draw())
        return total / samples

    def logits(self, params: Params, graph: SampledGraph) -> Tensor:
        """Return the logits of the model at these weights, shape [N, C].

        Raises:
            InputError: the model returns something else.
        """
        result: Tensor = functional_call(self.module, params, (self.x, graph))
        shape = (self.num_nodes, self.num_classes)
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
            graph, params = structure.draw(), self.initial_params()
            if bool(graph.drawn.all()):
                return
            logits = self.logits(params, graph)
            there = self.logits(params, CandidateGraph(graph.num_nodes, graph.row, graph.col, graph.weight))
        off = float((logits - there).abs().max())
        # Sums in another order differ in their last digits.
        if not off <= 1e-3 * max(float(there.abs().max()), 1e-3):
            raise InputError(
                "model must take an edge of weight 0 for no edge, since candidates that were not drawn have this "
                f"weight, but logits change by {off:.2g} of {float(there.abs().max()):.2g} where these edges are "
                "taken out, as with a mean over neighbours or an attention over edge attributes; take "
                "lds.nn.SAGE, layers of lds.nn.gat.WeightedGATConv, or a model that multiplies every message by "
                "its weight"
            )

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
        nodes = self.nodes[split]
        return nn.functional.cross_entropy(logits[nodes], self.y[nodes])

    def accuracy(self, logits: Tensor, split: str) -> float:
        """Return the share of a split's nodes that are classified correctly."""
        nodes = self.nodes[split]
        return float((logits[nodes].argmax(1) == self.y[nodes]).double().mean())

    def early_stopping(self, logits: Tensor) -> tuple[float, float]:
        """Return the accuracy and the cross-entropy on the early-stopping nodes.

        Raises:
            NumericalError: the cross-entropy is not finite.
        """
        accuracy, loss = self.accuracy(logits, "es"), self.loss(logits, "es").item()
        if not math.isfinite(loss):
            raise NumericalError(
                f"the loss on the early-stopping nodes must be finite, but is {loss}; lower the inner learning rate, "
                "or look at the features"
            )
        return accuracy, loss


def _features(x: Tensor, *, sparse: bool) -> Any:
    if x.layout != torch.strided:
        return SparseMatrix(x.to_sparse_csr()) if sparse else x.to_dense()
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
