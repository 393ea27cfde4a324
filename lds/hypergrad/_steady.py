"""Outer variables that are the same in every step: plain tensors, and values derived from them once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optree
import torch
from torch import Tensor

from lds.errors import InputError
from lds.hypergrad._leaves import detached, differentiable, is_differentiable


class SteadyTracer:
    """The leaves of a value, as leaves of autograd that share its memory."""

    def __init__(self, leaves: Sequence[Any], spec: optree.PyTreeSpec | None) -> None:
        leaves = differentiable(leaves)
        self._inputs = [x for x in leaves if is_differentiable(x)]
        self.value = leaves[0] if spec is None else optree.tree_unflatten(spec, leaves)

    def inputs(self) -> Sequence[Tensor]:
        """Return the differentiable leaves."""
        return self._inputs


class TensorVariable:
    """A plain tensor θ: the same draw at every step, G_t a tensor of its shape."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()
        self._version = self.tensor._version

    def changed(self) -> bool:
        """Tell whether θ was changed in place since."""
        return self.tensor._version != self._version

    def draw(self) -> Tensor:
        """Return θ."""
        return self.tensor

    def trace(self, draw: Tensor) -> SteadyTracer:
        """Return a leaf of autograd that shares θ's memory."""
        return SteadyTracer([draw], None)

    def accumulator(self) -> TensorAccumulator:
        """Return zeros like θ."""
        return TensorAccumulator([self.tensor])

    def nudge(self, draw: Tensor) -> Tensor:
        """Return a value close by, to tell what depends on it."""
        return _nudged(draw)


class TensorAccumulator:
    """Sums of cotangents, one a tensor."""

    def __init__(self, like: Sequence[Tensor]) -> None:
        self.sums = [torch.zeros_like(x) for x in like]

    def add(self, tracer: SteadyTracer, cotangents: Sequence[Tensor | None]) -> None:
        """Add the cotangents."""
        for total, cotangent in zip(self.sums, cotangents, strict=True):
            if cotangent is not None:
                total += cotangent

    def value(self) -> Any:
        """Return a copy of the sum."""
        return self.sums[0].clone()


class Derived:
    r"""An outer variable that Φ and F see only through h(θ): computed once, and pulled back through once.

    .. math:: \frac{dF}{d\theta} = \Big(\sum_t P_t\, \partial_h \Phi(w_{t-1}, h)\Big)\, \partial_\theta h(\theta)

    Worth it where h is costly and the same in every step: the normalisation of an adjacency matrix, a kernel matrix,
    exp of log-coefficients. Use it as a leaf of `outer`: the objectives and Φ see h(θ) in its place, and the
    hypergradient has a pytree like θ there. Every trajectory reads θ anew, so one object serves a whole training in
    which θ is updated in place.

    Args:
        function: h, from θ to a pytree of tensors; deterministic, differentiable.
        theta: θ, a pytree of floating-point tensors.

    Raises:
        InputError: θ has leaves that are no floating-point tensors; or, when first used, no tensor of h(θ) depends
            on θ.
    """

    def __init__(self, function: Callable[[Any], Any], theta: Any) -> None:
        self.function = function
        self.theta = theta
        accessors, self.leaves, self.spec = optree.tree_flatten_with_accessor(theta)
        for accessor, leaf in zip(accessors, self.leaves, strict=True):
            if not is_differentiable(leaf):
                found = leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__
                raise InputError(f"{accessor.codify('theta')} must be a floating-point tensor, got {found}")


class DerivedVariable:
    """A `Derived` within one trajectory."""

    def __init__(self, name: str, derived: Derived) -> None:
        self._name = name
        self._derived = derived
        self._versions = [x._version for x in derived.leaves]
        self._theta: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._draw: Any = None

    def changed(self) -> bool:
        """Tell whether θ was changed in place since."""
        return [x._version for x in self._derived.leaves] != self._versions

    def draw(self) -> Any:
        """Return h(θ), evaluated the first time."""
        if not self._outputs:
            derived = self._derived
            self._theta = differentiable(derived.leaves)
            with torch.enable_grad():
                value = derived.function(optree.tree_unflatten(derived.spec, self._theta))
            leaves, spec = optree.tree_flatten(value)
            self._outputs = [x for x in leaves if is_differentiable(x)]
            if not any(x.requires_grad for x in self._outputs):
                raise InputError(
                    f"the function of {self._name} must return tensors that depend on theta, but nothing it returned "
                    "has a gradient path to it; compute it without .detach(), .item() or torch.no_grad()"
                )
            self._draw = optree.tree_unflatten(spec, detached(leaves))
        return self._draw

    def trace(self, draw: Any) -> SteadyTracer:
        """Return leaves of autograd that share the memory of h(θ)."""
        leaves, spec = optree.tree_flatten(draw)
        return SteadyTracer(leaves, spec)

    def accumulator(self) -> DerivedAccumulator:
        """Return zeros like h(θ)."""
        self.draw()
        return DerivedAccumulator(self._derived.spec, self._theta, self._outputs)

    def nudge(self, draw: Any) -> Any:
        """Return a value close by, to tell what depends on it."""
        return optree.tree_map(lambda x: _nudged(x) if is_differentiable(x) else x, draw)


class DerivedAccumulator(TensorAccumulator):
    """Accumulates on h(θ); its value is pulled back to θ."""

    def __init__(self, spec: optree.PyTreeSpec, theta: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        super().__init__([x.detach() for x in outputs])
        self._spec, self._theta, self._outputs = spec, theta, outputs

    def value(self) -> Any:
        """Return the sum times the Jacobian of h."""
        pairs = [(y, g) for y, g in zip(self._outputs, self.sums, strict=True) if y.requires_grad]
        outputs, sums = zip(*pairs, strict=True)
        grads = torch.autograd.grad(
            outputs, self._theta, sums, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return optree.tree_unflatten(self._spec, grads)


def _nudged(tensor: Tensor) -> Tensor:
    # Towards zero, so that probabilities stay probabilities and positive numbers stay positive.
    return torch.where(tensor == 0, 1e-3, tensor * (1 - 1e-3))
