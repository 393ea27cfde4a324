"""Hypergradients by unrolled optimization, and graph structures learned with them.

`lds.hypergrad` and `lds.updaters` are the engine; `StructureLearner` and `FixedGraphLearner` are imported when first
asked for, since they bring scipy and torch_geometric.
"""

from typing import TYPE_CHECKING

from lds._version import __version__

if TYPE_CHECKING:
    from lds.learner import FixedGraphLearner, StructureLearner

__all__ = ["FixedGraphLearner", "StructureLearner", "__version__"]


def __getattr__(name: str) -> object:
    if name in ("FixedGraphLearner", "StructureLearner"):
        from lds import learner

        return getattr(learner, name)
    raise AttributeError(f"module 'lds' has no attribute {name!r}")
