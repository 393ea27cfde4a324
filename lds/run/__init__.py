"""Training runs on disk."""

from lds.run._config import METHODS, TrainConfig
from lds.run._train import train, train_once

__all__ = ["METHODS", "TrainConfig", "train", "train_once"]
