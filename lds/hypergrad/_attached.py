r"""Whether autograd sees all that a step does: what no derivative can show of itself.

A cut path, a write behind autograd's back or a wrong derivative of an operation leave a hypergradient that looks like
any other. Three watchers look for them: `Attached` at what the sweep reaches, `Walk` at the graphs, and `Spot` at the
values of one step.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
import warnings
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, TypeAlias

import optree
import torch
from torch import Tensor, nn

from lds._frames import frames_of_ours
from lds._random import SPOT, reseed
from lds._updater import State
from lds.errors import DerivativeWarning, ForeignTensorWarning, InputError, ReplayError, UnreachedWarning
from lds.hypergrad._dynamics import Costate, Dynamics, Increments, Step, StepGraph
from lds.hypergrad._guards import Watcher, leaves_of, step_error
from lds.hypergrad._outer import Outer, SteadyTracer, SteadyVariable, copied, is_differentiable
from lds.hypergrad._suspects import unrepeatable

# Operations that torch cannot differentiate again, by parts of the names of their nodes, and what to use instead.
_INSTEAD = {
    "CdistBackward": 'torch.cdist(…, compute_mode="use_mm_for_euclid_dist")',
    "EmbeddingBag": "torch.nn.functional.embedding(…).mean(…)",
    "ScaledDotProduct": "sdpa_kernel(SDPBackend.MATH) of torch.nn.attention, as a context around the call",
}
# These have a node all the same, which raises when it is reached.
_RAISING = ("CdistBackwardBackward0", "EmbeddingBagBackwardBackward0")
# Operations with a kink or a jump, by parts of the names of their nodes.
_KINKED = re.compile(
    "relu|threshold|hardtanh|hardswish|hardsigmoid|shrink|abs|sgn|sign|clamp|where|max|min|sort|topk|median|kthvalue"
    "|norm|round|floor|ceil|trunc|frac|fmod|remainder|heaviside|maskedfill|maskedselect|margin",
    re.IGNORECASE,
)


class Attached(Watcher):
    """Checks that F and Φ have a gradient path to what they depend on, and notes which outer variables have none."""

    def __init__(self) -> None:
        self._end = -1
        self._unseen = False
        self._looks = 0
        self._reached: set[int] = set()

    def start(self, dynamics: Dynamics, final: State, graph: StepGraph) -> None:
        """Note where the sweep begins, and whether the outer objective is somebody else's to differentiate."""
        self._end, self._unseen = final.step - dynamics.start, dynamics.attached

    def before(self, t: int, dynamics: Dynamics, step: Step, graph: StepGraph, costate: Costate) -> None:
        """Raise InputError if nothing of the step's result has a gradient path."""
        if not any(isinstance(y, Tensor) and y.requires_grad for y in graph.results):
            raise InputError(
                f"the step of {type(dynamics.updater).__name__} must be differentiable in the state and in the "
                "outer variables, but its result is detached from both; compute it without .detach(), .item() or "
                "torch.no_grad()"
            )

    def after(self, t: int, costate: Costate, increments: Increments) -> None:
        """Raise InputError if F reaches nothing."""
        reached = [i for i, cotangents in enumerate(increments) if any(c is not None for c in cotangents)]
        if t == self._end and not reached and all(p is None for p in costate):
            raise InputError(
                "the outer objective must depend on params or on outer, but its value has no gradient path to either; "
                "compute it from the arguments it is called with (of a module: params, call = functional(module), then "
                "call(params, x)), without .item(), .detach() or torch.no_grad()"
            )
        self._reached.update(reached)
        self._looks += 1

    def warn_unreached(self, outer: Outer, steps: int) -> None:
        """Warn of outer variables that neither F nor any of the swept steps reached; not where F was not seen."""
        if self._unseen:
            return
        paths = [path for i, path in enumerate(outer.paths) if i not in self._reached]
        if steps and paths and self._looks == steps + 1:  # A resumed sweep has not seen all.
            warnings.warn(
                f"nothing depends on {', '.join(paths)}, neither the outer objective nor any of the {steps} steps that "
                "were swept, so its hypergradient is zero; use it in the objectives or in the updater, take a larger "
                "horizon if earlier steps use it, or leave it out of outer",
                UnreachedWarning,
                stacklevel=frames_of_ours(),
            )


class Walk(Watcher):
    """Walks over the graphs of F and of the last step, for what a derivative cannot show.

    That is a trainable tensor that is neither in params nor in outer, as a module's own weight or a closure over θ, and
    an operation whose derivative cannot be differentiated again.

    Attributes:
        kinked: whether the graph of the last step holds an operation with a kink or a jump.
    """

    def __init__(self) -> None:
        self._end = -1
        self.kinked = False

    def start(self, dynamics: Dynamics, final: State, graph: StepGraph) -> None:
        """Warn of tensors that F takes as constants."""
        self._end = final.step - dynamics.start
        if not dynamics.outer.random:  # A structure has leaves of its own.
            _walk(graph, "the outer objective", "a derivative", foreign=_what_to_do(dynamics))

    def before(self, t: int, dynamics: Dynamics, step: Step, graph: StepGraph, costate: Costate) -> None:
        """Do so for the last step, and raise InputError where a second derivative is missing."""
        if t == self._end - 1:
            self.kinked = walk_step(dynamics, graph, foreign=not dynamics.outer.random)


Foreign: TypeAlias = Literal["warn", "raise", "pass"]


def _what_to_do(dynamics: Dynamics) -> Foreign:
    """Return what to do about foreign tensors: whoever trains one waits for its gradient where autograd goes on."""
    return "raise" if dynamics.attached else "warn"


def walk_step(dynamics: Dynamics, graph: StepGraph, *, foreign: bool = True) -> bool:
    """Tell whether the graph of a step holds an operation with a kink or a jump.

    Args:
        dynamics: Φ.
        graph: the step's graph.
        foreign: whether to look for foreign trainable tensors, too.

    Raises:
        InputError: an operation has no second derivative.
    """
    act: Foreign = _what_to_do(dynamics) if foreign else "pass"
    names = _walk(graph, "the inner objective, or the step,", "a second derivative", foreign=act)
    return _KINKED.search(" ".join(names)) is not None


def _walk(graph: StepGraph, who: str, needed: str, *, foreign: Foreign) -> set[str]:
    """Return the names of the nodes of a graph; look at each of them on the way."""
    steady = [tracer for tracer in graph.tracers if isinstance(tracer, SteadyTracer)]
    known = {id(x) for x in (*graph.leaves, *(x for tracer in steady for x in tracer.leaves))}
    # A leaf that an objective made for itself, such as the points of a gradient penalty, is held by nobody. Neither is
    # the tracer of an earlier step in a graph that somebody kept, which shares its memory with θ.
    shown = {_storage(x) for tracer in steady for x in tracer.leaves if x.numel()}
    ahead: list[Any] = [y.grad_fn for y in graph.results if isinstance(y, Tensor)]
    seen = set(ahead)
    names: set[str] = set()
    strangers: list[Tensor] = []
    arrives = False
    for node in ahead:  # Which grows on the way.
        if node is None:
            continue
        name = node.name()
        names.add(name)
        if name == "torch::autograd::AccumulateGrad":
            arrives = arrives or id(node.variable) in known
            held = sys.getrefcount(node.variable) > _references_of_none()
            if id(node.variable) not in known and (held or _storage(node.variable) in shown):
                strangers.append(node.variable)
        behind = [n for n, _ in node.next_functions]
        if name in _RAISING or name.endswith("::NotImplemented"):
            around = [name, *(n.name() for n in behind if n is not None)]
            instead = [text for part, text in _INSTEAD.items() if any(part in n for n in around)]
            raise InputError(
                f"{who} must have {needed}, but torch has none of an operation in it "
                f"({', '.join(around)}); use {instead[0] if instead else 'other operations'}"
            )
        ahead += [n for n in behind if n not in seen]
        seen.update(behind)
    if foreign != "pass" and strangers and arrives:  # Where nothing else arrives, that is an error.
        shapes = ", ".join(sorted({str(tuple(x.shape)) for x in strangers}))
        text = (
            f"{who} also depends on a trainable tensor of shape {shapes} that is neither in params nor in outer; it is "
            "treated as a constant: compute with the arguments (of a module: params, call = functional(module)), or "
            "detach it"
        )
        if foreign == "raise":
            raise InputError(f"unroll carries the gradient on to params and outer alone, but {text}")
        warnings.warn(text, ForeignTensorWarning, stacklevel=frames_of_ours())
    return names


@cache
def _references_of_none() -> int:
    """Return the number of references to a leaf, asked as it is above, that only its graph holds."""
    with torch.enable_grad():
        node = torch.zeros((), requires_grad=True).clone().grad_fn.next_functions[0][0]  # type: ignore[union-attr]
    return sys.getrefcount(node.variable)  # type: ignore[union-attr]


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr() if x.layout == torch.strided else id(x)


@contextmanager
def settled_by_differences() -> Iterator[None]:
    """Keep the warnings of `Attached` and `Spot` quiet, where central differences will tell all that they can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DerivativeWarning)
        warnings.simplefilter("ignore", UnreachedWarning)
        yield


class Spot(Watcher):
    """Looks at the values of the last step: does it repeat, and are its derivatives those of its values?

    Args:
        walk: a watcher that is called before this one.
    """

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._final: State | None = None
        self._end = -1
        self._last: tuple[Dynamics, Step, Costate] | None = None

    def start(self, dynamics: Dynamics, final: State, graph: StepGraph) -> None:
        """Note the final state."""
        self._final, self._end = final, final.step - dynamics.start

    def before(self, t: int, dynamics: Dynamics, step: Step, graph: StepGraph, costate: Costate) -> None:
        """Note the last step."""
        if t == self._end - 1:
            self._last = dynamics, Step(step.leaves, step.draws), costate

    def after(self, t: int, costate: Costate, increments: Increments) -> None:
        """Look at the last step."""
        if self._last is None or self._final is None:
            return
        (dynamics, step, later), final = self._last, leaves_of(self._final)
        self._last = self._final = None
        product = Product(later, costate, increments)
        spot_check(dynamics, t, step, final, product, kinked=self._walk.kinked)


# How often a problem was met, by what it looks like; of the latest ones.
_MET: dict[Hashable, int] = {}
_MOST = 4096


def is_due(dynamics: Dynamics) -> bool:
    """Tell whether to look at the values of a step of a problem that is solved again and again, as `unroll` is.

    It is at the first, second, fourth, eighth, … time: a slip is in the code, which is met in the first call, and the
    look would take a good part of the time of a few steps. Problems are told apart by the code of the objective and of
    the updater, by the flags that they hold, and by the kinds of their tensors.
    """
    look = tuple(map(_trait, (inspect.unwrap(dynamics.inner), dynamics.updater))), tuple(dynamics.spec.paths)
    if len(_MET) > _MOST:
        _MET.clear()
    times = _MET[look] = _MET.get(look, 0) + 1
    return times & (times - 1) == 0


def _trait(value: Any, depth: int = 3) -> Hashable:
    """Return what a problem is told by of a value that its functions hold."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.requires_grad
    if isinstance(value, nn.Module):
        return type(value), value.training
    if not depth:
        return str(type(value))
    if isinstance(value, partial):
        return tuple(_trait(x, depth - 1) for x in (value.func, *value.args, *value.keywords.values()))
    if inspect.ismethod(value):
        return value.__func__.__code__, _trait(value.__self__, depth - 1)
    if inspect.isfunction(value):
        held: list[Any] = list(value.__defaults__ or ())
        for cell in value.__closure__ or ():
            with suppress(ValueError):  # Empty as yet.
                held.append(cell.cell_contents)
        return value.__code__, *(_trait(x, depth - 1) for x in held)
    return type(value), *(_trait(x, depth - 1) for x in getattr(value, "__dict__", {}).values())


@dataclass(frozen=True)
class Product:
    r"""A vector-Jacobian product of step t.

    Attributes:
        later: P_{t+1}, which was pulled back.
        costate: P_t; all None where it was not asked for.
        increments: P_{t+1} ∂Φ/∂θ.
    """

    later: Costate
    costate: Costate
    increments: Increments


def spot_check(
    dynamics: Dynamics, t: int, step: Step, results: Sequence[Any], product: Product, *, kinked: bool
) -> None:
    r"""Compare a step's vector-Jacobian product with the step itself, a little way off.

    .. math:: \langle P_{t+1}, \Phi(w + \varepsilon u, \theta + \varepsilon v) - \Phi(w, \theta) \rangle / \varepsilon
        = \langle P_t, u \rangle + \langle P_{t+1} \partial_\theta \Phi, v \rangle + O(\varepsilon)

    One evaluation of Φ at a random (u, v) tells, as long as all is well. From both sides ⟨P_{t+1}, u⟩ is taken off, for
    a step is a small one: w_{t+1} = w_t − η ∇L. Where the sides differ, the step is run again as it was, and then moved
    in the state and in each outer variable by itself, at three sizes of ε. Only a difference that stays the same, and
    is the same on both sides of the point, is one of derivatives: rounding, a kink or a jump changes it.

    In single precision a step over many data crosses a kink of the inner objective at any ε that rounding allows. Where
    there are kinks the state is not moved then, so that a cut path from it is not found.

    Args:
        dynamics: Φ.
        t: the step.
        step: the state before it, and what it was shown.
        results: the state after it, as it was recorded.
        product: what the sweep made of it.
        kinked: whether its graph holds an operation with a kink or a jump.

    Raises:
        InputError: an outer variable changes the step and has no gradient path to its result.
        ReplayError: the step does not repeat.

    Warns:
        DerivativeWarning: the vector-Jacobian product is not that of the step.
    """
    probe = _Probe(dynamics, t, step, results, product)
    check_unreached(dynamics, t, step, results, product)
    moved = probe.movable(kinked=kinked)
    if not moved:
        probe.repeat()
        return
    found = probe.compare(moved, probe.epsilon)
    if found is not None and found.agrees:
        return
    probe.repeat()
    wrong = [(source, found) for source in moved if (found := probe.disagreement(source)) is not None]
    if wrong:
        (source, found), others = wrong[0], [probe.name(other) for other, _ in wrong[1:]]
        also = f" (nor in {', '.join(others)})" if others else ""
        warnings.warn(
            f"the derivative of the step of {type(dynamics.updater).__name__} in {probe.name(source)} is not that of "
            f"its values: a small change moves the result by {found.slope:.3g} along the costate, but the vector-"
            f"Jacobian product says {found.derivative:.3g}{also}. A path may be cut: take inner gradients with "
            "lds.updaters.gradient (or create_graph=True), without .detach(), .item() or torch.no_grad(). Or torch has "
            "a derivative wrong, as the second one of weight_norm: see the list in docs/troubleshooting.md. If it is "
            "meant, as in a straight-through estimator, filter DerivativeWarning",
            DerivativeWarning,
            stacklevel=frames_of_ours(),
        )


# Where the state is moved, in place of the index of an outer variable.
_STATE = -1
# Between the rounding of double and that of single precision.
_SINGLE = 1e-12


@dataclass(frozen=True)
class _Comparison:
    """What a move of size ε came to, over ε; ⟨P_{t+1}, u⟩ is taken off.

    Attributes:
        slope: by the values of the step.
        derivative: by the vector-Jacobian product.
        epsilon: ε.
        agrees: whether both are the same up to rounding and ε.
    """

    slope: float
    derivative: float
    epsilon: float
    agrees: bool


class _Probe:
    """One step, and what a move of its arguments makes of its result."""

    def __init__(self, dynamics: Dynamics, t: int, step: Step, results: Sequence[Any], product: Product) -> None:
        self._dynamics, self._t, self._step, self._results = dynamics, t, step, results
        self._product = product
        tensors = [x for x in results if isinstance(x, Tensor) and x.is_floating_point()]
        self._eps = max((torch.finfo(x.dtype).eps for x in tensors), default=1.0)
        self.epsilon = self._eps**0.4
        self._tolerance = 1e-4 if self._eps < _SINGLE else 2e-2

    def name(self, source: int) -> str:
        """Return what to call a source."""
        return "the state" if source == _STATE else self._dynamics.outer.paths[source]

    def movable(self, *, kinked: bool) -> list[int]:
        """Return what can be moved and has a derivative to compare with."""
        if self._eps > 1e-5:  # Half precision: no move is both small and more than rounding.
            return []
        sources = []
        if any(p is not None for p in self._product.costate) and not (kinked and self._eps >= _SINGLE):
            sources.append(_STATE)
        steady = self._dynamics.outer.steady
        for i, variable in enumerate(self._dynamics.outer.variables):
            if variable in steady and any(c is not None for c in self._product.increments[i]):
                sources.append(i)
        return sources

    def repeat(self) -> None:
        """Raise ReplayError if the step, run again as it was, gives another result or an error."""
        try:
            again = self._dynamics.advance(self._t, copied(self._step.leaves), self._step.draws).leaves
        except Exception as error:
            raise ReplayError(
                f"step {self._t} was recorded, but raised {type(error).__name__} ({error}) when it was run again: "
                f"{unrepeatable(self._dynamics.updater, self._dynamics.inner)}"
            ) from error
        step_error(self._dynamics, self._t, self._step, again, self._results)

    def disagreement(self, source: int) -> _Comparison | None:
        """Return how slope and derivative differ in one source, None unless they do for certain."""
        found: list[_Comparison] = []
        for factor in (4.0, 1.0, 0.25):
            one = self.compare([source], factor * self.epsilon)
            # A result that stays the same is that of a jump, whose derivative somebody made up on purpose.
            if one is None or one.agrees or one.slope == 0:
                return None
            found.append(one)
        slopes = [one.slope for one in found]
        gap = min(abs(one.slope - one.derivative) for one in found)
        spread, noise = max(slopes) - min(slopes), self._noise() / found[-1].epsilon
        # A slope that changes with the size of the move is none: that of a jump grows as the move shrinks.
        if spread > 0.1 * gap or spread > 0.1 * max(map(abs, slopes)) + noise:
            return None
        behind = self.compare([source], -self.epsilon)
        if behind is None or abs(behind.slope - found[1].slope) > 0.2 * gap:
            return None
        return found[1]

    def compare(self, sources: Sequence[int], epsilon: float) -> _Comparison | None:
        """Move the sources by ε; return what came of it, None where the step cannot be run there."""
        dynamics, step = self._dynamics, self._step
        leaves, draws = list(step.leaves), list(step.draws)
        reseed(dynamics.seed, dynamics.start + self._t, SPOT, cuda=dynamics.cuda)
        for source in sources:
            if source == _STATE:
                kinds = enumerate(zip(leaves, dynamics.spec.differentiable, strict=True))
                leaves = [_moved(x, epsilon, i < dynamics.spec.num_params) if can else x for i, (x, can) in kinds]
            else:
                draws[source] = optree.tree_map(lambda x: _moved(x, epsilon, True), draws[source])
        try:
            results = dynamics.advance(self._t, copied(leaves), draws).leaves
        except Exception:
            return None  # Out of the step's domain, such as a probability above 1.
        slope = _sum(self._gains(leaves, results)) / epsilon
        derivative = _sum(self._derivatives(leaves, draws)) / epsilon
        if not (math.isfinite(slope) and math.isfinite(derivative)):
            return None
        gap, size = abs(slope - derivative), max(abs(slope), abs(derivative))
        # What rounding makes is reckoned only where it matters.
        agrees = gap <= self._tolerance * size or gap <= self._tolerance * size + self._noise() / abs(epsilon)
        return _Comparison(slope, derivative, epsilon, agrees)

    def _gains(self, leaves: Sequence[Any], results: Sequence[Any]) -> Iterator[Tensor]:
        """Yield ⟨P_{t+1}, Φ(w + εu, θ + εv) − Φ(w, θ) − εu⟩."""
        pairs = zip(self._product.later, self._step.leaves, self._results, leaves, results, strict=True)
        for p, x, y, x_moved, y_moved in pairs:
            if p is not None:
                yield _dot(p, y_moved - y if x_moved is x else (y_moved - y) - (x_moved - x))

    def _derivatives(self, leaves: Sequence[Any], draws: Sequence[Any]) -> Iterator[Tensor]:
        """Yield ⟨P_t − P_{t+1}, εu⟩ and ⟨P_{t+1} ∂Φ/∂θ, εv⟩."""
        for p, q, x, x_moved in zip(self._product.later, self._product.costate, self._step.leaves, leaves, strict=True):
            if x_moved is not x:
                yield _dot(_minus(q, p), x_moved - x)
        for increments, draw, draw_moved in zip(self._product.increments, self._step.draws, draws, strict=True):
            if draw_moved is not draw:
                tensors = (filter(is_differentiable, optree.tree_leaves(tree)) for tree in (draw, draw_moved))
                for c, x, x_moved in zip(increments, *tensors, strict=True):
                    if c is not None:
                        yield _dot(c, x_moved - x)

    def _noise(self) -> float:
        """Return what rounding may make of ⟨P_{t+1}, Φ⟩."""
        pairs = zip(self._product.later, self._results, strict=True)
        return 4 * self._eps * _sum(torch.linalg.vector_norm(_dense(p) * y) for p, y in pairs if p is not None)


def _moved(x: Any, epsilon: float, zero: bool) -> Any:
    """Return x moved by up to ε of each number towards zero, so that probabilities and variances stay what they are.

    With `zero`, a tensor of zeros is moved away from them.
    """
    if not is_differentiable(x):
        return x
    size = x if not zero or bool(x.any()) else -torch.ones_like(x)
    return torch.addcmul(x, torch.rand_like(x), size, value=-epsilon)


def _dense(p: Tensor) -> Tensor:
    return p if p.layout == torch.strided else p.to_dense()


def _minus(q: Tensor | None, p: Tensor | None) -> Tensor | None:
    return q if p is None else -p if q is None else q - p


def _dot(p: Tensor | None, x: Tensor) -> Tensor:
    """Return ⟨p, x⟩, None standing for zero; a complex number is a pair of real ones."""
    if p is None:
        return x.new_zeros(())
    p = _dense(p)
    return (p.conj() * x).sum().real if p.is_complex() else torch.dot(p.reshape(-1), x.reshape(-1))


def _sum(scalars: Iterable[Tensor]) -> float:
    """Return the sum in double precision, read at once."""
    found = list(scalars)
    if len(found) < 2:
        return float(found[0]) if found else 0.0
    return float(torch.stack([x.double().to(found[0].device) for x in found]).sum())


def check_unreached(dynamics: Dynamics, t: int, step: Step, results: Sequence[Any], product: Product) -> None:
    """Raise InputError if step t changes with an outer variable to which autograd saw no path."""

    def run(draws: Sequence[Any]) -> list[Any]:
        return dynamics.advance(t, copied(step.leaves), draws).leaves

    draws = step.draws
    steady = [
        (i, variable)
        for i, (variable, cotangents) in enumerate(zip(dynamics.outer.variables, product.increments, strict=False))
        if isinstance(variable, SteadyVariable) and all(c is None for c in cotangents)
    ]
    before = run(draws) if steady else []
    for index, variable in steady:
        after = run([*draws[:index], variable.nudged(draws[index]), *draws[index + 1 :]])
        for x, y, result, p in zip(before, after, results, product.later, strict=True):
            # If the step does not repeat bit for bit, a difference proves nothing.
            if p is not None and torch.equal(x, result) and not torch.equal(x, y):
                raise InputError(
                    f"the step of {type(dynamics.updater).__name__} must be differentiable in "
                    f"{variable.name}: its result changes with that variable but is detached from it; "
                    "take inner gradients with lds.updaters.gradient (or create_graph=True), and use no .detach(), "
                    ".item() or torch.no_grad()"
                )
