"""Numbers that must be finite: what to say where one is not.

In the normal case next to nothing is looked at: norms and losses are noted on their device anyway, and read at the
end. Where one of them is not finite, the steps are run again, and looked at one by one, to say where it began.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import optree
import torch

from lds._random import forked
from lds.errors import NumericalError
from lds.hypergrad._dynamics import Dynamics
from lds.hypergrad._leaves import is_differentiable
from lds.hypergrad._logs import ScalarLog
from lds.hypergrad._outer import Outer

# Costates that have grown by this factor explode: what the last steps add to a hypergradient in single precision
# (1.2e-7) has then about one digit left beside what the first ones add.
EXPLOSION = 1e6
# So many of the last finite values are named.
_SHOWN = 3


def explosion(norms: Sequence[float]) -> int | None:
    """Return the first depth at which a costate norm is more than `EXPLOSION` times the first, None if there is none.

    Args:
        norms: ‖P_{T−k}‖ on the params at the depths k = 0, 1, …: slots have units of their own, and one that is nearly
            zero, such as Adam's v of a weight that is hardly used, has a large costate without any explosion.
    """
    first = norms[0] if norms else 0.0
    return next((k for k, p in enumerate(norms) if not p <= EXPLOSION * first), None) if first > 0 else None


def faults(paths: Sequence[str], parts: Sequence[Any]) -> list[str]:
    """Return what is wrong with each of the parts, pytrees of tensors, that holds NaN or infinity, by its path."""
    found = []
    for path, part in zip(paths, parts, strict=True):
        tensors = [x for x in optree.tree_leaves(part) if is_differentiable(x)]
        if any(bool(x.isnan().any()) for x in tensors):
            found.append(f"{path} holds NaN")
        elif not all(bool(x.isfinite().all()) for x in tensors):
            found.append(f"{path} holds infinity")
    return found


def all_finite(tree: Any) -> bool:
    """Tell whether all tensors of a pytree are finite, by one number that is read."""
    tensors = [x for x in optree.tree_leaves(tree) if is_differentiable(x) and x.numel()]
    if not tensors:
        return True
    # The largest magnitude, unlike a sum of squares, is infinite only where a number is.
    largest = [x.double().to(tensors[0].device) for x in torch._foreach_norm(tensors, math.inf)]
    return math.isfinite(float(torch.stack(largest).amax()))


def check_grad(outer: Outer, grad: Any, steps: int) -> None:
    """Raise NumericalError unless all tensors of a hypergradient, a pytree like `outer`, are finite.

    What is no tensor in it, such as the factor pairs of a structure, is left to its own checks.

    Args:
        outer: the outer variables.
        grad: the hypergradient.
        steps: number of steps that it goes back over.
    """
    if not all_finite(grad):
        found = faults(outer.paths, outer.spec.flatten_up_to(grad))
        raise NumericalError(
            f"the hypergradient must be finite, but {'; '.join(f'that of {fault}' for fault in found)} after {steps} "
            "steps; look for an infinite derivative, such as that of sqrt, norm or log at 0, or take fewer or smaller "
            "steps"
        )


def check_objective(value: float, step: int, paths: Sequence[str], leaves: Sequence[Any]) -> None:
    """Raise NumericalError unless the outer objective at the state (paths, leaves) is finite."""
    if not math.isfinite(value):
        found = faults(paths, leaves) or ["the state is finite"]
        raise NumericalError(
            f"the outer objective must be finite, but is {value} after step {step}, where {', '.join(found)}; lower "
            "the inner learning rate, or look at the outer objective and its data"
        )


def check_depth(
    t: int,
    costate: tuple[Sequence[str], Sequence[Any]],
    increments: tuple[Sequence[str], Sequence[Any]],
    norms: Sequence[float],
    param_norms: Sequence[float],
    steps: int,
) -> None:
    """Raise NumericalError unless the costate P_t, and what step t adds to the hypergradient, are finite.

    Args:
        t: the step.
        costate: paths and cotangents of the state.
        increments: paths and cotangents of the outer variables.
        norms: ‖P‖ at the depths so far, the last one that of P_t.
        param_norms: the same on the params.
        steps: T.
    """
    for name, (paths, parts) in (("costate", costate), ("hypergradient", increments)):
        if found := faults(paths, parts):
            depth = steps - t
            shown = last_finite([(steps - k, p) for k, p in enumerate(norms)])
            begins = explosion([p for p in param_norms if math.isfinite(p)])
            cause = "the step may have an infinite derivative there, such as that of sqrt, norm or log at 0"
            if begins is not None:
                cause = (
                    f"costates explode from depth {begins} on, where they exceed {EXPLOSION:.0e} times the first: "
                    f"take a horizon below {begins}, or a lower inner learning rate"
                )
            raise NumericalError(
                f"the {name} must be finite, but {', '.join(f'that of {fault}' for fault in found)} at step {t}, depth "
                f"{depth} of the sweep (last finite costate norms: {shown}); {cause}"
            )


def last_finite(values: Iterable[tuple[int, float]]) -> str:
    """Return the last finite ones of (step, value) in words."""
    shown = [(t, x) for t, x in values if math.isfinite(x)][-_SHOWN:]
    listed = ", ".join(f"{x:.3g}" for _, x in shown)
    return f"{listed} at {', '.join(str(t) for t, _ in shown)}" if shown else "none"


def check_losses(losses: ScalarLog, bind: Callable[[], tuple[Dynamics, list[Any]]], begin: int, end: int) -> None:
    """Raise NumericalError if the inner objective was not finite at a step, by running them again.

    Args:
        losses: what was noted.
        bind: returns Φ and the state before step `begin`.
        begin: the first step.
        end: the step after the last one.
    """
    if not losses.suspicious():
        return
    dynamics, leaves = bind()
    seen: list[tuple[int, float]] = []
    with forked(dynamics.cuda):
        for t in range(begin, end):
            before, leaves = leaves, dynamics.advance(t, leaves, dynamics.draws(t))
            value = dynamics.inner.take()
            if value is not None and not bool(value.isfinite()):
                found = faults(dynamics.spec.paths, before)
                state = f"where {', '.join(found)}" if found else "where the state is finite"
                raise NumericalError(
                    f"the inner objective must be finite, but is {value.item()} at step {dynamics.start + t}, {state} "
                    f"(last finite values: {last_finite(seen)}); lower the inner learning rate, or look at the inner "
                    "objective and its data"
                )
            if value is not None:
                seen = [*seen[1 - _SHOWN :], (dynamics.start + t, value.item())]
    for kept in losses.floats():
        if not math.isfinite(kept):
            raise NumericalError(
                f"the inner objective must be finite, but was {kept} in one of the last {len(losses)} steps, and not "
                "where these were run again; make it a function of its arguments"
            )
