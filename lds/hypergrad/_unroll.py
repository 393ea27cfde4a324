"""The solution w_T of an inner problem as tensors of autograd, whose backward is a method of the package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import compress, count, islice
from typing import Any, Literal, TypeAlias, overload

import optree
import torch
from torch import Tensor

from lds._keywords import explained
from lds._random import INIT, forked, reseed
from lds._updater import InnerObjective, PyTree, State, Updater
from lds.errors import InputError, NumericalError
from lds.hypergrad._connected import Connected, as_input, connect, may_connect
from lds.hypergrad._diagnostics import HypergradientResult
from lds.hypergrad._dynamics import VERSION, Costate
from lds.hypergrad._guards import all_finite, check_count, check_method, faults, replay_error
from lds.hypergrad._implicit import Implicit
from lds.hypergrad._outer import Derived, check_steady, copied
from lds.hypergrad._record import Problem, Trajectory, close_all, no_inner, no_objective, remove_all
from lds.hypergrad._reverse import Reverse, UsualWatchers, check_finite, reverse
from lds.hypergrad.memory import Memory
from lds.hypergrad.memory._graphs import GraphsTape

UnrollMethod: TypeAlias = Reverse | Implicit

_FULL = Reverse()


@overload
def unroll(
    inner: InnerObjective | None,
    params: PyTree,
    outer: PyTree,
    *,
    updater: Updater,
    steps: int,
    method: UnrollMethod | None = None,
    seed: int = 0,
    state: State | None = None,
    batches: object = None,
    return_state: Literal[False] = False,
) -> PyTree: ...


@overload
def unroll(
    inner: InnerObjective | None,
    params: PyTree,
    outer: PyTree,
    *,
    updater: Updater,
    steps: int,
    method: UnrollMethod | None = None,
    seed: int = 0,
    state: State | None = None,
    batches: object = None,
    return_state: Literal[True],
) -> tuple[PyTree, State]: ...


@explained
def unroll(
    inner: InnerObjective | None,
    params: PyTree,
    outer: PyTree,
    *,
    updater: Updater,
    steps: int,
    method: UnrollMethod | None = None,
    seed: int = 0,
    state: State | None = None,
    batches: object = None,
    return_state: bool = False,
) -> PyTree:
    r"""Return w_T, the params after `steps` steps of the inner updater, attached to autograd.

    .. math:: w_{t+1} = \Phi(w_t, \theta), \quad t = 0, \dots, T-1

    Any loss of w_T may be differentiated, with `torch.autograd.grad` or `.backward()`, in the tensors of `params` (w_0)
    and of `outer` (θ) that require grad, leaves or not. The backward is the sweep of `Reverse`, with its horizon, its
    memory policy, replay and all guards, or the linear system of `Implicit`:

    .. code-block:: python

        w = unroll(inner, dict(net.named_parameters()), {}, updater=SGD(0.1), steps=5)  # one task of MAML
        validation_loss(w).backward()

    Differentiated twice (`create_graph=True`), all steps are unrolled again in one graph, which takes the memory of
    such; so may `unroll` stand in the objectives of another `unroll` or of `hypergradient`. What was recorded is let go
    of by the first backward; another one, after `retain_graph=True`, records again.

    The objectives must compute from their arguments. Under `torch.no_grad()`, or where nothing requires grad, it is a
    plain run.

    First-order MAML, which takes ∂w_T/∂w_0 for the identity, needs no backward here:
    `torch.autograd.grad(loss(w), w)` with w detached and made to require grad.

    Args:
        inner: inner objective L, (params, outer) -> scalar tensor; with `batches`, (params, outer, batch); None where Φ
            is a map that asks for none.
        params: pytree of floating-point tensors w_0.
        outer: pytree of the outer variables θ, tensors or `Derived`; `{}` where there are none.
        updater: Φ, see `lds.updaters.Updater`.
        steps: number of steps T ≥ 0.
        method: `Reverse(...)` or `Implicit(...)`; `Reverse()`, the full sweep, when None. `Implicit` takes w_T for a
            fixed point: the derivative in w_0 is zero, and there is no second one.
        seed: seed of the randomness inside Φ.
        state: a state to go on from instead of `params` (warm start), a constant to the derivative.
        batches: minibatches, one per step, for the inner objective, see `hypergradient`.
        return_state: whether to return (w_T, final state), the state for a warm start and detached.

    Raises:
        InputError: an argument is not what it must be; an outer variable draws anew in every step; `params` require
            grad, but the method stops before w_0. In the backward: as for `sweep`; or an objective depends on a
            trainable tensor besides its arguments.
        NumericalError: a number is NaN or infinite, in the run or in the backward.
        ReplayError: in the backward, as for `sweep`.

    Example:
        >>> import torch
        >>> from lds.hypergrad import unroll
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> c = torch.tensor(0.5, requires_grad=True)
        >>> w = unroll(problem[0], torch.tensor(1.0), c, updater=SGD(0.25), steps=2)
        >>> (w**2).backward()
        >>> c.grad
        tensor(0.9375)
    """
    method = _FULL if method is None else method
    check_count("steps", steps)
    check_method(method)
    if not isinstance(method, Reverse | Implicit):
        raise InputError(
            f"the method of unroll must be Reverse(...) or Implicit(...), got {type(method).__name__}(); for the "
            "others call hypergradient"
        )
    problem = Problem(
        inner or no_inner, no_objective, params, outer, updater, steps, seed, state, batches, attached=True
    )
    asked = torch.is_grad_enabled() and _asked(problem, method)
    connectable = asked and may_connect(problem, method)
    ran: Trajectory | Connected | None = connect(problem) if connectable else None
    if ran is None:
        ran = problem.record(*_to_record(method) if asked else (0,))
        if connectable:
            tape = ran.segments[-1].tape
            (kept := ran.dynamics.met.kept).discard(steps)
            if isinstance(tape, GraphsTape) and tape.kept_all:
                kept.add(steps)
    if asked:
        run = _Run(problem, method, ran)
        if isinstance(ran, Connected) and not return_state:
            own = ran.own_params()
        else:
            own = copied(optree.tree_leaves(ran.final_state.params))
        w = ran.dynamics.spec.params.unflatten(_Solution.apply(run, own, *run.inputs))  # type: ignore[no-untyped-call]
    else:
        w = ran.final_state.params
    return (w, ran.final_state) if return_state else w


def _to_record(method: UnrollMethod) -> tuple[int | None, Memory | None]:
    """Return how many steps to record, and in which memory."""
    return (method.horizon, method.memory) if isinstance(method, Reverse) else (0, None)


def _asked(problem: Problem, method: UnrollMethod) -> bool:
    """Tell whether anything requires grad, and raise InputError where that cannot be had."""
    params, _, outer, state = problem.given
    _check_autograd([*params, *outer])
    if _requires_grad(state):
        raise InputError(
            "the state that unroll goes on from is a constant, but it holds tensors that require grad; detach them, or "
            "give its params as `params`, which start with new slots and carry the gradient on"
        )
    into_params = problem.state is None and _requires_grad(params)
    if into_params and isinstance(method, Reverse) and _stops(method, problem.steps):
        raise InputError(
            f"params require grad, but Reverse(horizon={method.horizon}, tol={method.tol}) stops the sweep before w_0; "
            "detach params to differentiate in outer alone, or sweep over all steps"
        )
    check_steady(problem.outer, "unroll", "call hypergradient, whose result has its grad")
    derived = [x for x in outer if isinstance(x, Derived)]
    return into_params or _requires_grad(outer) or any(_requires_grad(x.leaves) for x in derived)


def _requires_grad(leaves: Iterable[Any]) -> bool:
    return True in [x.requires_grad for x in leaves if isinstance(x, Tensor)]


def _check_autograd(tensors: Iterable[Any]) -> None:
    """Raise InputError inside of a transform of torch.func, whose tensors have no memory of their own."""
    try:
        transformed = torch._C._are_functorch_transforms_active()
        for x in tensors:
            if isinstance(x, Tensor) and x.layout == torch.strided:
                x.data_ptr()
    except RuntimeError:
        transformed = True
    if transformed:
        raise InputError(
            "unroll carries the gradient on by autograd, which the transforms of torch.func, such as grad and vmap "
            "(and is_grads_batched=True), switch off; differentiate with torch.autograd.grad, row by row or by "
            "lds.hypergrad.jacobian, or call torch.func inside of the objectives"
        )


_SAVED = torch.empty(0)


class _Solution(torch.autograd.Function):
    """w_T as a function of w_0 and θ."""

    @staticmethod
    def forward(ctx: Any, run: _Run, w: list[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.run = run
        ctx.save_for_backward(_SAVED)  # Freed with the graph: that is how the backward knows.
        return tuple(w)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        try:
            ctx.saved_tensors  # noqa: B018
        except RuntimeError:
            raise InputError(
                "w_T of unroll was differentiated already, and what its backward needs is freed; give the first "
                "backward retain_graph=True, or add up the losses and differentiate once"
            ) from None
        if all(c is None for c in cotangents):
            return (None,) * len(ctx.needs_input_grad)
        asked = ctx.needs_input_grad[2:]
        found = ctx.run.grads(cotangents, asked)
        return (None, None, *(grad if ask else None for grad, ask in zip(found, asked, strict=True)))


class _Run:
    """What `unroll` ran, from which its backward goes on.

    Args:
        problem: the inner problem.
        method: how to differentiate.
        ran: what was recorded, or all steps in one graph.

    Attributes:
        inputs: the tensors of w_0, but after a warm start, and of θ.
    """

    def __init__(self, problem: Problem, method: UnrollMethod, ran: Trajectory | Connected) -> None:
        self.problem, self.method = problem, method
        self.connected = ran if isinstance(ran, Connected) else None
        self.trajectory = None if isinstance(ran, Connected) else ran
        params = problem.given.params if problem.state is None else []
        steady = ran.dynamics.outer.steady
        self.inputs: list[Tensor] = [*params, *(x for v in steady for x in v.derived.leaves)]
        self._count, self._leaves = len(params), len(ran.dynamics.spec.differentiable)
        self._given = [*self.inputs, *(x for x in problem.given.state if isinstance(x, Tensor))]
        self._versions = list(map(VERSION, self._given))
        self._autocasts = _autocasts()

    def grads(self, cotangents: Sequence[Tensor | None], asked: Sequence[bool]) -> Sequence[Tensor | None]:
        """Return the gradients in those inputs that are asked for, differentiable where grad mode is enabled."""
        _check_autograd(cotangents)
        connected, self.connected = self.connected, None
        if connected is not None and not torch.is_grad_enabled():
            with suppress(RuntimeError):  # The sweep says what torch does not.
                grads = connected.grads(cotangents, asked)
                if all_finite(grads):
                    connected.dynamics.met.is_due()
                    return grads
        differentiate = self._unrolled if torch.is_grad_enabled() else self._swept
        with ExitStack() as stack:
            for now, then in zip(_autocasts(), self._autocasts, strict=True):
                if now != then:  # The objectives run again as they ran before.
                    stack.enter_context(torch.autocast(*then))
            try:
                return differentiate(cotangents, asked)
            except NumericalError:
                if all_finite(cotangents):
                    raise
                paths = [accessor.codify("w") for accessor in optree.tree_accessors(self.problem.params)]
                found = "; ".join(f"that in {fault}" for fault in faults(paths, cotangents))
                raise NumericalError(
                    f"the derivative of the loss in w_T must be finite, but {found}; look at the loss"
                ) from None

    def _swept(self, cotangents: Sequence[Tensor | None], asked: Sequence[bool]) -> Sequence[Tensor | None]:
        """By the method: as much memory as its policy says."""
        into_params, costate = any(asked[: self._count]), self._costate(cotangents)
        result: HypergradientResult[Any]
        if isinstance(self.method, Implicit):
            state = self.problem.state
            begin = self.problem.params if state is None else state.params
            result = self.method.differentiate(self._recorded(), costate, begin)
        else:
            with self._consumed() as trajectory:
                result = self.method.differentiate(trajectory, costate, to_start=into_params)
        found = optree.tree_leaves(result.params_grad) if into_params else [None] * self._count
        return [*found, *optree.tree_leaves(result.grad)]

    def _unrolled(self, cotangents: Sequence[Tensor | None], asked: Sequence[bool]) -> Sequence[Tensor | None]:
        """By one graph through all steps, which can be differentiated again."""
        method = self.method
        if isinstance(method, Implicit) or method.noise != "replay" or _stops(method, self.problem.steps):
            raise InputError(
                "w_T can be differentiated twice where its backward is the sweep over all recorded steps, but the "
                f"method is {method}; use Reverse(), or leave create_graph=True out (an objective of another unroll or "
                "hypergradient is differentiated twice where it is an inner one)"
            )
        self._check_unchanged()
        with self._consumed() as trajectory:
            self._guard(trajectory, cotangents, method.check_replay)
            inputs, results = self._graph()
            if method.check_replay and self.problem.steps:
                final = trajectory.dynamics.spec.flatten(trajectory.final_state)
                replay_error(trajectory.dynamics, self.problem.steps - 1, results, final)
        remove_all(trajectory)
        flowing = [(y, c) for y, c in zip(results, cotangents, strict=False) if c is not None and y.requires_grad]
        pairs = zip(inputs, asked, strict=True)
        found: list[Tensor | None] = [torch.zeros_like(x) if ask else None for x, ask in pairs]
        if flowing:
            ys, cs = zip(*flowing, strict=True)
            chosen = list(compress(inputs, asked))
            grads = torch.autograd.grad(ys, chosen, cs, create_graph=True, allow_unused=True, materialize_grads=True)
            for place, grad in zip(compress(count(), asked), grads, strict=False):
                found[place] = grad
        if not all_finite(found):
            raise NumericalError(
                "the gradient in params and outer must be finite, but is not after "
                f"{self.problem.steps} steps; differentiate without create_graph=True for the step where it begins"
            )
        return found

    def _guard(self, trajectory: Trajectory, cotangents: Sequence[Tensor | None], check_replay: bool) -> None:
        """Have F and the last step looked at as in a sweep."""
        watch = UsualWatchers(trajectory, noise="replay", check_replay=check_replay, to_start=False)
        costate = self._costate([None if c is None else c.detach() for c in cotangents])
        with torch.no_grad(), forked(trajectory.dynamics.cuda):
            for _ in islice(reverse(trajectory, costate, watch, to_start=False), 2):
                pass
            check_finite(trajectory, costate, watch.notes, noise="replay", to_start=False)

    def _graph(self) -> tuple[list[Tensor], list[Any]]:
        """Return stand-ins for the inputs, and the leaves of the final state, a graph of all steps between them."""
        with forked(self.problem.cuda), torch.enable_grad():
            dynamics, leaves = self.problem.bind()
            # Views, for one input may depend on another, and that is not for this node to differentiate.
            inputs = [x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in self.inputs]
            params, thetas = inputs[: self._count], iter(inputs[self._count :])
            values = [
                v.derived.function(v.derived.spec.unflatten(islice(thetas, len(v.derived.leaves))))
                for v in dynamics.outer.steady
            ]
            outer = dynamics.outer.unflatten(values)
            if params:
                reseed(dynamics.seed, INIT, cuda=dynamics.cuda)
                slots = dynamics.updater.init(dynamics.spec.params.unflatten(params))
                leaves = dynamics.spec.flatten(State(dynamics.spec.params.unflatten(params), slots))
            for t in range(self.problem.steps):
                pairs = zip(leaves, dynamics.spec.differentiable, strict=True)
                leaves, _ = dynamics.step(t, [as_input(x, can) for x, can in pairs], outer)
        return inputs, leaves

    def _costate(self, cotangents: Sequence[Tensor | None]) -> Costate:
        """P_T: nothing flows into the slots."""
        return [*cotangents, *[None] * (self._leaves - len(cotangents))]

    def _recorded(self) -> Trajectory:
        """Return what was recorded, or record it again after an earlier backward."""
        if self.trajectory is None:
            self._check_unchanged()
            method = self.method
            self.trajectory = self.problem.record(*_to_record(method))
        return self.trajectory

    @contextmanager
    def _consumed(self) -> Iterator[Trajectory]:
        """Lend the trajectory, and let go of it."""
        trajectory, self.trajectory = self._recorded(), None
        try:
            yield trajectory
        except BaseException:
            close_all(trajectory)
            raise

    def _check_unchanged(self) -> None:
        if self._versions != list(map(VERSION, self._given)):
            raise InputError(
                "params, outer or the state was changed in place since unroll ran, but its backward must begin there "
                "again; differentiate first, or update a copy"
            )


def _stops(method: Reverse, steps: int) -> bool:
    """Tell whether a sweep may end before w_0."""
    return method.tol is not None or (method.horizon is not None and method.horizon < steps)


def _autocasts() -> list[tuple[str, torch.dtype, bool, bool]]:
    """Return the arguments of torch.autocast that make it what it is here, for each kind of device."""
    cache = torch.is_autocast_cache_enabled()
    return [(k, torch.get_autocast_dtype(k), torch.is_autocast_enabled(k), cache) for k in ("cpu", "cuda")]
