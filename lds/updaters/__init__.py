"""Inner updaters Φ: differentiable optimization steps that the engine can unroll."""

from lds.updaters._adam import Adam, AdamSlots
from lds.updaters._protocol import Objective, PyTree, State, Updater, gradient
from lds.updaters._sgd import SGD

__all__ = ["SGD", "Adam", "AdamSlots", "Objective", "PyTree", "State", "Updater", "gradient"]
