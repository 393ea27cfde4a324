"""Models that use a sampled graph."""

from lds.nn._backbone import Backbone
from lds.nn._gcn import GCN
from lds.nn._sage import SAGE

__all__ = ["GCN", "SAGE", "Backbone"]
