"""Models that use a graph through products only."""

from lds.nn._gcn import GCN

__all__ = ["GCN"]
