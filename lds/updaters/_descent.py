"""What the updaters share that are named after those of torch: the leaves of a step, its coefficients, its sign."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import optree

from lds._updater import GradientUpdater, PyTree, State
from lds.updaters._coefficient import Coefficient, add_scaled, decayed, each, is_zero, resolve


class Leaves:
    """A step on flattened pytrees.

    Attributes:
        w: leaves of params.
        g: leaves of the direction to go against: the gradients, negated to maximize.
        state: the state before the step.
    """

    def __init__(self, grads: PyTree, state: State, outer: PyTree, maximize: bool) -> None:
        leaves, self._spec = optree.tree_flatten(state.params)
        self.w: list[Any] = leaves
        g: list[Any] = self._spec.flatten_up_to(grads)
        self.g = [-x for x in g] if maximize else g
        self.state, self._outer = state, outer

    def flat(self, tree: PyTree) -> list[Any]:
        """Return the leaves of a pytree like params."""
        return self._spec.flatten_up_to(tree)

    def tree(self, leaves: list[Any]) -> PyTree:
        """Return the pytree like params with these leaves."""
        return self._spec.unflatten(leaves)

    def value(self, name: str, coefficient: Coefficient) -> Any:
        """Return a coefficient's value in this step: one for all leaves, or a list with one for each."""
        return resolve(name, coefficient, self.w, self.state, self._outer)

    def add_penalty(self, weight_decay: Coefficient) -> None:
        """Add the gradient of weight_decay/2 · ‖w‖² to the direction."""
        if not is_zero(weight_decay):
            self.g = each(add_scaled, self.g, self.w, self.value("weight_decay", weight_decay))

    def decay(self, lr: Any, weight_decay: Coefficient) -> None:
        """Shrink the weights, apart from the direction."""
        if not is_zero(weight_decay):
            self.w = each(decayed, self.w, lr, self.value("weight_decay", weight_decay))


@dataclass(frozen=True)
class Descent(GradientUpdater):
    """An updater that goes down the inner objective, or up with `maximize`."""

    maximize: bool = field(default=False, kw_only=True)

    def update(self, grads: PyTree, state: State, outer: PyTree) -> State:
        """Return the state after one step along these gradients."""
        return self._update(Leaves(grads, state, outer, self.maximize))

    @abstractmethod
    def _update(self, now: Leaves) -> State:
        """Return the state after the step."""
