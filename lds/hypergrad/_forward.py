"""Forward mode: tangents of the whole state beside the state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optree
import torch
from torch import Tensor

from lds._random import forked
from lds.errors import InputError
from lds.hypergrad._attached import Attached, Walk, walk_step
from lds.hypergrad._diagnostics import HypergradientResult
from lds.hypergrad._dynamics import Costate, Dynamics, Step, StepGraph
from lds.hypergrad._guards import (
    Finite,
    Notes,
    Watchers,
    check_count,
    check_grad,
    check_losses,
    check_unchanged,
)
from lds.hypergrad._logs import ScalarLog
from lds.hypergrad._outer import Accumulators, Derived, Theta, detached, differentiable, is_differentiable, unit
from lds.hypergrad._record import Diagnostics, Problem, later_gradient_norm
from lds.hypergrad._reverse import first_costate
from lds.hypergrad._spot import Product, spot_check


@dataclass(frozen=True)
class Forward:
    r"""Forward mode: exact, for few outer variables and any number of steps.

    Franceschi et al., `Forward and Reverse Gradient-Based Hyperparameter Optimization
    <https://arxiv.org/abs/1703.01785>`_ (ICML 2017):

    .. math::
        Z_{t+1} = \partial_w \Phi(w_t, \theta)\, Z_t + \partial_\theta \Phi(w_t, \theta), \quad Z_0 = 0, \qquad
        \frac{dF}{d\theta} = \partial_\theta F(w_T, \theta) + \partial_w F(w_T, \theta)\, Z_T

    with Z_t the tangents of the whole state, one for every scalar of θ. A step is taken once, on its own noise, and
    its Jacobian multiplies each tangent by transposition: :math:`u \mapsto u J` is linear, so the vector-Jacobian
    product of it in u is :math:`z \mapsto J z`. No operation needs a forward-mode formula of PyTorch for that.

    Memory: (number of scalars of θ) × (size of the state), and the graph of one step, whatever the number of steps.
    Time: that of `Reverse`, and for every scalar of θ a third to a half of it again; so `Reverse` is always faster, and
    `Forward` is for trajectories that are too long to record.

    Example:
        >>> import torch
        >>> from lds.hypergrad import Forward, hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=SGD(0.25), steps=2, method=Forward()).grad
        tensor(0.9375)
    """

    def solve(self, problem: Problem) -> HypergradientResult[Diagnostics]:
        """Run the inner problem and return the hypergradient.

        Raises:
            InputError: an outer variable draws anew in every step or is complex, Φ detaches its result from θ, or the
                backward of an operation is not differentiable in what it is given.
            NumericalError: an objective or the hypergradient is NaN or infinite.
        """
        check_count("steps", problem.steps)
        theta = Theta(problem.outer, "Forward()")
        with forked(problem.cuda):
            dynamics, leaves = problem.bind()
            losses, notes = ScalarLog(max(problem.steps, 1)), Notes(0, dynamics.spec)
            sums = Accumulators(dynamics.outer)
            run = _Run(dynamics, theta, leaves)
            for t in range(problem.steps):
                if (loss := run.step(t)) is not None:
                    losses.append(loss)
            check_losses(losses, problem.bind, 0, problem.steps)
            final = dynamics.spec.unflatten(run.leaves, dynamics.start + problem.steps)
            check_unchanged(dynamics.outer)
            watch = Watchers(Walk(), Attached(), notes, Finite(notes, dynamics, final))
            costate = first_costate(dynamics, final, problem.outer_objective, sums, watch)
        diagnostics = Diagnostics(losses.floats(), later_gradient_norm(dynamics, final))
        grad = run.hypergradient(sums.value(), costate)
        check_grad(dynamics.outer, grad, problem.steps)
        return HypergradientResult(grad, final.params, notes.outer_loss, final, diagnostics)


class Pushforward:
    """The product z ↦ J z with J = ∂outputs/∂inputs, None standing for zero."""

    def __init__(self, outputs: Sequence[Any], inputs: Sequence[Tensor]) -> None:
        self._places = [i for i, y in enumerate(outputs) if isinstance(y, Tensor) and y.requires_grad]
        self._size = len(outputs)
        attached = [outputs[i] for i in self._places]
        self._duals = [torch.ones_like(y, requires_grad=True) for y in attached]
        self._pulled: Sequence[Tensor | None] = [None] * len(inputs)
        if attached:
            with torch.enable_grad():
                self._pulled = torch.autograd.grad(attached, inputs, self._duals, create_graph=True, allow_unused=True)

    @property
    def pulled(self) -> list[Tensor | None]:
        """J transposed times ones."""
        return [None if p is None else p.detach() for p in self._pulled]

    def __call__(self, tangents: Sequence[Tensor | None], *, check: bool) -> list[Tensor | None]:
        """Return the tangents of the outputs; check that they are, if asked to."""
        result: list[Tensor | None] = [None] * self._size
        pairs = [(p, z) for p, z in zip(self._pulled, tangents, strict=True) if p is not None and z is not None]
        attached = [(p, z) for p, z in pairs if p.requires_grad]
        if attached:
            pulled, chosen = zip(*attached, strict=True)
            found = torch.autograd.grad(pulled, self._duals, chosen, retain_graph=True, allow_unused=True)
            for place, tangent in zip(self._places, found, strict=True):
                result[place] = tangent
        if check and pairs:
            self._check(pairs, [z for z in result if z is not None])
        return result

    def _check(self, pairs: Sequence[tuple[Tensor, Tensor]], tangents: Sequence[Tensor]) -> None:
        """Raise InputError unless (u J) z = u (J z), up to rounding, at the u of ones that J was transposed at."""
        forward = [z.detach() for z in tangents]
        reverse = [p.detach().conj() * z for p, z in pairs]
        sums = [sum((float(x.sum().real) for x in terms), 0.0) for terms in (forward, reverse)]
        size = sum(float(x.abs().sum()) for x in (*forward, *reverse))
        eps = max(torch.finfo(x.dtype).eps for x in (*forward, *reverse))
        # Where J cancels, as that of a gradient of one number clipped by its norm, both sides are rounding.
        rounding = 10 * eps * sum(float(z.abs().sum()) for _, z in pairs)
        if abs(sums[0] - sums[1]) > math.sqrt(eps) * size + rounding:
            raise InputError(
                "Forward() needs operations whose backward is differentiable in what it is given, but one of Φ, of the "
                "inner objective or of the function of a Derived is not; write the backward of your "
                "torch.autograd.Function with torch operations, or use Reverse()"
            )


@dataclass
class _Scalar:
    """One scalar of θ: the tensor and the outer variable it belongs to, tangents of what Φ sees, and of the state."""

    tensor: int
    owner: int
    draw: list[Tensor | None]
    state: list[Tensor | None]


class _Run:
    """The state and its tangents."""

    def __init__(self, dynamics: Dynamics, theta: Theta, leaves: list[Any]) -> None:
        self._dynamics = dynamics
        self._theta = theta
        self.leaves = leaves
        # Outer variables are the same in all steps here, so one draw serves all.
        self._draws = dynamics.draws(0)
        seeds = [_seed(variable.derived, theta.owners.index(i)) for i, variable in enumerate(theta.variables)]
        self._scalars: list[_Scalar] = []
        for index, (tensor, owner) in enumerate(zip(theta.tensors, theta.owners, strict=True)):
            for i in range(tensor.numel()):
                draw = seeds[owner](index, unit(tensor, i))
                self._scalars.append(_Scalar(index, owner, draw, [None] * len(leaves)))

    def step(self, t: int) -> Tensor | None:
        """Take the state and every tangent through step t; return the inner objective where Φ evaluated it."""
        graph = self._dynamics.linearise(t, self.leaves, self._draws)
        places = [i for i, leaf in enumerate(graph.leaves) if is_differentiable(leaf)]
        shown = [tracer.inputs() for tracer in graph.tracers]
        inputs = [graph.leaves[i] for i in places] + [x for tensors in shown for x in tensors]
        push = Pushforward(graph.results, inputs)
        if t == 0:
            self._look(graph, push, places, shown)
        for scalar in self._scalars:
            tangents = [scalar.state[i] for i in places]
            for owner, tensors in enumerate(shown):
                tangents += scalar.draw if owner == scalar.owner else [None] * len(tensors)
            # The first step goes through all that θ reaches, the second through what the state does as well.
            scalar.state = push(tangents, check=t < 2)
        self.leaves = detached(graph.results)
        return graph.loss

    def hypergradient(self, direct: Any, cotangents: Costate) -> Any:
        """Return ∂_θ F + ∂_w F Z_T."""
        tensors = self._theta.tensors
        found: list[list[Tensor]] = [[] for _ in tensors]
        for scalar in self._scalars:
            total = tensors[scalar.tensor].new_zeros(())
            for p, z in zip(cotangents, scalar.state, strict=True):
                if p is not None and z is not None:
                    # A complex number is a pair of real ones.
                    total += (p.conj() * z).real.sum()
            found[scalar.tensor].append(total)
        return self._theta.grads(
            [
                g + torch.stack(totals).reshape(g.shape) if totals else g
                for g, totals in zip(optree.tree_leaves(direct), found, strict=True)
            ]
        )

    def _look(self, graph: StepGraph, push: Pushforward, places: Sequence[int], shown: Sequence[Sequence[Any]]) -> None:
        """Look at the first step as the sweep does at the last one, at a costate of ones."""
        pulled = iter(push.pulled)
        costate: list[Tensor | None] = [None] * len(graph.leaves)
        for i in places:
            costate[i] = next(pulled)
        increments = [[next(pulled) for _ in tensors] for tensors in shown]
        ones = [torch.ones_like(y) if is_differentiable(y) else None for y in graph.results]
        step = Step(self.leaves, self._draws)
        product = Product(ones, costate, increments)
        kinked = walk_step(self._dynamics, graph)
        spot_check(self._dynamics, 0, step, detached(graph.results), product, kinked=kinked)


def _seed(derived: Derived, first: int) -> Callable[[int, Tensor], list[Tensor | None]]:
    """Return a function from a tensor of θ and its tangent to the tangents of h(θ), which Φ sees of it.

    Args:
        derived: h and θ.
        first: index of its first tensor among all tensors of the outer variables.
    """
    parts = differentiable(derived.leaves)
    with torch.enable_grad():
        value = derived.function(optree.tree_unflatten(derived.spec, parts))
    push = Pushforward([x for x in optree.tree_leaves(value) if is_differentiable(x)], parts)
    return lambda index, tangent: push([tangent if i == index - first else None for i in range(len(parts))], check=True)
