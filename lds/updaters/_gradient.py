"""Inner gradients, and the updaters that need nothing else of the inner objective."""

from __future__ import annotations

from abc import ABC, abstractmethod

import optree
import torch

from lds.errors import InputError
from lds.updaters._protocol import Objective, PyTree, State


def gradient(inner: Objective, params: PyTree, outer: PyTree) -> PyTree:
    r"""Return the inner gradient :math:`\nabla_w L(w, \theta)`, differentiable where grad mode is enabled.

    Args:
        inner: objective, (params, outer) -> scalar tensor.
        params: pytree of floating-point tensors w.
        outer: pytree of outer variables θ.

    Returns:
        A pytree like `params`; leaves that the objective does not use get zeros.

    Raises:
        InputError: the objective depends on none of the params.
    """
    differentiable = torch.is_grad_enabled()
    leaves, spec = optree.tree_flatten(params)
    with torch.enable_grad():
        leaves = [x if x.requires_grad else x.detach().requires_grad_() for x in leaves]
        loss = inner(spec.unflatten(leaves), outer)
        if not loss.requires_grad:
            raise InputError(
                "the inner objective must depend on params, but its value has no gradient path to any of them; "
                "compute it from the params it is called with, and do not detach them"
            )
        grads = torch.autograd.grad(loss, leaves, create_graph=differentiable, allow_unused=True)
    filled = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)]
    return spec.unflatten(filled)


class GradientUpdater(ABC):
    """An updater that takes one inner gradient a step, at the params, and works on that.

    A subclass writes `init` and `update`, gets `step`, and can stand inside `ClipByNorm` and `ClipByValue`.
    """

    @abstractmethod
    def init(self, params: PyTree) -> PyTree:
        """Return the slots that belong to fresh `params`."""

    @abstractmethod
    def update(self, grads: PyTree, state: State, outer: PyTree) -> State:
        """Return the next state, differentiable in all three arguments; `grads` is a pytree like `state.params`."""

    def step(self, state: State, outer: PyTree, inner: Objective) -> State:
        """Return the state after one update with the inner gradient."""
        return self.update(gradient(inner, state.params, outer), state, outer)
