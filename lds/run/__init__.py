"""Training runs on disk."""

from lds.run._config import METHODS, TrainConfig
from lds.run._train import train

__all__ = ["METHODS", "TrainConfig", "train"]
