"""Memory policies: what the recorder keeps of a trajectory, and what the sweep computes again."""

from lds._keywords import explain_classes
from lds.hypergrad._dynamics import Dynamics, Step, StepGraph, StepResult
from lds.hypergrad.memory._checkpoint import Binomial, Checkpoint
from lds.hypergrad.memory._disk import Disk
from lds.hypergrad.memory._gradients import KeepGradients
from lds.hypergrad.memory._graphs import KeepGraphs
from lds.hypergrad.memory._states import KeepStates, Offload
from lds.hypergrad.memory._tape import Memory, Tape

__all__ = [
    "Binomial",
    "Checkpoint",
    "Disk",
    "Dynamics",
    "KeepGradients",
    "KeepGraphs",
    "KeepStates",
    "Memory",
    "Offload",
    "Step",
    "StepGraph",
    "StepResult",
    "Tape",
]

explain_classes(KeepGraphs, KeepStates, Checkpoint, Binomial, Disk, Offload)
