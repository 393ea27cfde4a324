"""Truncation-depth ablations: what a shorter horizon costs in exactness and saves in time."""

from lds.ablate._ablation import Ablation, Recommendation, Row
from lds.ablate._config import AblationConfig
from lds.ablate._fidelity import fidelity
from lds.ablate._measure import measure
from lds.ablate._run import ablate

__all__ = ["Ablation", "AblationConfig", "Recommendation", "Row", "ablate", "fidelity", "measure"]
