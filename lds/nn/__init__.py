"""Models that use a sampled graph."""

from lds.nn._backbone import Backbone
from lds.nn._gcn_loss import GCNLoss
from lds.nn._networks import GCN, SAGE
from lds.nn._propagation import APPNP, SGC

__all__ = ["APPNP", "GCN", "SAGE", "SGC", "Backbone", "GCNLoss"]
