"""Training runs on disk."""

from lds.run._config import BaselineConfig, TrainConfig, make_config
from lds.run._data import load_data
from lds.run._export import EXPORT_FORMATS, export_graph
from lds.run._failure import replay_failure
from lds.run._logs import CSVLog, LogName, MLflowLog, WandbLog
from lds.run._methods import BASELINES, METHODS
from lds.run._reader import read_node_names, read_structure
from lds.run._tensorboard import TensorBoard
from lds.run._train import resume, train, train_once

__all__ = [
    "BASELINES",
    "EXPORT_FORMATS",
    "METHODS",
    "BaselineConfig",
    "CSVLog",
    "LogName",
    "MLflowLog",
    "TensorBoard",
    "TrainConfig",
    "WandbLog",
    "export_graph",
    "load_data",
    "make_config",
    "read_node_names",
    "read_structure",
    "replay_failure",
    "resume",
    "train",
    "train_once",
]
