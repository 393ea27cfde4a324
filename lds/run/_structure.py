"""The learned structure of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lds._read import load_arrays, load_tensors, reason
from lds.errors import DataError, InputError
from lds.run._config import TrainConfig
from lds.run._folder import RESULT
from lds.run._train import read_config

if TYPE_CHECKING:
    from lds.graph import Structure

# The methods that keep θ on all pairs; the others have one graph.
_ALL_PAIRS = ("lds", "knn-lds", "frozen")


def read_structure(folder: Path) -> Structure:
    """Return θ of a run that has ended: all of it from checkpoint.pt, or the fixed graph of a baseline from graph.npz.

    Raises:
        InputError: there is no run in the folder, or it has not ended, or its method has no graph.
        DataError: a file of the run is missing or damaged.
    """
    import torch

    from lds.graph import AllPairs, CandidatePairs

    config = read_config(folder)
    if not isinstance(config, TrainConfig) or config.method == "ffnn":
        raise InputError(f"{folder} must be a run with a graph, but {config.method} has none; choose another run")
    if not (folder / RESULT).exists():
        raise InputError(f"{folder} must be a run that has ended, but has no {RESULT}; lds train --resume {folder}")
    graph, checkpoint = folder / "graph.npz", folder / "checkpoint.pt"
    try:
        arrays = load_arrays(graph)
        edges, num_nodes = torch.from_numpy(arrays["edge_index"]), int(arrays["num_nodes"].item())
        if config.method not in _ALL_PAIRS:
            return CandidatePairs(num_nodes, edges)
        theta: Any = load_tensors(checkpoint, "cpu")["theta"]
        # Before θ of so many nodes is made.
        if not (theta.is_floating_point() and theta.ndim == 1 and 2 * theta.numel() >= num_nodes * (num_nodes - 1)):
            raise ValueError(f"θ is {theta.dtype} of shape {tuple(theta.shape)} for {num_nodes} nodes")
        if theta.is_meta or theta.layout != torch.strided or theta.untyped_storage().nbytes() < theta.nbytes:
            raise ValueError("θ is no plain tensor")
        if not bool(((theta >= 0) & (theta <= 1)).all()):
            raise ValueError("θ has values outside of [0, 1]")
        structure = AllPairs(num_nodes, edges[:, :0], dtype=theta.dtype)
        structure.restore_(theta)
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise DataError(f"{graph} and {checkpoint} must be what a run saved, but {reason(error)}; run again") from error
    return structure
