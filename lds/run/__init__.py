"""Training runs on disk."""

from lds.run._baseline_config import BASELINES, BaselineConfig
from lds.run._config import METHODS, TrainConfig
from lds.run._export import EXPORT_FORMATS, export_graph
from lds.run._failure import replay_failure
from lds.run._load import load_data
from lds.run._make_config import make_config
from lds.run._node_names import read_node_names
from lds.run._structure import read_structure
from lds.run._train import resume, train, train_once

__all__ = [
    "BASELINES",
    "EXPORT_FORMATS",
    "METHODS",
    "BaselineConfig",
    "TrainConfig",
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
