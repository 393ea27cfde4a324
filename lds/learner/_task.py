"""Node classification as an inner and an outer objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lds.data import MASKS, num_classes, validate
from lds.graph import SampledGraph, SparseMatrix
from lds.hypergrad._noise import cuda_devices

if TYPE_CHECKING:
    from torch_geometric.data import Data

ModelFactory: TypeAlias = Callable[[int, int], nn.Module]
Params: TypeAlias = dict[str, Tensor]

# Features with fewer non-zeros than this are multiplied as a sparse matrix.
_SPARSE = 0.25


class Task:
    """A model on one data set: its logits, its inner loss on the training nodes, its loss and accuracy on any split.

    Args:
        data: features, labels and masks, see `lds.data.validate`.
        model: factory, (number of features, number of classes) -> module called with (x, graph).
        weight_decay: coefficient λ of the penalty λ/2 ‖W‖² on the first parameter of the model.

    Raises:
        DataError: the data is inconsistent.
    """

    def __init__(self, data: Data, model: ModelFactory, weight_decay: float) -> None:
        validate(data)
        self.num_nodes: int = data.num_nodes
        self.device: torch.device = data.x.device
        self.cuda = cuda_devices([data.x])
        self.dtype: torch.dtype = data.x.dtype
        self.y: Tensor = data.y.long()
        self.nodes: dict[str, Tensor] = {name.removesuffix("_mask"): data[name].nonzero().flatten() for name in MASKS}
        self.module = model(data.x.shape[1], num_classes(data)).to(self.device, self.dtype)
        self.x = _features(data.x, sparse=getattr(self.module, "accepts_sparse", False))
        self._weight_decay = weight_decay
        self._penalised = next(name for name, _ in self.module.named_parameters())

    def initial_params(self) -> Params:
        """Return fresh weights, drawn with torch's default generator."""
        for module in self.module.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        return {name: value.detach().clone() for name, value in self.module.named_parameters()}

    def inner_loss(self, params: Params, graph: SampledGraph) -> Tensor:
        """Return the training loss: cross-entropy, with dropout, plus the penalty."""
        self.module.train()
        penalty = 0.5 * self._weight_decay * params[self._penalised].square().sum()
        return self.loss(self.logits(params, graph), "train") + penalty

    def outer_loss(self, params: Params, graph: SampledGraph, split: str = "val") -> Tensor:
        """Return the cross-entropy on a split, without dropout or penalty."""
        self.module.eval()
        return self.loss(self.logits(params, graph), split)

    def mean_logits(self, params: Params, draw: Callable[[], SampledGraph], samples: int) -> Tensor:
        """Return the logits averaged over `samples` graphs, without dropout, shape [N, C]."""
        self.module.eval()
        with torch.no_grad():
            total = self.logits(params, draw())
            for _ in range(samples - 1):
                total += self.logits(params, draw())
        return total / samples

    def logits(self, params: Params, graph: SampledGraph) -> Tensor:
        """Return the logits of the model at these weights, shape [N, C]."""
        result: Tensor = functional_call(self.module, params, (self.x, graph))
        return result

    def loss(self, logits: Tensor, split: str) -> Tensor:
        """Return the cross-entropy on a split."""
        nodes = self.nodes[split]
        return nn.functional.cross_entropy(logits[nodes], self.y[nodes])

    def accuracy(self, logits: Tensor, split: str) -> float:
        """Return the share of a split's nodes that are classified correctly."""
        nodes = self.nodes[split]
        return float((logits[nodes].argmax(1) == self.y[nodes]).double().mean())


def _features(x: Tensor, *, sparse: bool) -> Any:
    if x.layout != torch.strided:
        return SparseMatrix(x.to_sparse_csr()) if sparse else x.to_dense()
    return SparseMatrix.from_dense(x) if sparse and x.count_nonzero() < _SPARSE * x.numel() else x
