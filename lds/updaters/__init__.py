"""Inner updaters Φ: differentiable optimization steps that the engine can unroll."""

from lds._updater import FunctionalUpdater, GradientUpdater, Objective, PyTree, State, Updater, as_updater, gradient
from lds.updaters import schedules
from lds.updaters._adagrad import Adagrad
from lds.updaters._adam import Adam, AdamSlots
from lds.updaters._adamw import AdamW
from lds.updaters._check import check_updater
from lds.updaters._clip import ClipByNorm, ClipByValue
from lds.updaters._coefficient import Coefficient, Schedule
from lds.updaters._lion import Lion
from lds.updaters._rmsprop import RMSprop, RMSpropSlots
from lds.updaters._sgd import SGD

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamSlots",
    "AdamW",
    "ClipByNorm",
    "ClipByValue",
    "Coefficient",
    "FunctionalUpdater",
    "GradientUpdater",
    "Lion",
    "Objective",
    "PyTree",
    "RMSprop",
    "RMSpropSlots",
    "Schedule",
    "State",
    "Updater",
    "as_updater",
    "check_updater",
    "gradient",
    "schedules",
]
