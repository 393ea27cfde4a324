"""What a learner says and keeps where a number is not finite."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lds.errors import InputError, NumericalError, OuterStepError, PremiseWarning
from lds.hypergrad import SweepDiagnostics
from lds.learner._progress import Progress


@contextmanager
def reproducible(progress: Progress, start: dict[str, Any] | None) -> Iterator[None]:
    """Have a NumericalError carry where learning stood before: with that, the outer step can be run again.

    Args:
        progress: where learning stands; what a window changes of it before it fails is changed back.
        start: where to begin instead, for windows that need iterates of earlier ones; None: here.

    Raises:
        OuterStepError: a number is NaN or infinite inside.
    """
    before = progress.state, progress.trajectory, progress.inner_loss
    try:
        yield
    except NumericalError as error:
        progress.state, progress.trajectory, progress.inner_loss = before
        values = _dump(progress) if start is None else start
        step = progress.outer_step + 1
        raise OuterStepError(f"in outer step {step}, epoch {progress.epoch}: {error}", step, values) from error


def epoch_start(progress: Progress, *, needed: bool) -> dict[str, Any] | None:
    """Return a copy of where learning stands if it is needed and can be saved: θ changes in place."""
    return _dump(progress) if needed else None


def report_explosion(progress: Progress, diagnostics: SweepDiagnostics) -> None:
    """Warn, once a training, of costates that explode."""
    if diagnostics.explodes_at is not None and not progress.warned:
        progress.warned = True
        warnings.warn(
            f"costates explode: in outer step {progress.outer_step + 1} they exceed a million times the first from "
            f"depth {diagnostics.explodes_at} of {diagnostics.steps_swept} on; take a horizon below "
            f"{diagnostics.explodes_at}, or a lower inner learning rate",
            PremiseWarning,
            stacklevel=5,  # At the line that calls `fit`.
        )


def check_evaluation(loss: float) -> None:
    """Raise NumericalError unless the loss on the early-stopping nodes is finite."""
    if not math.isfinite(loss):
        raise NumericalError(
            f"the loss on the early-stopping nodes must be finite, but is {loss}; lower the inner learning rate, or "
            "look at the features"
        )


def _dump(progress: Progress) -> dict[str, Any] | None:
    try:
        return progress.dump()
    except InputError:  # An updater whose slots cannot be saved; the error that matters is another one.
        return None
