"""Central differences: the hypergradient without any derivative, and quotients that tell whether to trust them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lds._random import OUTER_DRAW, OUTER_STEP, forked, reseed
from lds._updater import PyTree
from lds.errors import InputError, NumericalError
from lds.hypergrad._diagnostics import HypergradientResult
from lds.hypergrad._dynamics import checked
from lds.hypergrad._guards import check_grad, check_objective
from lds.hypergrad._outer import Theta, is_differentiable, unit
from lds.hypergrad._record import Diagnostics, Problem, Trajectory, later_gradient_norm

EPS = torch.finfo(torch.float64).eps
STEP = EPS ** (1 / 3)
WIDER = 4
# Quotients that differ by more than this share of them are those of two slopes.
DISTINCT = 1e-2
# Rounding of F after a number of steps, in units of that of one operation.
ROUNDINGS = 1000


@dataclass(repr=False)
class FiniteDifferenceDiagnostics(Diagnostics):
    """What central differences notice.

    Attributes:
        runs: number of times that the inner problem was run.
        errors: pytree like `outer` with an estimate for every tensor: the largest difference between the quotient that
            was returned and that of twice the step.

    Example:
        >>> import torch
        >>> from lds.hypergrad import FiniteDifference, hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> result = hypergradient(*problem, updater=SGD(0.25), steps=2, method=FiniteDifference())
        >>> result.diagnostics.runs
        5
    """

    runs: int
    errors: PyTree


@dataclass(frozen=True)
class FiniteDifference:
    r"""Central differences of the outer objective after the inner steps, one scalar of θ at a time.

    .. math::
        \frac{dF}{d\theta_i} \approx \frac{f(\theta + h e_i) - f(\theta - h e_i)}{2 h}, \qquad
        f(\theta) = F(w_T(\theta), \theta), \quad h = \text{step} \cdot \max(1, |\theta_i|)

    Every run has the same seed, and so the same noise. Nothing needs to be differentiable but the whole. In float64
    about eight digits are right where F is smooth, in float32 two or three.

    Memory: one state. Time: four runs of the inner problem for every scalar of θ, and one more.

    Args:
        step: size of h relative to `max(1, |θ_i|)`; None takes the cube root of the rounding error of the coarsest
            dtype among params and outer variables.

    Raises:
        InputError: the step is no positive number.

    Example:
        >>> import torch
        >>> from lds.hypergrad import FiniteDifference, hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> result = hypergradient(*problem, updater=SGD(0.25), steps=2, method=FiniteDifference())
        >>> round(float(result.grad), 3)
        0.938
    """

    step: float | None = None

    def __post_init__(self) -> None:
        if self.step is not None and not 0 < self.step < float("inf"):
            raise InputError(f"step must be a number > 0 or None, got {self.step!r}")

    def solve(self, problem: Problem) -> HypergradientResult[FiniteDifferenceDiagnostics]:
        """Run the inner problem and return the hypergradient.

        Raises:
            InputError: an outer variable draws anew in every step or is complex, or the step is lost in rounding.
            NumericalError: an objective or a difference quotient is NaN or infinite.
        """
        theta = Theta(problem.outer, "FiniteDifference()")
        trajectory, loss = evaluate(problem)
        final, dynamics = trajectory.final_state, trajectory.dynamics
        check_objective(loss, final.step, dynamics.spec.paths, dynamics.spec.flatten(final), dynamics.outer)
        step = self.step
        if step is None:
            tensors = [x for x in dynamics.spec.flatten(final) if is_differentiable(x)] + theta.tensors
            step = max(torch.finfo(x.dtype).eps for x in tensors) ** (1 / 3)
        grads, errors = [], []
        for index, tensor in enumerate(theta.tensors):
            # With the strides of its own shape: θ may be transposed, and is written to by a flat index here.
            grad, error = torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device), 0.0
            for i in range(tensor.numel()):
                direction = unit(tensor, i)
                size = step * max(1.0, abs(float(tensor.reshape(-1)[i])))
                fine, coarse = (difference(problem, theta, index, direction, h) for h in (size, 2 * size))
                grad.view(-1)[i] = fine
                error = max(error, abs(fine - coarse))
            grads.append(grad)
            errors.append(error)
        diagnostics = FiniteDifferenceDiagnostics(
            inner_losses=trajectory.inner_losses,
            _inner_gradient_norm=later_gradient_norm(dynamics, final),
            runs=1 + 4 * sum(x.numel() for x in theta.tensors),
            errors=theta.grads(errors),
        )
        check_grad(dynamics.outer, theta.grads(grads), problem.steps)
        return HypergradientResult(theta.grads(grads), final.params, loss, final, diagnostics)


def evaluate(problem: Problem) -> tuple[Trajectory, float]:
    """Run the inner problem; return its trajectory and F(w_T, θ)."""
    trajectory = problem.record(0)
    dynamics, final = trajectory.dynamics, trajectory.final_state
    with forked(dynamics.cuda), torch.no_grad():
        values = dynamics.outer.unflatten(dynamics.draws(problem.steps, OUTER_DRAW))
        reseed(dynamics.seed, final.step, OUTER_STEP, cuda=dynamics.cuda)
        loss = checked(problem.outer_objective, "outer objective")(final.params, values)
    return trajectory, loss.item()


def moved(problem: Problem, theta: Theta, index: int, change: Tensor) -> Problem:
    """Return the problem with one tensor of θ changed."""
    tensors = [*theta.tensors[:index], theta.tensors[index] + change, *theta.tensors[index + 1 :]]
    return replace(problem, outer=theta.outer(tensors))


def difference(problem: Problem, theta: Theta, index: int, direction: Tensor, size: float) -> float:
    """Return the central difference quotient of F along a direction with one entry of one."""
    tensor = theta.tensors[index]
    # The distance that was really gone, in numbers of the dtype.
    gone = float(((tensor + size * direction).double() - (tensor - size * direction).double()).sum())
    if gone == 0:
        raise InputError(
            f"step must change {theta.paths[index]} in its dtype, {tensor.dtype}, but {size:.3g} is lost in rounding; "
            "choose a larger step, or leave it out"
        )
    ahead, behind = (evaluate(moved(problem, theta, index, h * direction))[1] for h in (size, -size))
    return (ahead - behind) / gone


def slope(problem: Problem, theta: Theta, index: int, direction: Tensor, size: float) -> float:
    """Return the central difference quotient of F in float64 along any direction in one tensor of θ."""
    ahead, behind = (_value(moved(problem, theta, index, h * direction)) for h in (size, -size))
    return (ahead - behind) / (2 * size)


@dataclass(frozen=True)
class Probe:
    """Difference quotients of F along a direction, over ±h and ±4h, and over h on either side."""

    size: float
    value: float
    wide: float
    left: float
    right: float
    wide_gap: float
    noise: float

    @property
    def finite(self) -> bool:
        """Whether F is finite all around."""
        return math.isfinite(self.value) and math.isfinite(self.wide)

    @property
    def flat(self) -> bool:
        """Whether F is the same to the last bit all around."""
        return self.left == self.right == self.value == self.wide == self.wide_gap == 0

    @property
    def spread(self) -> float:
        """How much the quotients over ±h and ±4h differ, an estimate of the error of `value`."""
        return abs(self.value - self.wide)

    def contradicts(self, analytic: float, *, rtol: float, atol: float, scale: float) -> bool:
        """Tell whether a derivative is another than `value`, beyond tolerance and the error of `value` itself."""
        return not abs(analytic - self.value) <= atol + rtol * scale + self.spread

    @property
    def steady(self) -> bool:
        """Whether the quotients over ±h and ±4h are of one slope."""
        return self.spread <= DISTINCT * max(abs(self.value), abs(self.wide)) + self.noise

    @property
    def kink(self) -> bool:
        """Whether the slopes on either side differ, and differ no less closer by, as those of a smooth F would."""
        gap = abs(self.right - self.left)
        return gap > DISTINCT * max(abs(self.left), abs(self.right)) + self.noise and self.wide_gap < 2 * gap


class Prober:
    """Probes of one problem in float64."""

    def __init__(self, problem: Problem, theta: Theta) -> None:
        self._problem = problem
        self._theta = theta
        self._middle = _value(problem)

    def __call__(self, index: int, direction: Tensor) -> Probe:
        """Probe F along a direction in one tensor of θ."""
        place = self._theta.tensors[index][direction != 0]
        h = STEP * max(1.0, float(place.abs().max()))
        far, behind, ahead, beyond = (
            _value(moved(self._problem, self._theta, index, k * h * direction)) for k in (-WIDER, -1, 1, WIDER)
        )
        middle, wide = self._middle, WIDER * h
        return Probe(
            size=h,
            value=(ahead - behind) / (2 * h),
            wide=(beyond - far) / (2 * wide),
            left=(middle - behind) / h,
            right=(ahead - middle) / h,
            wide_gap=abs(beyond - 2 * middle + far) / wide,
            noise=ROUNDINGS * EPS * max(map(abs, (far, behind, middle, ahead, beyond))) / h,
        )


def _value(problem: Problem) -> float:
    """Return F(w_T, θ), NaN where the inner objective is not finite on the way there."""
    try:
        return evaluate(problem)[1]
    except NumericalError:
        return math.nan
