"""All steps of an inner problem in one graph of autograd: what `unroll` takes between two looks, where it fits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress, islice
from typing import Any

import optree
import torch
from torch import Tensor

from lds._autograd import vjp
from lds._random import INIT, forked, reseed
from lds._updater import State
from lds.hypergrad._dynamics import Dynamics, inside_objective
from lds.hypergrad._guards import all_finite, check_unchanged
from lds.hypergrad._outer import detached
from lds.hypergrad._record import Problem
from lds.hypergrad._reverse import Reverse
from lds.hypergrad._traced import Traced
from lds.hypergrad.memory import KeepGraphs


def may_connect(problem: Problem, method: object) -> bool:
    """Tell whether one backward pass over all steps is what the method's sweep would compute, with as much memory."""
    return (
        isinstance(method, Reverse)
        and (method.memory is None or isinstance(method.memory, KeepGraphs))
        and (method.horizon is None or method.horizon >= problem.steps)
        and method.tol is None
        and method.noise == "replay"
        and problem.steps > 0
        and not isinstance(problem.updater, Traced)
        # Autograd will differentiate it again there, which begins anew.
        and not inside_objective()
    )


def connect(problem: Problem) -> Connected | None:
    """Take all steps in one graph; None where the recorder has to: for a look, for want of memory, or to name a NaN."""
    with forked(problem.cuda):
        dynamics, leaves = problem.bind()
        if dynamics.met.is_next_due or problem.steps not in dynamics.met.kept:
            return None
        connected = Connected(dynamics, leaves, problem.steps)
    return connected if connected.is_finite else None


class Connected:
    """The steps of an inner problem in one graph, from copies of w_0 and of θ to w_T.

    The backward pass adds up what the steps give in the order of a sweep: same bits.

    Args:
        dynamics: Φ.
        leaves: leaves of the state before the first step, copies.
        steps: T ≥ 1.

    Attributes:
        dynamics: Φ.
        is_finite: whether it and all losses are finite.
    """

    def __init__(self, dynamics: Dynamics, leaves: list[Any], steps: int) -> None:
        self.dynamics = dynamics
        spec, losses = dynamics.spec, []
        by_leaf = getattr(dynamics.updater, "by_leaf", False)
        with torch.enable_grad():
            params = [x.requires_grad_() for x in leaves[: spec.num_params]] if dynamics.fresh else []
            if params and len(leaves) > len(params):
                # Slots may depend on w_0.
                reseed(dynamics.seed, INIT, cuda=dynamics.cuda)
                tree = spec.params.unflatten(params)
                leaves = spec.flatten(State(tree, dynamics.updater.init(tree)))
            steady = dynamics.outer.steady
            thetas = [x.detach().requires_grad_() for v in steady for x in v.derived.leaves]
            rest = iter(thetas)
            values = [v.derived.function(v.derived.spec.unflatten(islice(rest, len(v.derived.leaves)))) for v in steady]
            for t in range(steps):
                # Views, so that the cotangents of a step are summed by themselves; of a single one they are anyway.
                shown = values if steps == 1 else [optree.tree_map(_view, value) for value in values]
                outer = dynamics.outer.unflatten(shown)
                pairs = zip(leaves, spec.differentiable, strict=True)
                leaves, loss = dynamics.step(t, [as_input(x, can, by_leaf=by_leaf) for x, can in pairs], outer)
                if loss is not None:
                    losses.append(loss)
        self._inputs, self._results = [*params, *thetas], leaves
        self._end = dynamics.start + steps
        self.is_finite = all_finite([*leaves, *losses])

    @property
    def final_state(self) -> State:
        """The state after the last step, detached."""
        return self.dynamics.spec.unflatten(detached(self._results), self._end)

    def own_params(self) -> list[Tensor]:
        """Return w_T in memory that is neither the caller's nor a part of another tensor, detached."""
        params = self._results[: self.dynamics.spec.num_params]
        return [x.clone() if x.grad_fn is None or x._is_view() else x.detach() for x in params]

    def grads(self, cotangents: Sequence[Tensor | None], asked: Sequence[bool]) -> list[Tensor | None]:
        """Return the gradients in those of w_0 and θ that are asked for; once, for the graph is freed.

        Raises:
            RuntimeError: torch cannot differentiate one of the operations again.
        """
        check_unchanged(self.dynamics.outer)
        chosen = list(compress(self._inputs, asked))
        pairs = zip(self._results, cotangents, strict=False)
        flowing = [(y, c) for y, c in pairs if c is not None and y.requires_grad]
        if not flowing:
            return [torch.zeros_like(x) if ask else None for x, ask in zip(self._inputs, asked, strict=True)]
        results, cs = zip(*flowing, strict=True)
        found = iter(vjp(results, chosen, cs))
        return [_or_zeros(next(found), x) if ask else None for x, ask in zip(self._inputs, asked, strict=True)]


def _or_zeros(grad: Tensor | None, x: Tensor) -> Tensor:
    return torch.zeros_like(x) if grad is None else grad


def _view(x: Any) -> Any:
    return x.view_as(x) if isinstance(x, Tensor) and x.requires_grad else x


def as_input(x: Any, differentiable: bool, *, by_leaf: bool = False) -> Any:
    """Return a leaf of the state as the next step is given it: of the graph where it is, as in a recorded step else.

    A leaf of the graph is a view, for one may depend on another, and Φ may take derivatives in each by itself; not
    where the updater says that it works leaf by leaf.
    """
    if not isinstance(x, Tensor):
        return x
    if x.requires_grad:
        return x if by_leaf else x.view_as(x)
    return x.detach().requires_grad_() if differentiable else x.clone()
