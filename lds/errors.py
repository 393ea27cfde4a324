"""The error classes of the package: each message says what was needed, what came, and what to do."""


class LDSError(Exception):
    """Base class of every error that the package raises on purpose."""


class InputError(LDSError, ValueError):
    """A value, a function or a data set handed to the package is not what it must be."""


class DataError(InputError):
    """A data set is unknown, missing, corrupt or inconsistent."""


class ReplayError(LDSError, RuntimeError):
    """A recomputed inner step differs from the recorded one, so the hypergradient would be wrong."""


class NumericalError(LDSError, ArithmeticError):
    """A number is NaN or infinite where it must be finite."""


class ContractError(LDSError, AssertionError):
    """An updater breaks the contract of updaters."""


class PremiseWarning(UserWarning):
    """What a method takes for granted does not hold, so its hypergradient may be off."""


class HypergradientCheckError(LDSError, AssertionError):
    """A hypergradient is not the derivative of the outer objective."""
