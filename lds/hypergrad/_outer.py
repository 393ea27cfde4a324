"""Outer variables θ as the engine sees them.

The engine asks four things of an outer variable: a *draw* (the value that Φ sees in one step), a *tracer* around a
draw (the same value, differentiable), an *accumulator* that takes the tracers' cotangents, and its final value.
A random structure draws a graph per step and accumulates thin factors; the engine knows nothing of graphs. A `Derived`
draws h(θ), the same in every step, and a plain tensor is derived by the identity.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import Any, Protocol, runtime_checkable

import optree
import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lds._updater import PyTree
from lds.errors import InputError


def is_differentiable(leaf: Any) -> bool:
    """Tell whether a leaf of a state can carry a cotangent."""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def differentiable(leaves: Sequence[Any]) -> list[Any]:
    """Return the leaves of a state as leaves of a new graph."""
    return [x.detach().requires_grad_() if is_differentiable(x) else x for x in leaves]


def detached(leaves: Sequence[Any]) -> list[Any]:
    """Return the leaves of a state cut off from any graph."""
    return [x.detach() if isinstance(x, Tensor) else x for x in leaves]


def copied(leaves: Sequence[Any]) -> list[Any]:
    """Return the leaves of a state in memory of their own, cut off from any graph."""
    with torch.no_grad():
        return [x.clone() if isinstance(x, Tensor) else x for x in leaves]


class Tracer(Protocol):
    """A differentiable stand-in for an outer variable during one step of the sweep.

    Example:
        >>> import torch
        >>> from lds.graph import AllPairs
        >>> from lds.hypergrad import OuterVariable
        >>> isinstance(AllPairs(3, torch.tensor([[0], [1]])), OuterVariable)  # its gradient is a list of factors
        True
    """

    @property
    def value(self) -> Any:
        """What Φ (or the outer objective) is called with."""
        ...

    def inputs(self) -> Sequence[Tensor | GradientEdge]:
        """Return what to name among the inputs of the vector-Jacobian product; asked after Φ ran."""
        ...


class Accumulator(Protocol):
    """The running sum G_t of one outer variable.

    Example:
        >>> import torch
        >>> from lds.graph import AllPairs
        >>> from lds.hypergrad import OuterVariable
        >>> isinstance(AllPairs(3, torch.tensor([[0], [1]])), OuterVariable)  # its gradient is a list of factors
        True
    """

    def add(self, tracer: Any, cotangents: Sequence[Tensor | None]) -> None:
        """Add the cotangents of `tracer.inputs()`; None stands for zero."""
        ...

    def value(self) -> Any:
        """Return G_t as of now, which can be added to another; later calls of `add` do not change what was returned."""
        ...


@runtime_checkable
class OuterVariable(Protocol):
    """A leaf of `outer` that is not a plain tensor.

    Example:
        >>> import torch
        >>> from lds.graph import AllPairs
        >>> from lds.hypergrad import OuterVariable
        >>> isinstance(AllPairs(3, torch.tensor([[0], [1]])), OuterVariable)  # its gradient is a list of factors
        True
    """

    def draw(self) -> Any:
        """Return the value for one step; runs in a random scope of its own, so it may sample."""
        ...

    def trace(self, draw: Any) -> Tracer:
        """Return a tracer that has the value of `draw`."""
        ...

    def accumulator(self) -> Accumulator:
        """Return a zero accumulator."""
        ...


class Outer:
    """The outer variables of one problem: a pytree, flattened once.

    Raises:
        InputError: a leaf is neither a floating-point tensor nor an `OuterVariable`.
    """

    def __init__(self, tree: PyTree) -> None:
        leaves, self.spec = optree.tree_flatten(tree)
        self.variables: list[OuterVariable] = [
            _as_variable(partial(_path, self.spec, place), leaf) for place, leaf in enumerate(leaves)
        ]
        self.steady = [v for v in self.variables if isinstance(v, SteadyVariable)]
        self.random = len(self.steady) < len(self.variables)

    @cached_property
    def paths(self) -> list[str]:
        """What to call each variable; made when somebody asks, for that takes as long as a small step."""
        return [accessor.codify("outer") for accessor in self.spec.accessors()]

    def unflatten(self, leaves: Sequence[Any]) -> PyTree:
        """Return a pytree like the outer variables."""
        return optree.tree_unflatten(self.spec, leaves)

    def draw(self) -> list[Any]:
        """Return one draw a variable."""
        return [variable.draw() for variable in self.variables]

    def trace(self, draws: Sequence[Any]) -> tuple[list[Tracer], PyTree]:
        """Return one tracer a variable, and the pytree of their values, which Φ and the objectives are called with."""
        tracers: list[Tracer] = list(map(_trace, self.variables, draws))
        return tracers, optree.tree_unflatten(self.spec, [tracer.value for tracer in tracers])


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

    Example:
        >>> import torch
        >>> from lds.hypergrad import Derived, hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> theta = Derived(torch.exp, torch.tensor(0.0))  # c = exp(θ), derived once
        >>> hypergradient(*problem[:3], theta, updater=SGD(0.25), steps=2).grad
        tensor(1.5000)
    """

    def __init__(self, function: Callable[[Any], Any], theta: Any) -> None:
        self.function = function
        self.theta = theta
        self.leaves, self.spec = optree.tree_flatten(theta)
        for place, leaf in enumerate(self.leaves):
            if not is_differentiable(leaf):
                path = self.spec.accessors()[place].codify("theta")
                found = leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__
                raise InputError(f"{path} must be a floating-point tensor, got {found}")


_NOTHING = object()


def identity(theta: Any) -> Any:
    """Return θ: the h of a plain tensor."""
    return theta


class SteadyVariable:
    """An outer variable within one trajectory that draws the same h(θ) in every step.

    Args:
        name: what to call it, asked when somebody wants to know.
        derived: h and θ.
    """

    def __init__(self, name: Callable[[], str], derived: Derived) -> None:
        self._name = name
        self.derived = derived
        self.versions = [x._version for x in derived.leaves]
        self._theta: list[Tensor] = []
        self._outputs: list[Tensor] = []  # The tensors of h(θ) that can carry a cotangent.
        self._differentiable: list[bool] = []  # Which of its leaves these are.
        self._draw: Any = None
        self._tensor: Any = _NOTHING  # h(θ) where it is a tensor.

    @property
    def name(self) -> str:
        """What to call it."""
        return self._name()

    @property
    def is_tensor(self) -> bool:
        """Whether it is a plain tensor."""
        return self.derived.function is identity

    def draw(self) -> Any:
        """Return h(θ), evaluated the first time."""
        if not self._outputs:
            derived = self.derived
            self._theta = [x.detach().requires_grad_() for x in derived.leaves]
            with torch.enable_grad():
                value = derived.function(optree.tree_unflatten(derived.spec, self._theta))
            leaves, spec = optree.tree_flatten(value)
            self._differentiable = [is_differentiable(x) for x in leaves]
            self._outputs = [x for x, can in zip(leaves, self._differentiable, strict=True) if can]
            if not any(x.requires_grad for x in self._outputs):
                raise InputError(
                    f"the function of {self.name} must return tensors that depend on theta, but nothing it returned "
                    "has a gradient path to it; compute it without .detach(), .item() or torch.no_grad()"
                )
            self._draw = optree.tree_unflatten(spec, [x.detach() if isinstance(x, Tensor) else x for x in leaves])
            self._tensor = self._draw if isinstance(self._draw, Tensor) else _NOTHING
        return self._draw

    def trace(self, draw: Any) -> SteadyTracer:
        """Return leaves of autograd that share the memory of h(θ)."""
        if draw is self._tensor:  # Of a plain tensor, without the detour.
            tracer = draw.detach().requires_grad_()
            return SteadyTracer(tracer, [tracer])
        leaves, spec = optree.tree_flatten(draw)
        leaves = [
            x.detach().requires_grad_() if can else x for x, can in zip(leaves, self._differentiable, strict=True)
        ]
        inputs = [x for x, can in zip(leaves, self._differentiable, strict=True) if can]
        return SteadyTracer(optree.tree_unflatten(spec, leaves), inputs)

    def accumulator(self) -> SteadyAccumulator:
        """Return zeros like h(θ)."""
        self.draw()
        return SteadyAccumulator(self.derived.spec, self._theta, self._outputs)

    def nudged(self, draw: Any) -> Any:
        """Return a value close by, to tell what depends on it."""
        # Towards zero, so that probabilities stay probabilities and positive numbers stay positive.
        return optree.tree_map(lambda x: torch.where(x == 0, 1e-3, x * (1 - 1e-3)) if is_differentiable(x) else x, draw)


@dataclass(frozen=True)
class SteadyTracer:
    """h(θ), its leaves as leaves of autograd.

    Attributes:
        value: h(θ).
        leaves: those of its leaves that can carry a cotangent.
    """

    value: Any
    leaves: Sequence[Tensor]

    def inputs(self) -> Sequence[Tensor]:
        """Return the leaves that can carry a cotangent."""
        return self.leaves


class SteadyAccumulator:
    """Sums of cotangents of h(θ), a tensor each; its value is their sum pulled back to θ."""

    def __init__(self, spec: optree.PyTreeSpec, theta: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        self._spec, self._theta, self._outputs = spec, theta, outputs
        self.sums = [torch.zeros_like(x.detach()) for x in outputs]

    def add(self, tracer: SteadyTracer, cotangents: Sequence[Tensor | None]) -> None:
        """Add the cotangents."""
        for total, cotangent in zip(self.sums, cotangents, strict=True):
            if cotangent is not None:
                total += cotangent

    def value(self) -> Any:
        """Return the sums times the Jacobian of h."""
        if all(map(operator.is_, self._outputs, self._theta)):  # The identity.
            return optree.tree_unflatten(self._spec, [g.clone() for g in self.sums])
        # On copies, for `add` goes on writing to the sums.
        pairs = [(y, g.clone()) for y, g in zip(self._outputs, self.sums, strict=True) if y.requires_grad]
        outputs, sums = zip(*pairs, strict=True)
        grads = torch.autograd.grad(
            outputs, self._theta, sums, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return optree.tree_unflatten(self._spec, grads)


class Accumulators:
    """G_t: an accumulator for every outer variable.

    A recording that goes on from another may have another θ. The sweep reaches the later one first; what it gathered
    there is added to what it gathers at the θ before.
    """

    def __init__(self, outer: Outer) -> None:
        self._outer = outer
        self._later: list[list[Any]] = []  # What was gathered at each later θ, a value a variable.
        self.current: list[Accumulator] = [v.accumulator() for v in outer.variables]

    def of(self, outer: Outer) -> list[Accumulator]:
        """Return the accumulators at this θ."""
        if outer is not self._outer:
            self._later.append([a.value() for a in self.current])
            self._outer, self.current = outer, [v.accumulator() for v in outer.variables]
        return self.current

    def value(self) -> PyTree:
        """Return G_t as of now, a pytree like the outer variables."""
        parts = [[a.value() for a in self.current], *self._later]
        return self._outer.unflatten([reduce(_add, values) for values in zip(*parts, strict=True)])

    def take(self) -> list[Any]:
        """Return what was added at this θ since the last call, one value a variable, and start again from zero."""
        values = [a.value() for a in self.current]
        self.current[:] = [v.accumulator() for v in self._outer.variables]
        return values


def _add(a: Any, b: Any) -> Any:
    return optree.tree_map(operator.add, a, b)


def _path(spec: optree.PyTreeSpec, place: int) -> str:
    return spec.accessors()[place].codify("outer")


def _trace(variable: OuterVariable, draw: Any) -> Tracer:
    return variable.trace(draw)


def _as_variable(name: Callable[[], str], leaf: Any) -> OuterVariable:
    if isinstance(leaf, Tensor):
        if not is_differentiable(leaf):
            raise InputError(f"{name()} must be a floating-point tensor, got {leaf.dtype}; convert it with .float()")
        return SteadyVariable(name, Derived(identity, leaf))
    if isinstance(leaf, Derived):
        return SteadyVariable(name, leaf)
    if isinstance(leaf, OuterVariable):
        return leaf
    raise InputError(
        f"{name()} must be a floating-point tensor, got {type(leaf).__name__}; wrap numbers with torch.tensor(...), "
        "and keep constants out of `outer`"
    )


def check_steady(tree: PyTree, who: str, advice: str) -> None:
    """Raise InputError if an outer variable draws anew in every step."""
    for place, leaf in enumerate(optree.tree_leaves(tree)):
        if not isinstance(leaf, Tensor | Derived) and isinstance(leaf, OuterVariable):
            raise InputError(
                f"{who} needs outer variables that are tensors or Derived, but "
                f"{optree.tree_accessors(tree)[place].codify('outer')} is a {type(leaf).__name__}, which draws anew in "
                f"every step; {advice}"
            )


class Theta:
    """The tensors that the outer variables are made of, for methods that go through θ one scalar at a time.

    Args:
        outer: pytree of the outer variables.
        method: who asks, for the message.

    Attributes:
        variables: the outer variables.
        tensors: their tensors: the plain ones, and θ of every `Derived`.
        paths: what to call each tensor.
        owners: index of the outer variable that each belongs to.

    Raises:
        InputError: an outer variable draws anew in every step, or is complex.
    """

    def __init__(self, outer: PyTree, method: str) -> None:
        check_steady(outer, method, "use Reverse() or Implicit()")
        found = Outer(outer)
        self._spec = found.spec
        self.variables: list[SteadyVariable] = []
        self.tensors: list[Tensor] = []
        self.paths: list[str] = []
        self.owners: list[int] = []
        for name, variable in zip(found.paths, found.steady, strict=True):
            root, leaves = name if variable.is_tensor else f"{name}.theta", variable.derived.leaves
            self.paths += [accessor.codify(root) for accessor in optree.tree_accessors(variable.derived.theta)]
            self.owners += [len(self.variables)] * len(leaves)
            self.tensors += detached(leaves)
            self.variables.append(variable)
        for path, tensor in zip(self.paths, self.tensors, strict=True):
            if tensor.is_complex():
                raise InputError(
                    f"{method} needs real outer variables, but {path} is {tensor.dtype}; use Reverse(), or split it "
                    "with torch.view_as_real"
                )

    def grads(self, values: Sequence[Any]) -> PyTree:
        """Return the pytree of hypergradients, or of anything there is one of for every tensor."""
        remaining = iter(values)
        parts = [
            optree.tree_unflatten(v.derived.spec, [next(remaining) for _ in v.derived.leaves]) for v in self.variables
        ]
        return optree.tree_unflatten(self._spec, parts)

    def outer(self, tensors: Sequence[Tensor]) -> PyTree:
        """Return the outer variables with these tensors in place of their own."""
        thetas = self._spec.flatten_up_to(self.grads(tensors))
        leaves = [
            theta if v.is_tensor else Derived(v.derived.function, theta)
            for v, theta in zip(self.variables, thetas, strict=True)
        ]
        return optree.tree_unflatten(self._spec, leaves)


def unit(like: Tensor, index: int) -> Tensor:
    """Return the tensor that is one at a flat index and zero elsewhere."""
    result = torch.zeros(like.shape, dtype=like.dtype, device=like.device)
    result.view(-1)[index] = 1
    return result
