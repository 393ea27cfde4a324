"""The learned structure of a run folder."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    import numpy as np
    import torch

    from lds.graph import AllPairs, CandidatePairs

    config = read_config(folder)
    if not isinstance(config, TrainConfig) or config.method == "ffnn":
        raise InputError(f"{folder} must be a run with a graph, but {config.method} has none; choose another run")
    if not (folder / RESULT).exists():
        raise InputError(f"{folder} must be a run that has ended, but has no {RESULT}; lds train --resume {folder}")
    graph, checkpoint = folder / "graph.npz", folder / "checkpoint.pt"
    try:
        # Opened here: numpy leaves a damaged file open.
        with graph.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            edges = torch.from_numpy(arrays["edge_index"])
            num_nodes = int(arrays["num_nodes"])
        if config.method not in _ALL_PAIRS:
            return CandidatePairs(num_nodes, edges)
        theta: Any = torch.load(checkpoint, map_location="cpu", weights_only=True)["theta"]
        structure = AllPairs(num_nodes, edges[:, :0], dtype=theta.dtype)
        structure.restore_(theta)
    except (
        OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, RuntimeError,
        pickle.UnpicklingError, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise DataError(
            f"{graph} and {checkpoint} must be what a run saved, but {' '.join(str(error).split())[:200]}; run again"
        ) from error
    return structure
