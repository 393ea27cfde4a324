"""One call for the hypergradient, whatever the method."""

from __future__ import annotations

from typing import Any, TypeVar, overload

from lds._updater import InnerObjective, Objective, PyTree, State, Updater
from lds.hypergrad._diagnostics import HypergradientResult, Method, SweepDiagnostics
from lds.hypergrad._guards import check_method
from lds.hypergrad._record import Diagnostics, Problem, no_inner
from lds.hypergrad._reverse import Reverse

D = TypeVar("D", bound=Diagnostics)


@overload
def hypergradient(
    inner: InnerObjective | None,
    outer_objective: Objective,
    params: PyTree,
    outer: PyTree,
    *,
    updater: Updater,
    steps: int,
    method: None = None,
    seed: int = 0,
    state: State | None = None,
    batches: object = None,
) -> HypergradientResult[SweepDiagnostics]: ...


@overload
def hypergradient(
    inner: InnerObjective | None,
    outer_objective: Objective,
    params: PyTree,
    outer: PyTree,
    *,
    updater: Updater,
    steps: int,
    method: Method[D],
    seed: int = 0,
    state: State | None = None,
    batches: object = None,
) -> HypergradientResult[D]: ...


def hypergradient(
    inner: InnerObjective | None,
    outer_objective: Objective,
    params: PyTree,
    outer: PyTree,
    *,
    updater: Updater,
    steps: int,
    method: Method[Any] | None = None,
    seed: int = 0,
    state: State | None = None,
    batches: object = None,
) -> HypergradientResult[Any]:
    r"""Return the gradient of the outer objective after unrolled inner optimization.

    .. math:: \frac{d}{d\theta} F(w_T(\theta), \theta), \qquad w_{t+1} = \Phi(w_t, \theta)

    Nothing is written to `.grad`, and no tensor of the caller is changed.

    Args:
        inner: inner objective L, (params, outer) -> scalar tensor; with `batches`, (params, outer, batch); None where Φ
            is a map that asks for none.
        outer_objective: F, (params, outer) -> scalar tensor.
        params: pytree of floating-point tensors w_0.
        outer: pytree of the outer variables θ; those that nothing depends on get zeros.
        updater: Φ, see `lds.updaters.Updater`.
        steps: number of inner steps T.
        method: how to differentiate: `Reverse`, `Forward`, `Implicit` or `FiniteDifference`; `Reverse()`, the full
            sweep, when None.
        seed: seed of the randomness inside Φ and inside F, and of the order of batches. Two calls with one seed see the
            same noise and the same batches: in an outer loop, give each call a seed of its own, or go on with `state`.
        state: a state to go on from instead of `params` (warm start), which goes on with its noise and batches too.
        batches: minibatches, one a step, for the inner objective: a sequence of them, `Batches`, or a
            `torch.utils.data.DataLoader` of a map-style dataset. That of a step is a function of the seed and of
            `State.step`.

    Raises:
        InputError: an argument, an objective or Φ is not what it must be; see `record` and `sweep`.
        NumericalError: an objective, a costate or the hypergradient is NaN or infinite; the message names the step, the
            variable, and the last norms that were finite.
        ReplayError: a recomputed inner step differs from the recorded one.
    """
    if method is None:
        method = Reverse()
    check_method(method)
    problem = Problem(inner or no_inner, outer_objective, params, outer, updater, steps, seed, state, batches)
    return method.solve(problem)
