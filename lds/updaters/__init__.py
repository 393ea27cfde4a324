"""Inner updaters Φ: differentiable optimization steps that the engine can unroll."""

from lds._keywords import explain_classes
from lds._updater import (
    Functional,
    FunctionalSlots,
    GradientUpdater,
    KnowsGradient,
    Objective,
    PyTree,
    State,
    Updater,
    as_updater,
    gradient,
)
from lds.updaters import schedules
from lds.updaters._adadelta import Adadelta, AdadeltaSlots
from lds.updaters._adafactor import Adafactor, AdafactorSlots
from lds.updaters._adagrad import Adagrad, AdagradSlots
from lds.updaters._adam import Adam, AdamSlots
from lds.updaters._adamax import Adamax
from lds.updaters._adamw import AdamW
from lds.updaters._asgd import ASGD, ASGDSlots
from lds.updaters._check import check_updater
from lds.updaters._clip import ClipByNorm, ClipByValue
from lds.updaters._coefficient import Coefficient, Schedule
from lds.updaters._from_torch import from_torch
from lds.updaters._groups import Groups
from lds.updaters._lion import Lion
from lds.updaters._muon import Muon
from lds.updaters._nadam import NAdam, NAdamSlots
from lds.updaters._radam import RAdam
from lds.updaters._rmsprop import RMSprop, RMSpropSlots
from lds.updaters._rprop import Rprop, RpropSlots
from lds.updaters._sgd import SGD, DampenedSlots

__all__ = [
    "ASGD",
    "SGD",
    "ASGDSlots",
    "Adadelta",
    "AdadeltaSlots",
    "Adafactor",
    "AdafactorSlots",
    "Adagrad",
    "AdagradSlots",
    "Adam",
    "AdamSlots",
    "AdamW",
    "Adamax",
    "ClipByNorm",
    "ClipByValue",
    "Coefficient",
    "DampenedSlots",
    "Functional",
    "FunctionalSlots",
    "GradientUpdater",
    "Groups",
    "KnowsGradient",
    "Lion",
    "Muon",
    "NAdam",
    "NAdamSlots",
    "Objective",
    "PyTree",
    "RAdam",
    "RMSprop",
    "RMSpropSlots",
    "Rprop",
    "RpropSlots",
    "Schedule",
    "State",
    "Updater",
    "as_updater",
    "check_updater",
    "from_torch",
    "gradient",
    "schedules",
]

explain_classes(
    SGD,
    Adam,
    AdamW,
    ASGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adamax,
    ClipByNorm,
    ClipByValue,
    Functional,
    Groups,
    Lion,
    Muon,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
)
