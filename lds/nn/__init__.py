"""Models that use a sampled graph."""

from lds.nn._backbone import Backbone
from lds.nn._gcn import GCN

__all__ = ["GCN", "Backbone"]
