"""The inner gradient and its vector-Jacobian product as traced programs, without what nobody asks for.

The product needs the graph of the gradient, but not the gradient: eagerly both are computed, in a trace the latter is
dead code. And a graph that is kept saves no more than its arguments.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import optree
import torch
from torch import Tensor

from lds._updater import GradientUpdater, Objective, PyTree, State, as_updater, gradient
from lds.errors import InputError
from lds.hypergrad._attached import walk_step
from lds.hypergrad._dynamics import Costate, Dynamics, Increments, Step, StepGraph
from lds.hypergrad._guards import Watcher
from lds.hypergrad._outer import is_differentiable

_WHERE = "Traced runs the inner objective once and repeats what it did"
_LEAVE = "leave Traced out"
# Values and identities that a program needs not compute: what they return is their argument.
_SAME = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)
# How far a traced step may be from an eager one, in rounding errors: sums may be taken in another order.
_TOLERANCE = 1e3


@dataclass(frozen=True)
class Traced(GradientUpdater):
    r"""An updater whose inner gradient is traced: no work for what nobody asks for, and little memory a kept graph.

    The inner objective is run once by `torch.fx`, which notes the operations of :math:`\nabla_w L(w, \theta)` and of
    its vector-Jacobian product :math:`u \mapsto u\, \partial (\nabla_w L)`. In the latter the gradient itself is dead
    code. All steps repeat these programs. A hypergradient is compared with that of eager steps at both ends of the
    trajectory. With `KeepGradients()` a step of the sweep computes the product and nothing else.

    Each call traces anew, which takes as long as some 20 to 100 steps of a small problem, and two steps are taken
    eagerly as well: it is for long trajectories of an objective that does the same in every step. Measure whether it
    pays for yours.

    Args:
        updater: an updater that works on the inner gradient alone, see `ClipByNorm`.

    Raises:
        InputError: the updater takes no gradient. When it begins: there are batches, or buffers in the params, or an
            outer variable that draws; or the inner objective draws random numbers, looks at values (`if loss > 1`,
            `.item()`), or cannot be traced. In the sweep: an eager step differs; or it is differentiated twice.

    Example:
        >>> import torch
        >>> from lds.hypergrad import KeepGradients, Reverse, Traced, hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> method = Reverse(memory=KeepGradients())
        >>> hypergradient(*problem, updater=Traced(SGD(0.25)), steps=2, method=method).grad
        tensor(0.9375)
    """

    updater: Any
    _last: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        updater = as_updater(self.updater)
        if not isinstance(updater, GradientUpdater) or type(updater).step is not GradientUpdater.step:
            raise InputError(
                "Traced needs an updater that works on the inner gradient alone, got "
                f"{type(updater).__name__}; derive it from lds.updaters.GradientUpdater, or {_LEAVE}"
            )
        object.__setattr__(self, "updater", updater)

    def init(self, params: PyTree) -> PyTree:
        """Return the slots of the updater inside."""
        return self.updater.init(params)

    def update(self, grads: PyTree, state: State, outer: PyTree) -> State:
        """Return the state after one step of the updater inside."""
        new: State = self.updater.update(grads, state, outer)
        return new

    def step(self, state: State, outer: PyTree, inner: Objective) -> State:
        """Return the state after one update with the traced gradient."""
        return self.update(self.traced(state.params, outer, inner), state, outer)

    def traced(self, params: PyTree, outer: PyTree, inner: Objective, known: PyTree = None) -> PyTree:
        """Return the inner gradient, with the traced product for a derivative; its value may be `known`."""
        w, spec = optree.tree_flatten(params)
        thetas, outer_spec = optree.tree_flatten(outer)
        program = self._program(inner, w, spec, thetas, outer_spec)
        values = [None] * len(w) if known is None else optree.tree_leaves(known)
        found = _Gradient.apply(program, values, len(w), *w, *thetas)  # type: ignore[no-untyped-call]
        return spec.unflatten(found)

    def _program(
        self, inner: Objective, w: list[Any], spec: optree.PyTreeSpec, thetas: list[Any], outer_spec: optree.PyTreeSpec
    ) -> _Program:
        """Return the programs of an objective, traced where it is not that of the last call."""
        key = [spec, outer_spec, *((x.shape, x.dtype, x.device, x.stride()) for x in (*w, *thetas))]
        function = getattr(inner, "traced_as", inner)
        if not self._last or self._last[0] is not function or self._last[1] != key:
            self._last[:] = [function, key, _Program(inner, w, spec, thetas, outer_spec)]
        program: _Program = self._last[2]
        return program


class _Program:
    """∇_w L and its vector-Jacobian product as functions of flat leaves."""

    def __init__(
        self, inner: Objective, w: list[Any], spec: optree.PyTreeSpec, thetas: list[Any], outer_spec: optree.PyTreeSpec
    ) -> None:
        count, total = len(w), len(w) + len(thetas)

        def grads(leaves: Sequence[Tensor], create_graph: bool) -> Sequence[Tensor]:
            with torch.set_grad_enabled(create_graph):
                given = spec.unflatten(leaves[:count]), outer_spec.unflatten(leaves[count:])
                return optree.tree_leaves(gradient(inner, *given))

        def of_gradient(*leaves: Tensor) -> Sequence[Tensor]:
            return grads(leaves, create_graph=False)

        def of_product(*given: Tensor) -> Sequence[Tensor | None]:
            leaves = [x.detach().requires_grad_() for x in given[:total]]
            with torch.enable_grad():
                found = grads(leaves, create_graph=True)
            pairs = [(g, u) for g, u in zip(found, given[total:], strict=True) if g.requires_grad]
            if not pairs:
                return [None] * total
            ys, us = zip(*pairs, strict=True)
            return torch.autograd.grad(ys, leaves, us, allow_unused=True)

        values = [x.detach() for x in (*w, *thetas)]
        self.gradient = _trace(of_gradient, values)
        self.product = _trace(of_product, [*values, *map(torch.ones_like, values[:count])])


def _trace(function: Callable[..., Sequence[Any]], values: Sequence[Tensor]) -> Callable[..., Sequence[Any]]:
    """Return what a function does at these values as a program."""
    from torch.fx.experimental.proxy_tensor import make_fx  # Slow to import.

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = make_fx(function, tracing_mode="real")(*values)
    except InputError:
        raise
    except Exception as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        cause = "looks at values, as `if loss > 1` and .item() do" if "tracing tensor" in str(error) else "failed there"
        raise InputError(
            f"{_WHERE}, but the inner objective {cause}: {text}; compute it without, or {_LEAVE}"
        ) from error
    graph = module.graph
    nodes = [n for n in graph.nodes if n.op == "call_function" and isinstance(n.target, torch._ops.OpOverload)]
    drawn = sorted({str(n.target) for n in nodes if torch.Tag.nondeterministic_seeded in n.target.tags})
    if drawn:
        raise InputError(
            f"{_WHERE}, but the inner objective draws random numbers ({', '.join(drawn)}), which must be new in every "
            f"step; {_LEAVE}"
        )
    if not any(n.target._schema.is_mutable for n in nodes):  # Else a value is not the same at two places.
        seen: dict[Any, Any] = {}
        for node in nodes:
            same = node.args[0] if node.target in _SAME else seen.setdefault(_key(node), node)
            if same is not node:
                node.replace_all_uses_with(same)
                graph.erase_node(node)
    graph.eliminate_dead_code()
    module.recompile()
    forward: Callable[..., Sequence[Any]] = module.forward
    return forward


def _key(node: Any) -> Any:
    return node.target, str(node.args), str(node.kwargs)


class _Gradient(torch.autograd.Function):
    """∇_w L as a function of w and θ."""

    @staticmethod
    def forward(ctx: Any, program: _Program, known: Sequence[Tensor | None], count: int, *leaves: Tensor) -> Any:
        ctx.program, ctx.count = program, count
        ctx.save_for_backward(*leaves)
        found: Sequence[Any] = program.gradient(*leaves) if any(x is None for x in known) else known
        return tuple(x.clone() if any(x is y for y in leaves) else x for x in found)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise InputError(f"a traced step can be differentiated once, but create_graph=True asks for more; {_LEAVE}")
        return (None, None, None, *ctx.program.product(*ctx.saved_tensors, *cotangents))


def check_traceable(dynamics: Dynamics, batches: object) -> None:
    """Raise InputError where the inner objective is another one in every step."""
    if batches is not None:
        raise InputError(f"{_WHERE}, but with batches it is another one in every step; {_LEAVE}")
    if dynamics.outer.random:
        raise InputError(f"{_WHERE}, but an outer variable draws anew in every step; {_LEAVE}")


def known_step(dynamics: Dynamics, t: int, leaves: Sequence[Any], draws: Sequence[Any], gradients: PyTree) -> StepGraph:
    """Return the graph of step t of a traced updater, whose gradient is known."""
    return replace(dynamics, updater=_Knowing(dynamics.updater, gradients)).linearise(t, leaves, draws)


@dataclass(frozen=True)
class _Knowing:
    """A traced updater that is given the gradient's value."""

    updater: Any
    gradients: PyTree

    def init(self, params: PyTree) -> PyTree:
        return self.updater.init(params)

    def step(self, state: State, outer: PyTree, inner: Objective) -> State:
        g = self.updater.traced(state.params, outer, inner, self.gradients)
        new: State = self.updater.update(g, state, outer)
        return new


class SameAsEager(Watcher):
    """Compares the last and the first step of a traced sweep with eager ones, and walks over the graph of the last."""

    def __init__(self, first: int, end: int) -> None:
        self._ends = (first, end - 1)
        self._eager: tuple[Dynamics, list[Any], list[Tensor | None]] | None = None

    def before(self, t: int, dynamics: Dynamics, step: Step, graph: StepGraph, costate: Costate) -> None:
        """Take the step eagerly and pull the costate back."""
        self._eager = None
        if t not in self._ends:
            return
        traced: Any = dynamics.updater
        eager = replace(dynamics, updater=traced.updater).linearise(t, step.leaves, step.draws)
        if t == self._ends[1]:
            walk_step(dynamics, eager)
        inputs = [x for x in eager.leaves if is_differentiable(x)]
        inputs += [x for tracer in eager.tracers for x in tracer.inputs() if isinstance(x, Tensor)]
        flowing = [(y, p) for y, p in zip(eager.results, costate, strict=True) if p is not None and y.requires_grad]
        found: Sequence[Tensor | None] = [None] * len(inputs)
        if flowing:
            ys, ps = zip(*flowing, strict=True)
            found = torch.autograd.grad(ys, inputs, ps, allow_unused=True)
        self._same(dynamics, t, "state", list(map(_detached, eager.results)), list(map(_detached, graph.results)))
        self._eager = dynamics, eager.leaves, list(found)

    def after(self, t: int, costate: Costate, increments: Increments) -> None:
        """Compare what came of it."""
        if self._eager is None:
            return
        (dynamics, leaves, found), self._eager = self._eager, None
        can = [is_differentiable(x) for x in leaves]
        ours = [p for p, ask in zip(costate, can, strict=True) if ask]
        if t == 0 and all(p is None for p in ours):  # Not asked for.
            found[: len(ours)] = [None] * len(ours)
        self._same(dynamics, t, "derivative", found, [*ours, *(c for part in increments for c in part)])

    def _same(self, dynamics: Dynamics, t: int, what: str, eager: Sequence[Any], traced: Sequence[Any]) -> None:
        pairs = [(x, y) for x, y in zip(eager, traced, strict=True) if isinstance(x, Tensor) or isinstance(y, Tensor)]
        pairs = [(torch.zeros_like(y) if x is None else x, torch.zeros_like(x) if y is None else y) for x, y in pairs]
        pairs = [(x, y) for x, y in pairs if is_differentiable(x) and x.numel()]
        if not pairs:
            return
        norm = torch.linalg.vector_norm
        size = max(float(norm(x)) for x, _ in pairs)
        error = max(float(norm(x - y)) for x, y in pairs)
        if error > _TOLERANCE * max(torch.finfo(x.dtype).eps for x, _ in pairs) * size:
            raise InputError(
                f"{_WHERE}, but the {what} of an eager step {t} differs by {error / (size or 1.0):.2g} of its size: "
                "the inner objective reads something besides its arguments that changed, or chooses its operations by "
                f"it; make it a function of its arguments, or {_LEAVE}"
            )


def _detached(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x
