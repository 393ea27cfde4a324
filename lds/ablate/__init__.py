"""Truncation-depth ablations: what a shorter horizon costs in exactness and saves in time."""

from lds.ablate._ablation import Ablation, AblationConfig, Recommendation, Row
from lds.ablate._fidelity import fidelity
from lds.ablate._measure import ablate, measure

__all__ = ["Ablation", "AblationConfig", "Recommendation", "Row", "ablate", "fidelity", "measure"]
