"""Optimizers of other libraries as updaters."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, cast

import optree

from lds.errors import InputError
from lds.updaters._gradient import GradientUpdater
from lds.updaters._protocol import PyTree, State, Updater


@dataclass(frozen=True)
class FunctionalUpdater(GradientUpdater):
    """A functional optimizer in the style of TorchOpt, such as `torchopt.adam(1e-3)`, as an updater.

    Ren et al., `TorchOpt <https://arxiv.org/abs/2211.06934>`_ (JMLR 2023). Its adaptive optimizers have ε outside the
    root, so that a zero gradient makes the hypergradient NaN; pass them an `eps_root`, such as 1e-16.

    Args:
        optimizer: a pair of pure functions, `init(params) -> slots` and
            `update(grads, slots, *, params, inplace) -> (updates, slots)`.
    """

    optimizer: Any

    def init(self, params: PyTree) -> PyTree:
        """Return the optimizer's state."""
        return self.optimizer.init(params)

    def update(self, grads: PyTree, state: State, outer: PyTree) -> State:
        """Return the state after one update of the optimizer."""
        updates, slots = self.optimizer.update(grads, state.slots, params=state.params, inplace=False)
        return State(optree.tree_map(lambda w, u: w + u, state.params, updates), slots)


def as_updater(candidate: object) -> Updater:
    """Return an updater: what has `init` and `step` as it is, and an optimizer in the style of TorchOpt wrapped.

    Raises:
        InputError: the candidate is neither.
    """
    has = {method: callable(getattr(candidate, method, None)) for method in ("init", "step", "update")}
    if has["init"] and has["step"]:
        return cast(Updater, candidate)
    if has["init"] and has["update"] and _takes_params(candidate):
        return FunctionalUpdater(candidate)
    missing = "step" if has["init"] else "init"
    raise InputError(f"an updater needs methods init and step, but {type(candidate).__name__} has no {missing}")


def _takes_params(candidate: Any) -> bool:
    """Tell whether `update` is called in the style of TorchOpt, (grads, slots, *, params, inplace)."""
    try:
        parameters = inspect.signature(candidate.update).parameters
    except (TypeError, ValueError):
        return False
    return {"params", "inplace"} <= set(parameters)
