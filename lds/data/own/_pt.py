"""A PyTorch Geometric `Data` saved by torch."""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from lds._compat import may_run_code, safe_globals
from lds._files import open_file
from lds._read import check_archive, checked_sparse, is_plain, reason, without_advice
from lds.data.masks import INDICES
from lds.data.splits import MASKS
from lds.errors import DataError

_TENSORS = ("x", "y", "edge_index", "edge_weight", "adj_t", "adj", *MASKS, *INDICES)
_PARTS = (*_TENSORS, "num_classes", "num_nodes", "node_names", "class_names", "batch")
# By these torch tells an archive from a file of torch < 1.6.
_ZIP = b"PK\x03\x04"
# What other objects are, and what to do; by the name that torch gives for the first that it does not load.
_OTHERS = {
    r"hetero_data|BaseStorage|NodeStorage|EdgeStorage": (
        "a HeteroData",
        "save one graph with nodes of one kind, such as data.to_homogeneous()",
    ),
    r"data\.batch": ("a Batch of graphs", "save one of batch.to_data_list()"),
    r"numpy": ("a numpy array", "make tensors of its arrays, torch.from_numpy(…), or save them with numpy.savez"),
    r"torch_sparse": ("a SparseTensor", "save edge_index in its place, as T.ToUndirected leaves it"),
    r"scipy": ("a matrix of scipy", "save it with numpy.savez, or as a tensor"),
    r"pandas": ("a table of pandas", "save it with to_csv"),
}
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def read_pt(path: Path) -> dict[str, Any]:
    """Return what the file holds; nothing is checked but that it is a `Data` or a dict of plain parts.

    Raises:
        DataError: it is something else, or holds objects that could run code.
        OSError: the file cannot be read.
    """
    saved = _load(path)
    if isinstance(saved, tuple | list) and saved and isinstance(saved[0], Mapping | _data_class()):
        raise DataError(
            f"{path} must hold one graph, but holds {_kind(saved)} of graph and slices, as processed/data.pt of a "
            "data set of torch_geometric does; save one graph with torch.save(dataset[0], path)"
        )
    if not isinstance(saved, _data_class() | Mapping):
        raise DataError(f"{path} must hold a torch_geometric Data or a dict, but holds {_kind(saved)}; save one graph")
    try:
        held = dict(saved) if isinstance(saved, Mapping) else saved.to_dict()
    except Exception as error:  # A Data that is made up, or of an older version, lacks parts of itself.
        raise DataError(f"{path} must hold a whole Data, but {reason(error)}; save it again") from error
    if isinstance(split := held.pop("split_idx", None), Mapping):  # As OGB names it.
        held |= {f"{name}_idx": index for name, index in split.items()}
    parts = {name: held.pop(name) for name in _PARTS if held.get(name) is not None}
    for name, value in parts.items():
        if name in ("x", "adj_t", "adj"):
            _check(path, name, value, sparse=True)
        elif (name in _TENSORS and not (name == "y" and isinstance(value, list))) or isinstance(value, Tensor):
            _check(path, name, value, sparse=False)
    if parts.get("x") is None and parts.get("y") is None and "edge_weight" in parts:
        raise DataError(
            f"{path} must hold features x and labels y, but has no x and no y, like a graph of lds export; "
            "save x and y of your nodes with its edge_index and edge_weight"
        )
    if others := [str(name) for name, value in held.items() if value is not None]:
        parts["others"] = others
    return parts


def _load(path: Path) -> Any:
    # Importing `Data` tells torch that it is safe; these are the classes of its parts, which hold nothing but values.
    from torch_geometric.data import Data  # noqa: F401
    from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
    from torch_geometric.data.storage import AttrType, GlobalStorage

    allowed: list[Any] = [
        AttrType,
        DataEdgeAttr,
        DataTensorAttr,
        GlobalStorage,
        set,
        _empty,
    ]
    file = os.fdopen(open_file(path, os.O_RDONLY, links=True), "rb")
    with file, safe_globals(allowed), checked_sparse():
        try:
            if file.read(len(_ZIP)) == _ZIP:
                check_archive(file)
            elif may_run_code(file):
                raise DataError("it is a tar archive, of torch before 1.0, which could run code")
        except DataError as error:
            raise _damaged(path, error) from error
        try:
            try:
                file.seek(0)
                return torch.load(file, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                if "defaultdict" not in str(error):
                    raise
                file.seek(0)
                return torch.load(_with_plain_dicts(file), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise _refused(path, error) from error
        # torch's documentation names no exceptions: a damaged file raises many, in zip, pickle or tensor code.
        except Exception as error:
            raise _damaged(path, error) from error


def _with_plain_dicts(file: BinaryIO) -> BinaryIO:
    """Return the file with dicts in place of defaultdicts, which torch makes, but does not fill.

    A Data that was asked for its attributes of nodes, as by ToUndirected, remembers them in one; nobody needs it here.
    """
    changed = io.BytesIO()
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(changed, "w") as result:
        for member in archive.infolist():
            content = archive.read(member)
            if member.filename.endswith("data.pkl"):
                name = f"c{_empty.__module__}\n{_empty.__name__}\n".encode()
                content = content.replace(b"ccollections\ndefaultdict\n", name)
            result.writestr(member.filename, content)
    changed.seek(0)
    return changed


def _empty(*factory: object) -> dict[Any, Any]:
    return {}


def _data_class() -> Any:
    from torch_geometric.data import Data

    return Data


def _refused(path: Path, error: Exception) -> DataError:
    needed = f"{path} must hold a torch_geometric Data of tensors and nothing that could run code, but it"
    name = _GLOBAL.search(str(error))
    if name is None:
        return DataError(
            f"{needed} is damaged or holds other objects; save it again with torch.save(Data(x=…, y=…, edge_index=…), "
            "path)"
        )
    for pattern, (what, advice) in _OTHERS.items():
        if re.search(pattern, name[1]):
            return DataError(f"{needed} holds {what} ({name[1]:.80}); {advice}")
    return DataError(f"{needed} is damaged or holds other objects, {name[1]:.80}; keep tensors, texts and numbers only")


def _check(path: Path, name: str, value: Any, *, sparse: bool) -> None:
    if not isinstance(value, Tensor):
        raise DataError(f"{path}: {name} must be a tensor, but {_kind(value)} came; convert it")
    if not is_plain(value, sparse=sparse):
        raise DataError(
            f"{path}: {name} must be a {'dense, COO or CSR' if sparse else 'dense'} tensor with a place "
            "in memory for each of its numbers, but another came; convert it, and save its .contiguous()"
        )


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} must be a file of torch.save, but it is damaged: {without_advice(error)}; save it again with "
        "torch.save(data, path)"
    )


def _kind(value: object) -> str:
    return f"{'an' if type(value).__name__[0] in 'aeiouAEIOU' else 'a'} {type(value).__name__}"
