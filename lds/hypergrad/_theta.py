"""The outer variables as a list of tensors, for methods that go through θ one scalar at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optree
import torch
from torch import Tensor

from lds.errors import InputError
from lds.hypergrad._outer import Outer
from lds.hypergrad._steady import Derived
from lds.updaters import PyTree


class Theta:
    """The tensors that the outer variables are made of: the plain ones, and θ of every `Derived`.

    Args:
        outer: pytree of the outer variables.
        method: who asks, for the message.

    Attributes:
        tensors: the tensors.
        paths: what to call each.
        owners: index of the outer variable that each belongs to.

    Raises:
        InputError: an outer variable draws anew in every step, or is complex.
    """

    def __init__(self, outer: PyTree, method: str) -> None:
        names = Outer(outer).paths
        self._leaves, self._spec = optree.tree_flatten(outer)
        self.tensors: list[Tensor] = []
        self.paths: list[str] = []
        self.owners: list[int] = []
        for owner, (name, leaf) in enumerate(zip(names, self._leaves, strict=True)):
            if isinstance(leaf, Tensor):
                paths, tensors = [name], [leaf]
            elif isinstance(leaf, Derived):
                paths = [accessor.codify(f"{name}.theta") for accessor in optree.tree_accessors(leaf.theta)]
                tensors = leaf.leaves
            else:
                raise InputError(
                    f"{method} needs outer variables that are tensors or Derived, but {name} is a "
                    f"{type(leaf).__name__}, which draws anew in every step; use Reverse() or Implicit()"
                )
            self.tensors += [x.detach() for x in tensors]
            self.paths += paths
            self.owners += [owner] * len(tensors)
        for path, tensor in zip(self.paths, self.tensors, strict=True):
            if tensor.is_complex():
                raise InputError(
                    f"{method} needs real outer variables, but {path} is {tensor.dtype}; use Reverse(), or split it "
                    "with torch.view_as_real"
                )

    def outer(self, tensors: Sequence[Tensor]) -> PyTree:
        """Return the outer variables with these tensors in place of their own."""
        return self._build(tensors, lambda derived, theta: Derived(derived.function, theta))

    def grads(self, values: Sequence[Any]) -> PyTree:
        """Return the pytree of hypergradients, or of anything there is one of for every tensor."""
        return self._build(values, lambda _, theta: theta)

    def derived(self, owner: int) -> Derived | None:
        """Return the outer variable if it is a `Derived`."""
        leaf = self._leaves[owner]
        return leaf if isinstance(leaf, Derived) else None

    def _build(self, values: Sequence[Any], wrap: Callable[[Derived, Any], Any]) -> PyTree:
        remaining = iter(values)
        built = []
        for leaf in self._leaves:
            if isinstance(leaf, Derived):
                theta = optree.tree_unflatten(leaf.spec, [next(remaining) for _ in leaf.leaves])
                built.append(wrap(leaf, theta))
            else:
                built.append(next(remaining))
        return optree.tree_unflatten(self._spec, built)


def unit(like: Tensor, index: int) -> Tensor:
    """Return the tensor that is one at a flat index and zero elsewhere."""
    result = torch.zeros(like.shape, dtype=like.dtype, device=like.device)
    result.view(-1)[index] = 1
    return result
