"""A PyTorch Geometric `Data` saved by torch."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lds._files import open_file
from lds._read import check_archive, checked_sparse, is_plain, reason, without_advice
from lds.data.own._parts import refuse_weights
from lds.data.splits import MASKS
from lds.errors import DataError

if TYPE_CHECKING:
    from torch_geometric.data import Data

_PARTS = ("x", "y", "edge_index", *MASKS, "num_classes")
# By these torch tells an archive from a file of torch < 1.6.
_ZIP = b"PK\x03\x04"


def read_pt(path: Path) -> Data:
    """Return what the file holds; nothing is checked but that it is a `Data` or a dict.

    Raises:
        DataError: it is something else, or holds objects that could run code.
        OSError: the file cannot be read.
    """
    # Importing `Data` tells torch that it is safe; these are the classes of its parts, which hold nothing but values.
    from torch_geometric.data import Data
    from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
    from torch_geometric.data.storage import AttrType, GlobalStorage

    parts_of_data = [AttrType, DataEdgeAttr, DataTensorAttr, GlobalStorage]
    file = os.fdopen(open_file(path, os.O_RDONLY, links=True), "rb")
    with file, torch.serialization.safe_globals(parts_of_data), checked_sparse():
        try:
            if file.read(len(_ZIP)) == _ZIP:
                check_archive(file)
        except DataError as error:
            raise _damaged(path, error) from error
        file.seek(0)
        try:
            saved = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise DataError(
                f"{path} must hold a torch_geometric Data of tensors and nothing that could run code, but it is "
                "damaged or holds other objects; save it again with torch.save(Data(x=…, y=…, edge_index=…), path)"
            ) from error
        # torch's documentation names no exceptions: a damaged file raises many, in zip, pickle or tensor code.
        except Exception as error:
            raise _damaged(path, error) from error
    if not isinstance(saved, Data | Mapping):
        raise DataError(f"{path} must hold a torch_geometric Data or a dict, but holds {_kind(saved)}; save one graph")
    try:
        parts = saved.to_dict() if isinstance(saved, Data) else dict(saved)
    except Exception as error:  # A Data that is made up, or of an older version, lacks parts of itself.
        raise DataError(f"{path} must hold a whole Data, but {reason(error)}; save it again") from error
    refuse_weights(path, parts)
    parts = {name: parts[name] for name in _PARTS if parts.get(name) is not None}
    for name, value in parts.items():
        if name != "num_classes":
            if not isinstance(value, Tensor):
                raise DataError(f"{path}: {name} must be a tensor, but {_kind(value)} came; convert it")
            if not is_plain(value, sparse=name == "x"):
                raise DataError(
                    f"{path}: {name} must be a {'dense, COO or CSR' if name == 'x' else 'dense'} tensor with a place "
                    "in memory for each of its numbers, but another came; convert it, and save its .contiguous()"
                )
    return Data(**{name: value.detach() if isinstance(value, Tensor) else value for name, value in parts.items()})


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} must be a file of torch.save, but it is damaged: {without_advice(error)}; save it again with "
        "torch.save(data, path)"
    )


def _kind(value: object) -> str:
    return f"{'an' if type(value).__name__[0] in 'aeiouAEIOU' else 'a'} {type(value).__name__}"
