"""Hypergradients by unrolled optimization, and graph structures learned with them.

`lds.hypergrad` and `lds.updaters` are the engine; `StructureLearner`, `FixedGraphLearner` and `LDSClassifier` are
imported when first asked for, since they bring scipy, scikit-learn and torch_geometric.
"""

from typing import TYPE_CHECKING

from lds._version import __version__

if TYPE_CHECKING:
    from lds.estimator import LDSClassifier
    from lds.learner import FixedGraphLearner, StructureLearner

__all__ = ["FixedGraphLearner", "LDSClassifier", "StructureLearner", "__version__"]


def __getattr__(name: str) -> object:
    if name in ("FixedGraphLearner", "StructureLearner"):
        from lds import learner

        return getattr(learner, name)
    if name == "LDSClassifier":
        from lds.estimator import LDSClassifier

        return LDSClassifier
    raise AttributeError(f"module 'lds' has no attribute {name!r}")
