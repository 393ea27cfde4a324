"""Groups of params, each with an updater of its own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import optree
from torch import Tensor

from lds._updater import GradientUpdater, PyTree, State
from lds.errors import InputError
from lds.updaters._clip import gradient_updater
from lds.updaters._coefficient import by_branch


@dataclass(frozen=True)
class Groups(GradientUpdater):
    """An updater for each group of params, as the parameter groups of `torch.optim` and the partition of optax.

    Each works on params with None in the place of those of other groups, which is a pytree without them; so a
    coefficient is one for the group, or a pytree like that. All see one gradient, taken at all params.

    Args:
        updaters: an updater for each group, by the group's name; such as take one gradient (those of the package, also
            clipped, any `GradientUpdater`, optimizers of TorchOpt).
        group: what says to which group a param belongs: a function (name, param) -> group, or a pytree of groups like
            params or like their upper part. The name is the path of the param, joined by dots: "encoder.weight" or
            "layers.0.w".

    Raises:
        InputError: an updater takes no gradient; or, when it begins, a param belongs to no group or a group has none.

    Example:
        Two rates, both learned::

            Groups(
                {"body": SGD(lambda outer: outer["lr"]), "head": Adam(lambda outer: outer["head_lr"])},
                lambda name, w: "head" if name.startswith("head.") else "body",
            )
    """

    updaters: Mapping[Any, GradientUpdater]
    group: Callable[[str, Tensor], Hashable] | PyTree

    def __post_init__(self) -> None:
        if not isinstance(self.updaters, Mapping) or not self.updaters:
            raise InputError(f"Groups needs a dict of updaters by group, got {self.updaters!r}")
        updaters = {key: gradient_updater(self, updater) for key, updater in self.updaters.items()}
        object.__setattr__(self, "updaters", updaters)

    def init(self, params: PyTree) -> PyTree:
        """Return the slots of each group's updater, in a dict."""
        leaves, spec = optree.tree_flatten(params)
        groups = self._groups(params, leaves)
        if empty := [key for key in self.updaters if key not in groups]:
            raise InputError(
                f"every group must have params, but {empty[0]!r} has none; they are in {sorted(map(repr, set(groups)))}"
            )
        return {key: updater.init(_part(spec, leaves, groups, key)) for key, updater in self.updaters.items()}

    def update(self, grads: PyTree, state: State, outer: PyTree) -> State:
        """Return the state after one step of every group."""
        leaves, spec = optree.tree_flatten(state.params)
        g = spec.flatten_up_to(grads)
        groups = self._groups(state.params, leaves)
        slots, new = {}, list(leaves)
        for key, updater in self.updaters.items():
            before = State(_part(spec, leaves, groups, key), state.slots[key], state.step)
            after = updater.update(_part(spec, g, groups, key), before, outer)
            slots[key] = after[1]
            moved = iter(optree.tree_leaves(after[0]))
            new = [next(moved) if own == key else w for own, w in zip(groups, new, strict=True)]
        return State(spec.unflatten(new), slots)

    def _groups(self, params: PyTree, leaves: list[Tensor]) -> list[Hashable]:
        """Return the group of each leaf."""
        if callable(self.group):
            names = [".".join(map(str, path)) for path in optree.tree_paths(params)]
            groups = [self.group(name, w) for name, w in zip(names, leaves, strict=True)]
        else:
            groups = by_branch(self.group, params)
            if len(groups) != len(leaves):
                raise InputError(
                    "the groups must be a pytree like params or like their upper part; needed "
                    f"{optree.tree_structure(params)}, got {optree.tree_structure(self.group)}"
                )
        for index, key in enumerate(groups):
            if key not in self.updaters:
                path = optree.tree_accessors(params)[index].codify("params")
                raise InputError(
                    f"every param must belong to a group of the updaters, {', '.join(map(repr, self.updaters))}, but "
                    f"{path} belongs to {key!r}"
                )
        return groups


def _part(spec: optree.PyTreeSpec, leaves: list[Any], groups: list[Hashable], key: Hashable) -> PyTree:
    return spec.unflatten([x if own == key else None for own, x in zip(groups, leaves, strict=True)])
