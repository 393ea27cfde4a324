"""The data of a run: loaded as the configuration says, and told apart from other data."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from lds.run._config import BaselineConfig, TrainConfig

if TYPE_CHECKING:
    from torch import Tensor
    from torch_geometric.data import Data


def load_data(config: TrainConfig | BaselineConfig) -> Data:
    """Return the data set that a configuration names, or what its file holds, split by the seed of the run.

    Raises:
        InputError: an option does not go with the data.
        DataError: the data set is unknown, missing or corrupt, or the file is missing, malformed or inconsistent.

    Example:
        >>> from lds.run import TrainConfig, load_data
        >>> load_data(TrainConfig("iris", "ffnn")).num_classes
        3
    """
    # Here, and not above: the command line must answer without torch.
    from lds.data import load, read

    # The baselines of scikit-learn use no edges.
    retain = config.retain if isinstance(config, TrainConfig) else 1.0
    if config.data is None:
        return load(
            config.source,
            root=config.data_root,
            retain=retain,
            split=config.split,
            scale=config.scale,
            features=config.features,
            seed=config.seed,
        )
    return read(
        config.data,
        label=config.label,
        id=config.id,
        edges=config.edges,
        sep=config.sep,
        drop=config.drop,
        one_hot=config.one_hot,
        impute=config.impute,
        unlabelled=config.unlabelled,
        features=config.features,
        scale=config.scale or "none",
        weights=config.weights,
        split=config.split,
        train_size=config.train_size,
        val_size=config.val_size,
        es_size=config.es_size,
        retain=retain,
        seed=config.seed,
    )


def fingerprint(data: Data) -> str:
    """Return a text that tells data sets apart: SHA-256 over features, labels, edges with their weights, and masks."""
    from lds.data import MASKS

    digest = hashlib.sha256()
    for name in ("x", "y", "edge_index", "edge_weight", *MASKS):
        if (value := data.get(name)) is not None:
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            for part in _parts(name, value):
                digest.update(part.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _parts(name: str, value: Tensor) -> tuple[Tensor, ...]:
    """Return dense tensors that are the same for dense and sparse features, and no larger than these."""
    if name != "x":
        return (value,)
    entries: Tensor = value.to_sparse_coo().coalesce()  # type: ignore[no-untyped-call]
    there = entries.values() != 0  # A sparse tensor may store zeros.
    return entries.indices()[:, there], entries.values()[there]
