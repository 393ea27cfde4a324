"""Several outer objectives at once: a sweep for each over one recording."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import optree
import torch
from torch import Tensor

from lds._keywords import explained
from lds._show import Shown
from lds._updater import InnerObjective, Objective, PyTree, State, Updater
from lds.errors import InputError
from lds.hypergrad._guards import check_method
from lds.hypergrad._outer import check_steady
from lds.hypergrad._record import Problem, no_inner, no_objective
from lds.hypergrad._reverse import Reverse
from lds.hypergrad.memory import Disk

VectorObjective: TypeAlias = Callable[[PyTree, PyTree], Tensor]


@dataclass(frozen=True, repr=False)
class JacobianResult(Shown):
    """What `jacobian` returns.

    Attributes:
        jacobian: pytree like `outer`, dF/dθ; each leaf has the shape of F and then that of θ.
        values: F(w_T, θ).
        params: w_T.
        state: the whole final state; pass it as `state=` for a warm start.

    Example:
        >>> import torch
        >>> from lds.hypergrad import jacobian
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> both = lambda w, c: torch.stack([w, w**2])
        >>> result = jacobian(problem[0], both, *problem[2:], updater=SGD(0.25), steps=2)
        >>> result.values, result.jacobian
        (tensor([0.6250, 0.3906]), tensor([0.7500, 0.9375]))
    """

    jacobian: PyTree
    values: Tensor
    params: PyTree
    state: State


@explained
def jacobian(
    inner: InnerObjective | None,
    outer_objective: VectorObjective,
    params: PyTree,
    outer: PyTree,
    *,
    updater: Updater,
    steps: int,
    method: Reverse | None = None,
    seed: int = 0,
    state: State | None = None,
    batches: object = None,
) -> JacobianResult:
    r"""Return the Jacobian of a vector of outer objectives after unrolled inner optimization.

    .. math:: \frac{d F_i}{d\theta_j}(w_T(\theta), \theta), \qquad w_{t+1} = \Phi(w_t, \theta)

    The inner problem is recorded once, and swept once for each entry of F. Several losses are a vector,
    `torch.stack([...])`; the whole Jacobian of w_T is that of `lambda params, outer: params["w"]`. Where θ has fewer
    numbers than F, a `hypergradient` with `Forward()` for each F may be cheaper.

    Args:
        inner: inner objective L, (params, outer) -> scalar tensor; with `batches`, (params, outer, batch); None where Φ
            is a map that asks for none.
        outer_objective: F, (params, outer) -> tensor of any shape.
        params: pytree of floating-point tensors w_0.
        outer: pytree of the outer variables θ, tensors or `Derived`.
        updater: Φ, see `lds.updaters.Updater`.
        steps: number of inner steps T.
        method: `Reverse(...)`; `Reverse()`, the full sweep, when None. `KeepStates` serves all sweeps alike, while the
            graphs of `KeepGraphs` serve the first one.
        seed: seed of the randomness inside Φ and inside F.
        state: a state to go on from instead of `params` (warm start).
        batches: minibatches, one a step, for the inner objective, see `hypergradient`.

    Raises:
        InputError: F returns no real tensor, or an empty one; the method is not `Reverse`, or keeps its trajectory on
            disk; an outer variable draws anew in every step; or as for `hypergradient`.
        NumericalError, ReplayError: as for `hypergradient`.

    Example:
        >>> import torch
        >>> from lds.hypergrad import jacobian
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> both = lambda w, c: torch.stack([w, w**2])
        >>> jacobian(problem[0], both, *problem[2:], updater=SGD(0.25), steps=2).jacobian
        tensor([0.7500, 0.9375])
    """
    method = Reverse() if method is None else method
    check_method(method)
    if not isinstance(method, Reverse) or isinstance(method.memory, Disk):
        raise InputError(
            f"jacobian sweeps over one recording several times, which needs Reverse(...) without Disk, got {method}"
        )
    check_steady(outer, "jacobian", "call hypergradient for each objective")
    values: list[Tensor] = []

    def entry(index: int) -> Objective:
        def objective(params: PyTree, outer: PyTree) -> Tensor:
            found: Any = outer_objective(params, outer)
            if not isinstance(found, Tensor) or not found.is_floating_point() or not found.numel():
                shown = f"{tuple(found.shape)} {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
                raise InputError(
                    f"the outer objective of jacobian must return a real tensor with numbers in it, got {shown}; stack "
                    "several losses with torch.stack, and split complex ones with torch.view_as_real"
                )
            values[:] = [found.detach()]
            return found.flatten()[index]

        return objective

    trajectory = Problem(inner or no_inner, no_objective, params, outer, updater, steps, seed, state, batches).record(
        method.horizon, method.memory
    )
    rows = [method.differentiate(trajectory, entry(0)).grad]
    rows += [method.differentiate(trajectory, entry(i)).grad for i in range(1, values[0].numel())]
    shape = values[0].shape
    stacked = optree.tree_map(lambda *found: torch.stack(found).reshape(*shape, *found[0].shape), *rows)
    final = trajectory.final_state
    return JacobianResult(stacked, values[0], final.params, final)
