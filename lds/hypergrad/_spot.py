"""The values of one step: does it repeat, and are its derivatives those of its values?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import optree
import torch
from torch import Tensor

from lds._frames import frames_of_ours
from lds._random import SPOT, reseed
from lds._updater import State
from lds.errors import DerivativeWarning, InputError, ReplayError
from lds.hypergrad._attached import Walk
from lds.hypergrad._dynamics import Costate, Dynamics, Increments, Step, StepGraph
from lds.hypergrad._guards import Watcher, leaves_of, step_error
from lds.hypergrad._outer import SteadyVariable, copied, is_differentiable
from lds.hypergrad._suspects import unrepeatable


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
        # The effect of rounding is computed only where it matters.
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
