"""What implicit differentiation takes as zero at w_T: the inner gradient, or the change that Φ makes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import optree
import torch
from torch import Tensor

from lds._random import STEP, reseed
from lds.hypergrad._dynamics import Dynamics, StepGraph
from lds.hypergrad._leaves import differentiable, is_differentiable
from lds.hypergrad._solvers import Matrix
from lds.updaters import State, gradient


class _System:
    """A function of the leaves of w_T and of θ by its graph, and the transpose of its Jacobian on flat vectors."""

    def __init__(self, graph: StepGraph, symmetric: bool) -> None:
        self.graph = graph
        self._inputs = [x for x in graph.leaves if is_differentiable(x)]
        self.matrix = Matrix(self._transpose, symmetric)

    def flat(self, leaves: Sequence[Any]) -> Tensor:
        """Return one vector for leaves like those of the graph, zeros where one is None."""
        pairs = zip(self.graph.leaves, leaves, strict=True)
        parts = [torch.zeros_like(x) if y is None else y.detach() for x, y in pairs if is_differentiable(x)]
        return torch.cat([x.reshape(-1).to(parts[0].device) for x in parts])

    def split(self, vector: Tensor) -> list[Tensor | None]:
        """Return the leaves that a vector stands for, None where a leaf carries no derivative."""
        parts = iter(torch.split(vector, [x.numel() for x in self._inputs]))
        return [
            next(parts).reshape(x.shape).to(x.device, x.dtype) if is_differentiable(x) else None
            for x in self.graph.leaves
        ]

    def _transpose(self, vector: Tensor) -> Tensor:
        """Return uᵀ ∂results/∂leaves."""
        pairs = zip(self.graph.results, self.split(vector), strict=True)
        attached = [(y, u) for y, u in pairs if u is not None and y.requires_grad]
        if not attached:
            return torch.zeros_like(vector)
        results, cotangents = zip(*attached, strict=True)
        found = iter(torch.autograd.grad(results, self._inputs, cotangents, retain_graph=True, allow_unused=True))
        return self.flat([next(found) if is_differentiable(x) else None for x in self.graph.leaves])


class GradientSystem(_System):
    """∇_w L(w_T, θ); its Jacobian is the Hessian."""

    @torch.enable_grad()
    def __init__(self, dynamics: Dynamics, final: State, steps: int) -> None:
        leaves, spec = optree.tree_flatten(final.params)
        leaves = differentiable(leaves)
        tracers = dynamics.outer.trace(dynamics.draws(steps))
        reseed(dynamics.seed, final.step, STEP, cuda=dynamics.cuda)
        values = dynamics.outer.unflatten([tracer.value for tracer in tracers])
        grads = gradient(dynamics.inner, optree.tree_unflatten(spec, leaves), values)
        super().__init__(StepGraph(leaves, tracers, optree.tree_leaves(grads)), symmetric=True)

    def cotangents(self, solution: Tensor) -> list[Tensor | None]:
        """Return what to pull back to θ: −v."""
        return self.split(-solution)

    def displacement(self, rate: float) -> tuple[Tensor, float]:
        """Return a direction of the minimum and the estimated way there: ‖∇L‖ over the curvature along it."""
        descent = -self.flat(self.graph.results)
        size = float(descent.norm())
        if size == 0:
            return descent, 0.0
        unit = descent / size
        curvature = float(unit.dot(self.matrix(unit)))
        return descent, size / curvature if curvature > 0 else math.inf


class StepSystem(_System):
    """Φ(w_T, θ), of the whole state."""

    def __init__(self, dynamics: Dynamics, final: State, steps: int) -> None:
        leaves = dynamics.spec.flatten(final)
        super().__init__(dynamics.linearise(steps, leaves, dynamics.draws(steps)), symmetric=False)
        self._num_weights = sum(x.numel() for x in optree.tree_leaves(final.params))

    def cotangents(self, solution: Tensor) -> list[Tensor | None]:
        """Return what to pull back to θ: v."""
        return self.split(solution)

    def displacement(self, rate: float) -> tuple[Tensor, float]:
        """Return a direction of the fixed point and the estimated way there: ‖Φ(w_T) − w_T‖ / (1 − ρ)."""
        change = (self.flat(self.graph.results) - self.flat(self.graph.leaves))[: self._num_weights]
        size = float(change.norm())
        if math.isnan(rate):
            return change, size  # Nothing was solved for.
        return change, size / (1 - rate) if rate < 1 else math.inf if size else 0.0
