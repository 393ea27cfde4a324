"""What an inner updater Φ is: a pure `init`/`step` pair over a state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import optree
import torch
from torch import Tensor

from lds.errors import InputError

PyTree: TypeAlias = Any
Objective: TypeAlias = Callable[[PyTree, PyTree], Tensor]


class State(NamedTuple):
    """Everything an inner updater carries from one step to the next.

    Attributes:
        params: pytree of floating-point tensors, the weights w_t.
        slots: any pytree, what else Φ remembers (momentum, Adam's m and v, counters); () when nothing.
        step: number of steps taken so far. The engine sets it; an updater may read it and need not return it.
    """

    params: PyTree
    slots: PyTree = ()
    step: int = 0


@runtime_checkable
class Updater(Protocol):
    """One step of inner optimization, w_{t+1} = Φ(w_t, θ), as two pure methods; no base class is needed."""

    def init(self, params: PyTree) -> PyTree:
        """Return the slots that belong to fresh `params`."""
        ...

    def step(self, state: State, outer: PyTree, inner: Objective) -> State:
        """Return the next state, differentiable in `state` and in `outer`.

        `inner(params, outer)` is the inner objective. Leaves of the result have the structure, shapes and dtypes
        of the leaves of `state`. Return `State(params, slots)` or just the pair `(params, slots)`.
        """
        ...


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
        loss = inner(optree.tree_unflatten(spec, leaves), outer)
        if not loss.requires_grad:
            raise InputError(
                "the inner objective must depend on params, but its value has no gradient path to any of them; "
                "compute it from the params it is called with, and do not detach them"
            )
        grads = torch.autograd.grad(loss, leaves, create_graph=differentiable, allow_unused=True)
    filled = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)]
    return optree.tree_unflatten(spec, filled)
