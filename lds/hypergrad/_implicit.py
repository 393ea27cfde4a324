"""Implicit differentiation: the hypergradient at a minimum, whatever way led there."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from typing import Any, Literal, TypeAlias, get_args

import optree
import torch
from torch import Tensor

from lds._frames import frames_of_ours
from lds._random import forked
from lds._updater import Objective, PyTree, State, WithBuffers, gradient, trained
from lds.errors import InputError, NumericalError, PremiseWarning
from lds.hypergrad._attached import Attached, walk_step
from lds.hypergrad._diagnostics import HypergradientResult
from lds.hypergrad._dynamics import Costate, Dynamics, Step, flattened
from lds.hypergrad._guards import Finite, Notes, Watchers, all_finite, check_count, check_unchanged
from lds.hypergrad._outer import Accumulators, detached, is_differentiable
from lds.hypergrad._record import Diagnostics, Problem, Trajectory, later_gradient_norm
from lds.hypergrad._reverse import first_costate, pull_back
from lds.hypergrad._solvers import (
    Dense,
    Matrix,
    Solution,
    Solve,
    conjugate_gradients,
    largest_eigenvalue,
    refined,
    rounding,
    series,
)
from lds.hypergrad._spot import Product, spot_check

Solver: TypeAlias = Literal["cg", "neumann", "fixed_point", "dense"]
SERIES = ("neumann", "fixed_point")
# Relative error to which the way to the minimum is estimated.
ROUGH = 0.1
# A solution this far off is none, whatever rounding explains.
LEAST = 1e-2
ADVICE: dict[Solver, str] = {
    "cg": 'raise max_iterations or tol, or use solver="dense" where the params are few',
    "neumann": 'raise max_iterations, choose a step_size below 2 over the largest curvature, or use solver="cg"',
    "fixed_point": "raise max_iterations, or let Φ contract: lower its step size, or add a penalty",
    "dense": "look at the inner objective at w_T, whose Hessian is not finite",
}


@dataclass(repr=False)
class ImplicitDiagnostics(Diagnostics):
    """What implicit differentiation notices: whether its premise, an isolated minimum, holds.

    Attributes:
        distance: estimated distance of w_T to the stationary point, relative to the larger of ‖w_T‖ and ‖w_T − w_0‖;
            infinite where none is in sight. That of a step of Newton, ‖(∇²L)⁻¹∇L‖, which the same solver finds to a
            tenth: exact where L is quadratic. For "fixed_point" by the rate ρ, ‖Φ(w_T) − w_T‖/(1 − ρ): an upper bound
            where ∂Φ is symmetric and ρ is its largest eigenvalue.
        curvature: smallest and largest eigenvalue of the Hessian ("dense"), or Rayleigh quotient that the solver met;
            NaN for "fixed_point".
        contraction: rate ρ at which the residual shrank in the later iterations of "neumann" or "fixed_point", else
            NaN. It is the largest eigenvalue once all that shrinks faster is gone.
        residual: relative residual of the linear system.
        error: estimated relative error of its solution v: by how much a second look changed it, infinite where there
            was none. Of "dense", a bound by rounding and the ratio of the curvatures.
        iterations: number of products with the Hessian, or with ∂Φ/∂w, that the solver took for v.
        converged: whether residual and error are at most `tol`, or what rounding explains at these curvatures.

    Example:
        >>> import torch
        >>> from lds.hypergrad import Implicit, hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> result = hypergradient(*problem, updater=SGD(0.25), steps=40, method=Implicit())
        >>> result.diagnostics.converged
        True
    """

    distance: float
    curvature: tuple[float, float]
    contraction: float
    residual: float
    error: float
    iterations: int
    converged: bool


@dataclass(frozen=True)
class Implicit:
    r"""The hypergradient at a minimum of the inner objective, by the implicit function theorem.

    Pedregosa, `Hyperparameter optimization with approximate gradient <https://arxiv.org/abs/1602.02355>`_ (ICML 2016);
    Lorraine et al., `Optimizing Millions of Hyperparameters by Implicit Differentiation
    <https://arxiv.org/abs/1911.02590>`_ (AISTATS 2020); Grazzi et al., `On the Iteration Complexity of Hypergradient
    Computation <https://arxiv.org/abs/2006.16218>`_ (ICML 2020):

    .. math::
        \frac{dF}{d\theta} = \partial_\theta F - v\, \partial^2_{w\theta} L, \qquad \nabla^2_w L\; v = \partial_w F

    at w_T, with L the inner objective and F the outer one. What Φ alone reads, such as a learning rate, has no part in
    this. "fixed_point" differentiates the fixed point of Φ itself, the whole state with the slots, and what Φ reads:

    .. math::
        \frac{dF}{d\theta} = \partial_\theta F + v\, \partial_\theta \Phi, \qquad
        v = \partial_w F + v\, \partial_w \Phi

    Noise: L, or Φ, is that of one step, the one that would come next; an outer variable that draws is drawn once. With
    minibatches (`batches=` of `hypergradient`) L is the mean over the next `batches` of them, the stochastic implicit
    gradient of Grazzi et al., `Convergence Properties of Stochastic Hypergradients
    <https://arxiv.org/abs/2011.07122>`_ (AISTATS 2021). They are of one epoch as far as that has as many, so that as
    many as an epoch has, of equal size, give the gradient of the whole data.

    Memory: the final state, and the graph of one step, or of `batches` inner gradients. Time: that of the inner
    problem, and one product with the Hessian an iteration, which takes as long as a step of the sweep, or as so many.
    The solver goes on to a hundredth of the residual to see how far v is off, and solves once more, roughly, to see how
    far the minimum is away. What hides from both is an eigenvector of little curvature that holds less than a hundredth
    of the residual, or of the inner gradient.

    Where the premise fails a `PremiseWarning` says so; `warnings.simplefilter("error", PremiseWarning)` makes it an
    error.

    Args:
        solver: "cg", conjugate gradients; "neumann", the series α Σ_k (I − α∇²L)^k ∂F; "fixed_point", the series
            Σ_k ∂F (∂Φ)^k; "dense", the explicit Hessian and its eigenvalues, for up to a few thousand params: those
            directions that have no curvature are left out.
        tol: relative residual, and relative error of v, to stop at; None takes the root of the rounding of the params'
            dtype.
        max_iterations: number of iterations to stop after.
        step_size: α of "neumann", to be below 2 over the largest eigenvalue; None takes 1 over it, by 20 steps of the
            power iteration.
        stationarity_tol: largest `distance` that passes for a stationary point.
        batches: number of minibatches that the inner objective is averaged over, at w_T.

    Raises:
        InputError: an argument is out of range, or `step_size` is given to another solver.

    Example:
        >>> import torch
        >>> from lds.hypergrad import Implicit, hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> result = hypergradient(*problem, updater=SGD(0.25), steps=40, method=Implicit())
        >>> round(float(result.grad), 4)  # dw/dc = 1 at the minimum w = c
        1.0
    """

    solver: Solver = "cg"
    tol: float | None = None
    max_iterations: int = 1000
    step_size: float | None = None
    stationarity_tol: float = 1e-3
    batches: int = 1

    def __post_init__(self) -> None:
        if self.solver not in get_args(Solver):
            raise InputError(f"solver must be one of {', '.join(map(repr, get_args(Solver)))}, got {self.solver!r}")
        if self.tol is not None and not self.tol >= 0:
            raise InputError(f"tol must be a number >= 0 or None, got {self.tol!r}")
        check_count("max_iterations", self.max_iterations, least=1)
        check_count("batches", self.batches, least=1)
        if self.step_size is not None and self.solver != "neumann":
            raise InputError(f'step_size belongs to solver="neumann", got it with {self.solver!r}; leave it out')
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise InputError(f"step_size must be a number > 0 or None, got {self.step_size!r}")
        if not self.stationarity_tol >= 0:
            raise InputError(f"stationarity_tol must be a number >= 0, got {self.stationarity_tol!r}")

    def solve(self, problem: Problem) -> HypergradientResult[ImplicitDiagnostics]:
        """Run the inner problem and return the hypergradient.

        Raises:
            InputError: params or slots are complex, or an objective is not what it must be.
            NumericalError: an objective, a costate or the hypergradient is NaN or infinite.
        """
        begin = problem.params if problem.state is None else problem.state.params
        return self.differentiate(problem.record(0), problem.outer_objective, begin)

    def differentiate(
        self, trajectory: Trajectory, outer_objective: Objective | Costate, begin: PyTree
    ) -> HypergradientResult[ImplicitDiagnostics]:
        """Return the hypergradient at the end of a trajectory that is recorded already.

        Args:
            trajectory: what `record` returned; its final state is what counts.
            outer_objective: F, (params, outer) -> scalar tensor; or ∂F/∂w, a tensor or None for each leaf of the state.
            begin: w_0, to tell how far w_T has come.

        Raises:
            InputError, NumericalError: as for `solve`.
        """
        dynamics, final = trajectory.dynamics, trajectory.final_state
        if self.solver != "fixed_point" and isinstance(final.params, WithBuffers):
            raise InputError(
                f'Implicit("{self.solver}") needs params that all lower the inner objective, but got params with '
                'buffers, which follow them; use Implicit("fixed_point"), or Reverse()'
            )
        if self.batches > 1:
            if dynamics.batches is None:
                raise InputError(
                    f"Implicit(batches={self.batches}) averages over minibatches, but none came; give batches= to "
                    "hypergradient, or leave it out here"
                )
            dynamics = replace(dynamics, batches=dynamics.batches.over(self.batches))
        if any(x.is_complex() for x in dynamics.spec.flatten(final) if is_differentiable(x)):
            raise InputError("Implicit() needs real params and slots, got complex ones; use Reverse()")
        notes, sums = Notes(0, dynamics.spec), Accumulators(dynamics.outer)
        watch = Watchers(Attached(), notes, Finite(notes, dynamics, final))
        check_unchanged(dynamics.outer)
        with forked(dynamics.cuda):
            costate = first_costate(dynamics, final, outer_objective, sums, watch)
            system = (StepSystem if self.solver == "fixed_point" else GradientSystem)(dynamics, final, trajectory.steps)
            kinked = walk_step(dynamics, system.graph, foreign=not dynamics.outer.random)
            b = system.flat(costate[: len(system.graph.leaves)])
            tol = math.sqrt(torch.finfo(b.dtype).eps) if self.tol is None else self.tol
            solve, product = self._solver(system.matrix, b)
            solution = self._refined(solve, product, b, tol) if bool(b.any()) else _nothing(b)
            direction, length = system.displacement(solution.rate, lambda x: self._refined(solve, product, x, ROUGH))
            later = system.cotangents(solution.vector)
            pulled = Product(later, *pull_back(system.graph, later, sums.current))
            grad = sums.value()
            if bool(solution.vector.isfinite().all()):
                results = detached(system.graph.results)
                spot_check(system.dynamics, trajectory.steps, system.step, results, pulled, kinked=kinked)
        ahead = _Ahead.of(begin, final, direction, length)
        diagnostics = ImplicitDiagnostics(
            inner_losses=trajectory.inner_losses,
            _inner_gradient_norm=later_gradient_norm(dynamics, final),
            distance=ahead.distance,
            curvature=system.matrix.range,
            contraction=solution.rate,
            residual=solution.residual,
            error=solution.error,
            iterations=solution.iterations,
            converged=max(solution.residual, solution.error) <= max(tol, _floor(system.matrix.range, solution.rate, b)),
        )
        for failure in self._failures(diagnostics, ahead, rounding(b), tol):
            warnings.warn(failure, PremiseWarning, stacklevel=frames_of_ours())
        if not all_finite([solution.vector, grad]):
            low, high = diagnostics.curvature
            raise NumericalError(
                "the hypergradient of Implicit() must be finite, but the solution of its linear system, or the "
                f"product with it, is not (‖∇L‖ = {diagnostics.inner_gradient_norm:.3g}, curvature from {low:.3g} to "
                f'{high:.3g}); look at the inner objective at w_T, or use solver="dense" or Reverse()'
            )
        zeros = partial(optree.tree_map, torch.zeros_like, final.params)
        return HypergradientResult(grad, final.params, notes.outer_loss, final, diagnostics, zeros)

    def _solver(self, matrix: Matrix, b: Tensor) -> tuple[Solve, Callable[[Tensor], Tensor]]:
        """Return the solver, and the product with the matrix that it solves for."""
        if self.solver == "cg":
            return partial(conjugate_gradients, matrix), matrix
        if self.solver == "dense":
            return Dense(matrix, b), matrix
        if self.solver == "fixed_point":
            return partial(series, matrix), lambda v: v - matrix(v)
        alpha = self.step_size or 1 / (largest_eigenvalue(matrix, b) or 1.0)

        def neumann(b: Tensor, tol: float, max_iterations: int) -> Solution:
            found = series(lambda p: p - alpha * matrix(p), b, tol, max_iterations)
            return replace(found, vector=alpha * found.vector)

        return neumann, matrix

    def _refined(self, solve: Solve, product: Callable[[Tensor], Tensor], b: Tensor, tol: float) -> Solution:
        if self.solver == "dense":
            return solve(b, tol, self.max_iterations)
        return refined(solve, product, b, tol, self.max_iterations)

    def _failures(self, found: ImplicitDiagnostics, ahead: _Ahead, zero: float, tol: float) -> Iterator[str]:
        """Yield what is wrong with the premise, one message each."""
        gradient_norm = found.inner_gradient_norm
        figures = f"‖∇L‖ = {gradient_norm:.3g}, ‖w_T‖ = {ahead.size:.3g}"
        if not found.distance <= self.stationarity_tol:
            needed = (
                "a fixed point of Φ" if self.solver == "fixed_point" else "a stationary point of the inner objective"
            )
            away = (
                f"an estimated {found.distance:.2g} of its size away" if found.distance < math.inf else "none in sight"
            )
            yield (
                f"Implicit() needs {needed}, but from w_T there is {away} (stationarity_tol = "
                f"{self.stationarity_tol:.2g}, {figures}); {ahead.advice}"
            )
        smallest, largest = found.curvature
        scale = max(abs(smallest), abs(largest))
        if smallest <= zero * scale:
            kind = "an indefinite" if smallest < -zero * scale else "a singular"
            yield (
                f"Implicit() needs an inner objective that curves upwards in all directions at w_T, but met {kind} "
                f"Hessian (curvature from {smallest:.3g} to {largest:.3g}, {figures}): the minimum is not isolated, or "
                "w_T is a saddle; add a penalty such as 1e-3 ‖w‖² to the inner objective, or use Reverse()"
            )
        elif not found.converged:
            rate = f", shrinking by {found.contraction:.3g} in an iteration" if self.solver in SERIES else ""
            yield (
                f'the solver "{self.solver}" of Implicit() did not converge: relative residual {found.residual:.3g}, '
                f"estimated relative error {found.error:.2g}, after {found.iterations} iterations{rate}, needed "
                f"{tol:.3g} ({figures}); {ADVICE[self.solver]}"
            )


def _nothing(b: Tensor) -> Solution:
    return Solution(torch.zeros_like(b), 0, 0.0, error=0.0)


def _floor(curvature: tuple[float, float], rate: float, b: Tensor) -> float:
    """Return the relative error that rounding explains, by the ratio of the largest curvature to the smallest."""
    smallest, largest = (1 - rate, 1 + rate) if math.isnan(curvature[0]) else curvature
    return min(10 * rounding(b) * largest / smallest, LEAST) if 0 < smallest < math.inf else 0.0


class _System:
    """A map of w_T and θ by its graph, and the transpose of its Jacobian on flat vectors.

    Args:
        dynamics: the map, bound as a step of Φ is.
        state: where to linearise it.
        steps: the step that would come next.
        symmetric: whether the Jacobian is.
    """

    def __init__(self, dynamics: Dynamics, state: State, steps: int, *, symmetric: bool) -> None:
        self.dynamics = dynamics
        self.graph = dynamics.linearise(steps, dynamics.spec.flatten(state))
        self.step = Step(detached(self.graph.leaves), self.graph.draws)
        self._can = dynamics.spec.differentiable
        self._inputs = list(compress(self.graph.leaves, self._can))
        self.matrix = Matrix(self._transpose, symmetric)

    def flat(self, leaves: Sequence[Any]) -> Tensor:
        """Return one vector for leaves like those of the graph, zeros where one is None."""
        pairs = zip(self._inputs, compress(leaves, self._can), strict=True)
        parts = [torch.zeros_like(x) if y is None else y.detach() for x, y in pairs]
        return torch.cat([x.reshape(-1).to(parts[0].device) for x in parts])

    def split(self, vector: Tensor) -> list[Tensor | None]:
        """Return the leaves that a vector stands for, None where a leaf carries no derivative."""
        parts = iter(torch.split(vector, [x.numel() for x in self._inputs]))
        return [
            next(parts).reshape(x.shape).to(x.device, x.dtype) if can else None
            for x, can in zip(self.graph.leaves, self._can, strict=True)
        ]

    def _transpose(self, vector: Tensor) -> Tensor:
        """Return uᵀ ∂results/∂leaves."""
        pairs = zip(self.graph.results, self.split(vector), strict=True)
        attached = [(y, u) for y, u in pairs if u is not None and y.requires_grad]
        if not attached:
            return torch.zeros_like(vector)
        results, cotangents = zip(*attached, strict=True)
        found = iter(torch.autograd.grad(results, self._inputs, cotangents, retain_graph=True, allow_unused=True))
        return self.flat([next(found) if can else None for can in self._can])


class _InnerGradient:
    """w ↦ ∇_w L(w, θ), bound and looked at as a step is."""

    def init(self, params: PyTree) -> PyTree:
        """Return no slots."""
        return ()

    def step(self, state: State, outer: PyTree, inner: Objective) -> State:
        """Return the inner gradient."""
        return State(gradient(inner, state.params, outer))


class GradientSystem(_System):
    """∇_w L(w_T, θ); its Jacobian is the Hessian."""

    def __init__(self, dynamics: Dynamics, final: State, steps: int) -> None:
        params = State(final.params, (), final.step)
        gradient_map = replace(dynamics, updater=_InnerGradient(), spec=flattened(params)[1])
        super().__init__(gradient_map, params, steps, symmetric=True)

    def cotangents(self, solution: Tensor) -> list[Tensor | None]:
        """Return what to pull back to θ: −v."""
        return self.split(-solution)

    def displacement(self, rate: float, solve: Callable[[Tensor], Solution]) -> tuple[Tensor, float]:
        """Return a direction of the minimum and the estimated way there: a step of Newton, where L curves upwards."""
        descent = -self.flat(self.graph.results)
        size = float(descent.norm())
        if size == 0:
            return descent, 0.0
        curvature = float(descent.dot(self.matrix(descent))) / size**2
        if not curvature > 0:
            return descent, math.inf
        newton = solve(descent)
        # Where the solver gets nowhere: the way along the gradient, which is at most as long on a quadratic.
        length = float(newton.vector.norm()) if newton.residual < 1 else 0.0
        return descent, max(length, size / curvature)


class StepSystem(_System):
    """Φ(w_T, θ), of the whole state."""

    def __init__(self, dynamics: Dynamics, final: State, steps: int) -> None:
        super().__init__(dynamics, final, steps, symmetric=False)
        self._num_weights = sum(x.numel() for x in optree.tree_leaves(trained(final.params)))

    def cotangents(self, solution: Tensor) -> list[Tensor | None]:
        """Return what to pull back to θ: v."""
        return self.split(solution)

    def displacement(self, rate: float, solve: Callable[[Tensor], Solution]) -> tuple[Tensor, float]:
        """Return a direction of the fixed point and the estimated way there: ‖Φ(w_T) − w_T‖ / (1 − ρ)."""
        change = (self.flat(self.graph.results) - self.flat(self.graph.leaves))[: self._num_weights]
        size = float(change.norm())
        if math.isnan(rate):
            return change, size  # Nothing was solved for.
        return change, size / (1 - rate) if rate < 1 else math.inf if size else 0.0


@dataclass(frozen=True)
class _Ahead:
    """How far the stationary point is from w_T, relative to the weights, and what to do if that is too far.

    Attributes:
        size: ‖w_T‖.
        distance: estimated distance to the stationary point, relative to the larger of ‖w_T‖ and ‖w_T − w_0‖.
        advice: what to do where that is too far.
    """

    size: float
    distance: float
    advice: str

    @classmethod
    def of(cls, begin: PyTree, final: State, direction: Tensor, length: float) -> _Ahead:
        """Compare the estimated length of the way ahead, along a direction, with the weights.

        Weights that have grown, and that descent lengthens further, may have their minimum at infinity.
        """
        w0, w = (
            torch.cat([x.detach().reshape(-1).to(direction) for x in optree.tree_leaves(trained(p))])
            for p in (begin, final.params)
        )
        size, before = float(w.norm()), float(w0.norm())
        scale = max(size, float((w - w0).norm()))
        distance = length / scale if length and scale else length
        advice = "run more steps, or use Reverse(), which is right after any number of steps"
        if size > before and float(direction.dot(w)) > 0:
            advice = (
                f"the weights grew from {before:.3g} and descent lengthens them further: if they keep growing with "
                "more steps, the minimum lies at infinity, no method has a limit to find, and a penalty on the weights "
                "is needed; else run more steps"
            )
        return cls(size, distance, advice)
