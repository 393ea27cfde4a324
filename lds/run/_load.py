"""The data of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lds.run._config import TrainConfig

if TYPE_CHECKING:
    from torch_geometric.data import Data

    from lds.run._baseline_config import BaselineConfig


def load_data(config: TrainConfig | BaselineConfig) -> Data:
    """Return the data set that a configuration names, or what its file holds, split by the seed of the run.

    Raises:
        InputError: an option does not go with the data.
        DataError: the data set is unknown, missing or corrupt, or the file is missing, malformed or inconsistent.
    """
    # Here, and not above: the command line must answer without torch.
    from lds.data import load, read

    # The baselines of scikit-learn use no edges.
    retain = config.retain if isinstance(config, TrainConfig) else 1.0
    if config.data is None:
        return load(config.source, root=config.data_root, retain=retain, seed=config.seed)
    return read(
        config.data,
        label=config.label,
        id=config.id,
        edges=config.edges,
        scale=config.scale,
        train_size=config.train_size,
        val_size=config.val_size,
        es_size=config.es_size,
        retain=retain,
        seed=config.seed,
    )
