"""Learning a graph structure, and the baseline that does not."""

from lds._callbacks import Callback, EpochRecord, FoldRecord, StepRecord
from lds._keywords import explain_classes
from lds.learner._alternatives import alternatives
from lds.learner._choice import Choice, Score, choose
from lds.learner._denoising import Denoising
from lds.learner._fit import Fit, check_criterion, extract
from lds.learner._fixed_graph_learner import FixedGraphLearner
from lds.learner._structure_learner import StructureLearner

__all__ = [
    "Callback",
    "Choice",
    "Denoising",
    "EpochRecord",
    "Fit",
    "FixedGraphLearner",
    "FoldRecord",
    "Score",
    "StepRecord",
    "StructureLearner",
    "alternatives",
    "check_criterion",
    "choose",
    "extract",
]

explain_classes(FixedGraphLearner, StructureLearner)
