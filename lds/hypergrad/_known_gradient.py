"""Whether the gradient that an inner objective knows by a formula is that of its value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import optree
import torch
from torch import Tensor

from lds._random import SPOT, STEP, reseed
from lds._updater import PyTree, State, gradient
from lds.errors import InputError
from lds.hypergrad._dynamics import Costate, Dynamics, Step, StepGraph
from lds.hypergrad._guards import Watcher
from lds.hypergrad._outer import SteadyTracer

# The largest difference that is rounding, as a share of what is compared: √ε, and more for sums in single precision.
_ROUNDING = 4.0

_ValueAndGrad: TypeAlias = Callable[[PyTree, PyTree], "tuple[Tensor, PyTree] | None"]


class SameAsAutograd(Watcher):
    r"""Compares the last step's `value_and_grad` with autograd: L, its gradient g, and the derivative of ⟨v, g⟩.

    The derivative is taken in the params and in outer variables that are tensors, along a random v.
    """

    def __init__(self) -> None:
        self._last = -1

    def start(self, dynamics: Dynamics, final: State, graph: StepGraph) -> None:
        """Note where the sweep begins."""
        self._last = final.step - dynamics.start - 1

    def before(self, t: int, dynamics: Dynamics, step: Step, graph: StepGraph, costate: Costate) -> None:
        """Raise InputError if they differ by more than rounding."""
        if t != self._last:
            return
        known = getattr(dynamics.objective(t), "value_and_grad", None)
        ours = None if known is None else _derivatives(dynamics, t, step, known)
        if ours is None:
            return
        theirs = _derivatives(dynamics, t, step, partial(_by_autograd, dynamics.inner))
        assert theirs is not None
        for (about, x), y in zip(ours.items(), theirs.values(), strict=True):
            if (off := _difference(x, y)) is not None:
                raise InputError(
                    f"value_and_grad of the inner objective must agree with autograd, but {about}: they differ by "
                    f"{off:.2g} of their size in step {t}; correct the formula, and compute it from the arguments, "
                    "without .detach() and torch.no_grad()"
                )


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
    dynamics: Dynamics, t: int, step: Step, value_and_grad: _ValueAndGrad
) -> dict[str, Sequence[Tensor | None]] | None:
    """Return value, gradient, and the derivatives of ⟨v, gradient⟩ in step t, by what to say where one is wrong."""
    tracers, outer = dynamics.outer.trace(step.draws)
    params = dynamics.spec.unflatten(dynamics.spec.inputs(step.leaves), 0).params
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
    derivatives: Sequence[Tensor | None] = [None] * len(inputs)
    if flowing:
        ys, vs = zip(*flowing, strict=True)
        derivatives = torch.autograd.grad(ys, inputs, vs, allow_unused=True)
    return {
        "its value is not that of a call": [value],
        "its gradient is not that of the value": [g.detach() for g in grads],
        "the derivative of its gradient is not that of autograd's": derivatives,
    }


def _difference(ones: Sequence[Tensor | None], others: Sequence[Tensor | None]) -> float | None:
    """Return the largest difference of two lists of tensors as a share of the largest; None where it is rounding.

    None stands for a tensor of zeros. What is not finite others report.
    """
    pairs = [(x, y) for x, y in zip(ones, others, strict=True) if x is not None or y is not None]
    differences = [y if x is None else x if y is None else x - y for x, y in pairs]
    error = max((float(torch.linalg.vector_norm(d)) for d in differences if d is not None), default=0.0)
    tensors = [x for pair in pairs for x in pair if x is not None]
    size = max((float(torch.linalg.vector_norm(x)) for x in tensors), default=0.0)
    eps = max((torch.finfo(x.dtype).eps for x in tensors), default=0.0)
    return None if not math.isfinite(error) or error <= _ROUNDING * eps**0.5 * size else error / size
