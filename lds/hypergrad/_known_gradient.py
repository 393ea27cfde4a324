"""Whether the gradient that an inner objective knows by a formula is that of its value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import optree
import torch
from torch import Tensor

from lds._random import SPOT, STEP, reseed
from lds._updater import PyTree, gradient
from lds.errors import InputError
from lds.hypergrad._dynamics import Dynamics
from lds.hypergrad._met import met
from lds.hypergrad._outer import SteadyTracer, is_differentiable

# What is rounding: 4 √ε of the tensor that is compared, and 16 ε of the largest one.
_OWN, _LARGEST = 4.0, 16.0

_ValueAndGrad: TypeAlias = Callable[[PyTree, PyTree], "tuple[Tensor, PyTree] | None"]


def check_known_gradient(dynamics: Dynamics, t: int, leaves: Sequence[Any]) -> None:
    r"""Compare an objective's `value_and_grad` with autograd: L, its gradient g, and the derivative of ⟨v, g⟩.

    The derivative is taken in the params and in outer variables that are tensors, along a random v. A problem that is
    solved again and again is looked at in the first, second, fourth, eighth, … call. Runs inside `forked`.

    Args:
        dynamics: Φ; its objective has a `value_and_grad`, and no batches.
        t: a step, whose draws and noise are taken.
        leaves: those of a state, which the comparison begins from.

    Raises:
        InputError: they differ by more than rounding.
    """
    look = met(dynamics.inner, "value_and_grad", tuple(dynamics.spec.kinds))
    # Inside of torch.func no number can be read.
    if torch._C._are_functorch_transforms_active() or not look.is_due():
        return
    reseed(dynamics.seed, dynamics.start + t, SPOT, cuda=dynamics.cuda)
    moved = [_moved(x) if is_differentiable(x) else x for x in leaves]
    try:
        ours = _derivatives(dynamics, t, moved, dynamics.inner.value_and_grad)  # type: ignore[attr-defined]
        if ours is None:
            return
        theirs = _derivatives(dynamics, t, moved, partial(_by_autograd, dynamics.inner)) or {}
    except Exception:
        return  # Out of the objective's domain; what fails in a step, too, is said there.
    for about in (about for about in ours if about in theirs):
        if (off := _difference(ours[about], theirs[about])) is not None:
            look.forget()
            raise InputError(
                f"value_and_grad of the inner objective must agree with autograd, but {about}: they differ by "
                f"{off:.2g} of their size; correct the formula, and compute it from the arguments, without .detach() "
                "and torch.no_grad()"
            )


@torch.no_grad()
def _moved(x: Tensor) -> Tensor:
    """Return a tensor times a number between 0.1 and 0.4, and positive numbers in place of zeros.

    At a minimum, or where a loss is saturated, a gradient is nothing but rounding; on the way to zero it is not. And
    what has to be positive there, or positive definite, is so here, too.
    """
    return x * (0.1 + 0.3 * torch.rand((), device=x.device)).to(x.dtype) if bool(x.any()) else torch.rand_like(x)


def _by_autograd(inner: Callable[..., Tensor], params: PyTree, outer: PyTree) -> tuple[Tensor, PyTree]:
    """Return value and gradient of an objective without regard to what it knows."""
    values = []

    def objective(params: PyTree, outer: PyTree) -> Tensor:
        values.append(inner(params, outer))
        return values[-1]

    grads = gradient(objective, params, outer)
    return values[0], grads


@torch.enable_grad()
def _derivatives(
    dynamics: Dynamics, t: int, leaves: Sequence[Any], value_and_grad: _ValueAndGrad
) -> dict[str, Sequence[Tensor | None]] | None:
    """Return value, gradient, and the derivatives of ⟨v, gradient⟩, by what to say where one is wrong."""
    tracers, outer = dynamics.outer.trace(dynamics.draws(t))
    params = dynamics.spec.unflatten(dynamics.spec.inputs(leaves), 0).params
    reseed(dynamics.seed, dynamics.start + t, STEP, cuda=dynamics.cuda)
    found = value_and_grad(params, outer)
    if found is None:
        return None
    value, grads = found[0].detach(), optree.tree_leaves(found[1])
    steady = [x for tracer in tracers if isinstance(tracer, SteadyTracer) for x in tracer.leaves]
    inputs = [*optree.tree_leaves(params), *steady]
    reseed(dynamics.seed, dynamics.start + t, SPOT, cuda=dynamics.cuda)
    along = [torch.randn_like(g) for g in grads]
    flowing = [(g, v) for g, v in zip(grads, along, strict=True) if g.requires_grad]
    figures: dict[str, Sequence[Tensor | None]] = {
        "its value is not that of a call": [value],
        "its gradient is not that of the value": [g.detach() for g in grads],
    }
    derivatives: Sequence[Tensor | None] = [None] * len(inputs)
    if flowing:
        ys, vs = zip(*flowing, strict=True)
        try:
            derivatives = torch.autograd.grad(ys, inputs, vs, allow_unused=True)
        except RuntimeError:
            return figures  # A formula may stand in for a second derivative that torch does not have.
    return figures | {"the derivative of its gradient is not that of autograd's": derivatives}


def _difference(ones: Sequence[Tensor | None], others: Sequence[Tensor | None]) -> float | None:
    """Return the largest difference of tensors in pairs, as a share of their size; None where all is rounding.

    None stands for a tensor of zeros. What is not finite others report.
    """
    figures = []
    for x, y in zip(ones, others, strict=True):
        like = y if x is None else x
        if like is None:
            continue
        x, y = (torch.zeros_like(like) if z is None else z for z in (x, y))
        size = max(float(torch.linalg.vector_norm(z)) for z in (x, y))
        figures.append((float(torch.linalg.vector_norm(x - y)), size, torch.finfo(like.dtype).eps))
    largest = max((size for _, size, _ in figures), default=0.0)
    off = [
        error / size
        for error, size, eps in figures
        if math.isfinite(error) and error > _OWN * eps**0.5 * size + _LARGEST * eps * largest
    ]
    return max(off, default=None)
