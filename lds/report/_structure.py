"""The learned structure of a run, next to what it started from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lds._read import load_arrays, reason
from lds.errors import DataError, LDSError
from lds.report._run import Run
from lds.run import TrainConfig, load_data, make_config

if TYPE_CHECKING:
    from torch_geometric.data import Data

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Learned:
    """What graph.npz holds, each pair i < j once.

    Attributes:
        pairs: the pairs, shape [2, E].
        probability: θ of each, shape [E]; what lies at or below 0.01 was not saved.
        num_nodes: number of nodes.
    """

    pairs: Integers
    probability: Floats
    num_nodes: int


@dataclass(frozen=True)
class Known:
    """What the data set says about the nodes of a run.

    Attributes:
        labels: class of each node.
        split: name of the split of each node; "" where it is in none.
        initial: pairs i < j of the structure that learning started from, shape [2, E].
    """

    labels: Integers
    split: tuple[str, ...]
    initial: Integers


def learned(path: Path) -> Learned | None:
    """Return the learned structure of a run folder; None where it is not there.

    Raises:
        DataError: the file is malformed.
    """
    file = path / "graph.npz"
    if not file.exists():
        return None
    try:
        arrays = load_arrays(file)
        index = arrays["edge_index"].astype(np.int64)
        weight = arrays["edge_weight"].astype(np.float64)
        num_nodes = int(arrays["num_nodes"].item())
    except (OSError, KeyError, ValueError, TypeError, ArithmeticError) as error:
        raise DataError(
            f"{file} must hold edge_index, edge_weight and num_nodes, but {reason(error)}; run again"
        ) from error
    if index.ndim != 2 or index.shape != (2, weight.size) or not ((index >= 0) & (index < num_nodes)).all():
        raise DataError(
            f"{file} needs E pairs of {num_nodes} nodes, got shape {index.shape} and E = {weight.size}; run again"
        )
    once = index[0] < index[1]
    return Learned(index[:, once], weight[once], num_nodes)


def known(run: Run, data_root: str | None, num_nodes: int) -> Known | str:
    """Return labels, splits and initial pairs of a run, or why they are not to be had."""
    from lds.data import MASKS

    root = data_root if data_root is not None else run.config.get("data_root")
    try:
        data = load_data(make_config({**run.config, "data_root": root}))
        initial = _initial(run, data)
    except LDSError as error:
        return str(error)
    if data.num_nodes != num_nodes:
        return f"{run.dataset} has {data.num_nodes} nodes, but the learned structure {num_nodes}"
    split = [""] * num_nodes
    for mask in MASKS:
        for node in data[mask].nonzero().flatten().tolist():
            split[node] = mask.removesuffix("_mask")
    return Known(data.y.numpy(), tuple(split), initial)


def is_in(pairs: Integers, others: Integers, num_nodes: int) -> Booleans:
    """Return for each pair whether it is among the others."""
    return np.isin(pairs[0] * num_nodes + pairs[1], others[0] * num_nodes + others[1])


def _initial(run: Run, data: Data) -> Integers:
    from lds.graph import GivenGraph, KNNGraph

    given: bool = data.edge_index.numel() > 0
    if run.method == "ffnn":
        return np.empty((2, 0), dtype=np.int64)
    if run.method.startswith("knn-") or not given:
        k, metric = run.config.get("k", TrainConfig.k), run.config.get("metric", TrainConfig.metric)
        pairs = KNNGraph(k, metric)(data)
    else:
        pairs = GivenGraph()(data)
    return np.asarray(pairs.numpy(), dtype=np.int64)
