"""The error classes of the package: each message says what was needed, what came, and what to do."""

from __future__ import annotations

from typing import Any


class LDSError(Exception):
    """Base class of every error that the package raises on purpose."""


class InputError(LDSError, ValueError):
    """A value, a function or a data set handed to the package is not what it must be."""


class KeywordError(InputError, TypeError):
    """A function was given a keyword that it does not take; the message says what to write."""


class DataError(InputError):
    """A data set is unknown, missing, corrupt or inconsistent."""


class StorageError(LDSError, OSError):
    """A file cannot be written; what was there before is still whole."""


class ReplayError(LDSError, RuntimeError):
    """A recomputed inner step differs from the recorded one, so the hypergradient would be wrong."""


class NumericalError(LDSError, ArithmeticError):
    """A number is NaN or infinite where it must be finite."""


class OuterStepError(NumericalError):
    """A number is NaN or infinite in an outer step of a learner.

    Args:
        message: what happened.
        outer_step: the outer step, from 1, over all epochs.
        progress: where learning stood before it, or before its epoch; as `resume=` of `fit` it leads there again. None
            where the updater's slots cannot be saved.
    """

    def __init__(self, message: str, outer_step: int, progress: dict[str, Any] | None) -> None:
        super().__init__(message)
        self.outer_step = outer_step
        self.progress = progress


class ContractError(LDSError, AssertionError):
    """An updater breaks the contract of updaters."""


class PremiseWarning(UserWarning):
    """What a method takes for granted does not hold, so its hypergradient may be off."""


class ForeignTensorWarning(PremiseWarning):
    """An objective or a step depends on a trainable tensor that is neither in params nor in outer."""


class UnreachedWarning(PremiseWarning):
    """Nothing depends on an outer variable, so its hypergradient is zero."""


class DerivativeWarning(PremiseWarning):
    """The vector-Jacobian product of an inner step is not the derivative of its values."""


class MissingMaskWarning(UserWarning):
    """Data has no early-stopping nodes, so that a half of its validation nodes became them."""


class UnverifiedWarning(UserWarning):
    """A folder of an earlier version has no sums, so that nobody can tell whether its files have changed."""


class HypergradientCheckError(LDSError, AssertionError):
    """A hypergradient is not the derivative of the outer objective."""
