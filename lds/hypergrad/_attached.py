"""Does a step depend on an outer variable behind autograd's back?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lds.errors import InputError
from lds.hypergrad._dynamics import Dynamics
from lds.hypergrad._leaves import copied
from lds.hypergrad._outer import STEADY


def check_attached(
    dynamics: Dynamics,
    t: int,
    leaves: Sequence[Any],
    draws: Sequence[Any],
    results: Sequence[Any],
    *,
    unreached: Sequence[int],
    asked: Sequence[bool],
) -> None:
    """Raise InputError if step t changes with an outer variable to which autograd saw no path.

    Args:
        dynamics: Φ.
        t: the step.
        leaves: the state before it.
        draws: what it was shown.
        results: the state after it.
        unreached: indices of the outer variables without a path.
        asked: which leaves of the result to look at.
    """

    def run(draws: Sequence[Any]) -> list[Any]:
        # On copies: without gradients, as when recording, Φ may write to the state it is given.
        return dynamics.advance(t, copied(leaves), draws)

    steady = [(i, v) for i in unreached if isinstance(v := dynamics.outer.variables[i], STEADY)]
    before = run(draws) if steady else []
    for index, variable in steady:
        after = run([*draws[:index], variable.nudge(draws[index]), *draws[index + 1 :]])
        for x, y, result, look in zip(before, after, results, asked, strict=True):
            # A step that does not repeat itself bit by bit differs anyway, so nothing can be told from it.
            if look and torch.equal(x, result) and not torch.equal(x, y):
                raise InputError(
                    f"the step of {type(dynamics.updater).__name__} must be differentiable in "
                    f"{dynamics.outer.paths[index]}: its result changes with that variable but is detached from it; "
                    "take inner gradients with lds.updaters.gradient (or create_graph=True), and use no .detach(), "
                    ".item() or torch.no_grad()"
                )
