"""The cross-entropy of a GCN as one operation of autograd: its gradient, and that gradient's derivative, by formula.

Whoever differentiates sees no difference from the network: the loss is a function of autograd whose backward is another
one, and both note their products with the graph. A third derivative goes through the plain operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss, one_hot

from lds._sparse import plain_product
from lds.graph import SampledGraph, SparseMatrix
from lds.graph._sampled import NotedProduct
from lds.nn._networks import GCN


class _Forward(NamedTuple):
    """What the forward pass leaves: the Z_l of all layers, H_1 …, the last Y, and log-probabilities of the nodes.

    H_{l+1} stands for Y_l and R_l too: R_l is κ = 1 / (1 − p) where H_{l+1} > 0, and zero elsewhere; Y_l is H_{l+1} / κ
    where R_l is not zero, and asked for nowhere else. What is kept is written once and read back from afar.
    """

    z: list[Tensor]
    h: list[Tensor]
    y: Tensor
    logp: Tensor

    def flat(self) -> list[Tensor]:
        """Return all of it in one list."""
        return [*self.z, *self.h, self.y, self.logp]

    @staticmethod
    def of(flat: Sequence[Tensor], layers: int) -> _Forward:
        """Return what `flat` made a list of."""
        return _Forward(list(flat[:layers]), list(flat[layers : 2 * layers - 1]), *flat[2 * layers - 1 :])

    def products(self, u: Sequence[Tensor], b: Sequence[Tensor], kept: float) -> list[NotedProduct]:
        """Return the products of the pass, Â Z_l, for cotangents U_l of them and Â U_l."""
        hidden = [NotedProduct(*x, 1 / kept) for x in zip(u, self.z, self.h, b, strict=False)]
        return [*hidden, NotedProduct(u[-1], self.z[-1], self.y, b[-1])]


class _Backward(NamedTuple):
    """What the backward pass leaves: the U_l and B_l of all layers."""

    u: list[Tensor]
    b: list[Tensor]


class _PulledBack(NamedTuple):
    """Derivatives in the scale, in the weights, and in B_l, U_l (of the product with it), Y_l and Z_l (likewise)."""

    scale: Tensor
    weights: list[Tensor]
    b: list[Tensor]
    u: list[Tensor]
    y: list[Tensor]
    z: list[Tensor]


@dataclass(frozen=True)
class GCNLoss:
    r"""The cross-entropy of a `GCN` at some nodes, and a penalty, as a function of weights and graph.

    .. math:: L(W) = \mathrm{CE}(Y_{L-1}) + \tfrac{\lambda}{2} \|W_0\|^2, \quad Y_l = \hat A Z_l,
        \quad Z_l = H_l W_l, \quad H_0 = X, \quad H_{l+1} = R_l \odot Y_l

    where R is the derivative of ReLU and dropout, 0 or 1 / (1 − p). With U_l the derivative in Y_l,

    .. math:: B_l = \hat A U_l, \quad \nabla_{W_l} L = H_l^\top B_l, \quad U_{l-1} = R_{l-1} \odot B_l W_l^\top

    and the derivative of all that goes the same way, forth and back again. Values, random numbers and derivatives are
    those of `GCN` and autograd, to rounding.

    As the inner objective of a `GCN` named `module`: `loss = GCNLoss(x, train, y[train], num_classes, 5e-4)` and
    `lambda params, graph: loss(list(params.values()), graph, module.dropout)`.

    Args:
        x: features, shape [N, F].
        nodes: nodes that count, int64 of shape [n].
        labels: their classes, int64 of shape [n].
        num_classes: number of classes C.
        decay: λ.

    Example:
        >>> import torch
        >>> from lds.nn import GCNLoss
        >>> x, train, y = torch.randn(5, 3), torch.tensor([0, 1]), torch.tensor([0, 1])
        >>> loss = GCNLoss(x, train, y, num_classes=2, decay=5e-4)  # loss(…) is then the inner objective of a GCN
    """

    x: Tensor | SparseMatrix
    nodes: Tensor
    labels: Tensor
    num_classes: int
    decay: float = 0.0

    def __call__(self, weights: Sequence[Tensor], graph: SampledGraph, dropout: float = 0.0) -> Tensor:
        """Return the loss; where there is dropout, draws a mask for every hidden layer, as `GCN` does.

        Args:
            weights: W_0, …, W_{L−1}.
            graph: graph of N nodes.
            dropout: probability p of dropping a hidden activation.
        """
        value, forward = self._forward([w.detach() for w in weights], graph, dropout)
        probes = graph.note(forward.z)
        call = _Call(self, graph.in_autograd(), len(weights), graph.dropout_scale(dropout) if dropout else 1.0)
        loss: Tensor = _ReLULoss.apply(call, value, forward, *weights, *probes)  # type: ignore[no-untyped-call]
        return loss

    def value_and_grad(
        self, weights: Sequence[Tensor], graph: SampledGraph, dropout: float = 0.0
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the loss and its gradient in the weights, which can be differentiated; arguments as for a call.

        What `KnowsGradient.value_and_grad` of an inner objective returns: one operation of autograd in place of two
        and a backward pass.
        """
        constants = [w.detach() for w in weights]
        value, forward = self._forward(constants, graph, dropout)
        kept = graph.dropout_scale(dropout) if dropout else 1.0
        one = value.new_ones(())
        grads, backward = self.gradient(constants, graph, forward, kept, one)
        if torch.is_grad_enabled():
            probes = graph.note([*forward.z, *backward.u])
            call = _Call(self, graph.in_autograd(), len(weights), kept)
            grads = _ReLUGradient.apply(  # type: ignore[no-untyped-call]
                call, grads, forward, backward, one, *weights, *probes
            )
        return value, list(grads)

    @cached_property
    def target(self) -> Tensor:
        """The labels as unit vectors, shape [n, C]."""
        return one_hot(self.labels, self.num_classes).to(self.x.dtype)

    @torch.no_grad()
    def _forward(self, weights: Sequence[Tensor], graph: SampledGraph, dropout: float) -> tuple[Tensor, _Forward]:
        """Return the loss and what the forward pass leaves."""
        z, h = [_times(self.x, weights[0])], []
        for weight in weights[1:]:
            h.append(plain_product(graph.normalised, z[-1]).relu_())
            if dropout:
                h[-1].mul_(graph.dropout_mask(h[-1], dropout))
            z.append(h[-1] @ weight)
        y = plain_product(graph.normalised, z[-1])
        logp = y[self.nodes].log_softmax(1)
        value = nll_loss(logp, self.labels)
        if self.decay:
            flat = weights[0].flatten()
            value = value + 0.5 * self.decay * flat.dot(flat)
        return value, _Forward(z, h, y, logp)

    def gradient(
        self, weights: Sequence[Tensor], graph: SampledGraph, forward: _Forward, kept: float, scale: Tensor
    ) -> tuple[list[Tensor], _Backward]:
        """Return the gradient in the weights times a scalar, and what the backward pass leaves, times that too."""
        u, b = [self._scattered((forward.logp.exp() - self.target) * (scale / self.labels.numel()), graph)], []
        grads = []
        for layer in reversed(range(len(weights))):
            b.append(plain_product(graph.normalised, u[-1]))
            if layer:
                grads.append(forward.h[layer - 1].T @ b[-1])
                u.append(_where_positive_(b[-1] @ (kept * weights[layer]).T, forward.h[layer - 1]))
        grads.append(_transposed_times(self.x, b[-1]))
        if self.decay:
            grads[-1].addcmul_(weights[0], scale, value=self.decay)
        return grads[::-1], _Backward(u[::-1], b[::-1])

    def _scattered(self, rows: Tensor, graph: SampledGraph) -> Tensor:
        """Return the matrix with these rows at the nodes, zeros elsewhere."""
        return rows.new_zeros(graph.num_nodes, rows.shape[1]).index_add_(0, self.nodes, rows)

    def pulled_back(
        self,
        weights: Sequence[Tensor],
        graph: SampledGraph,
        forward: _Forward,
        backward: _Backward,
        kept: float,
        scale: Tensor,
        a: Sequence[Tensor],
    ) -> _PulledBack:
        """Return the derivatives of Σ_l ⟨a_l, scale · gradient_l⟩."""
        s, nodes = graph.normalised, self.labels.numel()
        # Back through the backward pass, which began with the last layer.
        db, weight = [_times(self.x, a[0])], [torch.empty(0)]
        du = [plain_product(s, db[0])]
        for h, w, b, c in zip(forward.h, weights[1:], backward.b[1:], a[1:], strict=True):
            inside = torch.ops.aten.threshold_backward(du[-1], h, 0)  # R ⊙ dU / κ.
            weight.append((inside.T @ b).mul_(kept))
            db.append(torch.addmm(h @ c, inside, w, alpha=kept))
            du.append(plain_product(s, db[-1]))
        # Through the softmax.
        rows, probability = du[-1][self.nodes], forward.logp.exp()
        slope = (rows * (probability - self.target)).sum() / nodes
        rows = rows * probability
        rows = (rows - probability * rows.sum(1, keepdim=True)) * (scale / nodes)
        # And through the forward pass.
        dy, dz = [self._scattered(rows, graph)], []
        for layer in reversed(range(1, len(weights))):
            dz.append(plain_product(s, dy[-1]))
            weight[layer].addmm_(forward.h[layer - 1].T, dz[-1])
            inside = torch.addmm(backward.b[layer] @ a[layer].T, dz[-1], weights[layer].T, beta=kept, alpha=kept)
            dy.append(_where_positive_(inside, forward.h[layer - 1]))
        dz.append(plain_product(s, dy[-1]))
        weight[0] = _transposed_times(self.x, dz[-1])
        if self.decay:
            weight[0].addcmul_(a[0], scale, value=self.decay)
            slope = slope + self.decay * a[0].flatten().dot(weights[0].flatten())
        return _PulledBack(slope, weight, db, du, dy[::-1], dz[::-1])

    def plain(self, weights: Sequence[Tensor], graph: SampledGraph, r: Iterable[Tensor]) -> Tensor:
        """Return the loss by plain operations, with the masks of an earlier call."""
        h: Tensor | SparseMatrix = self.x
        for weight, mask in zip(weights, r, strict=False):
            h = graph.propagate(h @ weight).relu() * mask
        logits = graph.propagate(h @ weights[-1])
        loss = cross_entropy(logits[self.nodes], self.labels)
        return loss + 0.5 * self.decay * weights[0].square().sum()


def _where_positive_(x: Tensor, h: Tensor) -> Tensor:
    """Set x to zero where h is not positive, and return it."""
    found: Tensor = torch.ops.aten.threshold_backward.grad_input(x, h, 0, grad_input=x)
    return found


def _times(x: Tensor | SparseMatrix, dense: Tensor) -> Tensor:
    return plain_product(x.csr, dense) if isinstance(x, SparseMatrix) else x @ dense


def _transposed_times(x: Tensor | SparseMatrix, dense: Tensor) -> Tensor:
    return plain_product(x.T.csr, dense) if isinstance(x, SparseMatrix) else x.T @ dense


def has_formula(module: nn.Module, weights: Sequence[Tensor], x: Tensor | SparseMatrix, graph: object) -> bool:
    """Tell whether a module on a graph is what `GCNLoss` computes: a `GCN` as it is, on products as they are."""
    return (
        type(module) is GCN
        and type(module.weights) is nn.ParameterList
        and not any(vars(module).get(name) for name in ("forward", *_HOOKS))
        and isinstance(graph, SampledGraph)
        and type(graph).propagate is SampledGraph.propagate
        and _owner(graph, "dropout_mask") is _owner(graph, "dropout_scale")
        and all(type(w) in (Tensor, nn.Parameter) and w.dtype == x.dtype == graph.degree.dtype for w in weights)
        and not torch.is_autocast_enabled(weights[0].device.type)
    )


def _owner(graph: object, name: str) -> type:
    """Return the class that a graph has a method from."""
    return next(kind for kind in type(graph).__mro__ if name in vars(kind))


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _Call(NamedTuple):
    """One evaluation: of which loss, on which graph, with how many layers, and κ."""

    loss: GCNLoss
    graph: SampledGraph
    layers: int
    kept: float


class _ReLULoss(torch.autograd.Function):
    """The loss, of weights and of probes of its products; its name shows those who look for kinks that there are."""

    @staticmethod
    def forward(ctx: Any, call: _Call, value: Tensor, forward: _Forward, *inputs: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*inputs, *forward.flat())
        return value.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> Any:
        loss, graph, layers, kept = ctx.call
        count = len(ctx.needs_input_grad) - 3
        inputs, forward = ctx.saved_tensors[:count], _Forward.of(ctx.saved_tensors[count:], layers)
        weights, probes = inputs[:layers], inputs[layers:]
        grads, backward = loss.gradient([w.detach() for w in weights], graph, forward, kept, scale.detach())
        if torch.is_grad_enabled():
            more = graph.note(backward.u)
            # Of a probe nobody asks a derivative that has one itself: the sweep asks for them, at its end.
            found = [None] * len(probes)
            grads = _ReLUGradient.apply(  # type: ignore[no-untyped-call]
                ctx.call, grads, forward, backward, scale, *weights, *probes[:layers], *more
            )
        else:
            found = graph.noted(forward.products(backward.u, backward.b, kept)) if probes else []
        return None, None, None, *grads, *found


class _ReLUGradient(torch.autograd.Function):
    """The gradient times a scale, of that, of the weights, and of probes of the products of both passes."""

    @staticmethod
    def forward(
        ctx: Any, call: _Call, grads: list[Tensor], forward: _Forward, backward: _Backward, *inputs: Tensor
    ) -> Any:
        ctx.call = call
        ctx.save_for_backward(*inputs, *forward.flat(), *backward.u, *backward.b)
        return tuple(grads)

    @staticmethod
    def backward(ctx: Any, *a: Tensor) -> Any:
        loss, graph, layers, kept = ctx.call
        count = len(ctx.needs_input_grad) - 4
        (scale, *inputs), saved = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        weights, probes = inputs[:layers], inputs[layers:]
        forward = _Forward.of(saved[: -2 * layers], layers)
        if torch.is_grad_enabled():
            found = _again(ctx.call, forward, scale, weights, a)
            return None, None, None, None, *found, *[None] * len(probes)
        u, b = saved[-2 * layers : -layers], saved[-layers:]
        pulled = loss.pulled_back(weights, graph, forward, _Backward(u, b), kept, scale, a)
        noted: list[Tensor] = []
        if probes:
            products = forward.products(pulled.y, pulled.z, kept)
            products += map(NotedProduct, pulled.b, u, b, pulled.u)
            noted = graph.noted(products)
        return None, None, None, None, pulled.scale, *pulled.weights, *noted


def _again(call: _Call, forward: _Forward, scale: Tensor, weights: Sequence[Tensor], a: Sequence[Tensor]) -> Any:
    """Return the derivatives of Σ_l ⟨a_l, scale · gradient_l⟩ with a graph, by plain operations."""
    inputs = [x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in (scale, *weights)]
    value = call.loss.plain(inputs[1:], call.graph, (h.sign() * call.kept for h in forward.h))
    grads = torch.autograd.grad(value, inputs[1:], create_graph=True)
    total = torch.stack([(x * y).sum() for x, y in zip(grads, a, strict=True)]).sum() * inputs[0]
    return torch.autograd.grad(total, inputs, create_graph=True)
