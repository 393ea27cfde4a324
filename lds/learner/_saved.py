"""A fit as a file of numbers, texts and tensors: nothing in it can run code, and a damaged one says so."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lds._callbacks import EpochRecord
from lds._files import write_atomically
from lds._read import is_plain, load_tensors, reason
from lds.errors import DataError, InputError
from lds.graph import AllPairs, CandidatePairs, Structure
from lds.learner._known import Known

_FORMAT = "lds fit 1"


def write_fit(path: Path, fit: dict[str, Any], structure: Structure, known: Known) -> None:
    """Write a fit.

    Raises:
        InputError: its structure is none of the package's.
        StorageError: the file cannot be written.
    """
    if not isinstance(structure, AllPairs | CandidatePairs):
        raise InputError(
            f"a fit with a structure of AllPairs or CandidatePairs can be saved, but {type(structure).__name__} came; "
            "save what structure.state() returns, and fit.params, with torch.save"
        )
    pairs = structure.pairs if isinstance(structure, CandidatePairs) else None
    saved = {
        "format": _FORMAT,
        "num_nodes": structure.num_nodes,
        "pairs": pairs,
        "theta": structure.state(),
        "known": dict(vars(known)),
        "params": dict(fit["params"]),
        "logits": fit["logits"],
        "history": [asdict(record) for record in fit["history"]],
        "outer_steps": fit["outer_steps"],
    }
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    write_atomically(path, buffer.getvalue())


def read_fit(path: Path) -> dict[str, Any]:
    """Return what `write_fit` wrote, as the arguments of a `Fit` but the structure's own.

    Raises:
        DataError: the file cannot be read, is damaged, or is none of a fit.
    """
    try:
        return _checked(load_tensors(path, "cpu"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; check the path and its rights") from error
    except (InputError, TypeError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise DataError(f"{path} must be what Fit.save wrote, but {reason(error)}; save the fit again") from error


def _checked(saved: Any) -> dict[str, Any]:
    if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
        raise DataError("it holds no fit of this format")
    n, theta, known = _count(saved, "num_nodes"), _tensor(saved, "theta"), Known(**saved["known"])
    logits = _tensor(saved, "logits")
    least = n * (n - 1) // 2 if saved["pairs"] is None else 1
    if theta.dim() != 1 or theta.numel() < least or theta.dtype not in (torch.float32, torch.float64):
        raise DataError("θ must be a probability for every pair")
    if saved["pairs"] is None:
        structure: Structure = AllPairs(n, torch.zeros((2, 0), dtype=torch.int64), dtype=theta.dtype)
    else:
        pairs = _tensor(saved, "pairs")
        structure = CandidatePairs(n, pairs[:, :0], candidates=pairs, dtype=theta.dtype)
        if not torch.equal(structure.pairs, pairs):
            raise DataError("the candidate pairs must be in order")
    if theta.shape != structure.state().shape or not bool(((theta >= 0) & (theta <= 1)).all()):
        raise DataError("θ must be a probability for every pair")
    structure.restore_(theta)
    if logits.shape != (n, known.num_classes) or known.y.shape != (n,) or int(known.y.max()) >= known.num_classes:
        raise DataError("logits and labels must have a row per node, and a column per class")
    for name, names, count in (("node", known.node_names, n), ("class", known.class_names, known.num_classes)):
        if names is not None and (len(names) != count or not all(isinstance(text, str) for text in names)):
            raise DataError(f"every {name} must have a name")
    for nodes in known.nodes.values():
        if not nodes.numel() or not bool(((nodes >= 0) & (nodes < n)).all()):
            raise DataError("splits must hold nodes")
    params = {str(name): _tensor(saved["params"], name) for name in saved["params"]}
    history = tuple(EpochRecord(**record) for record in saved["history"])
    return {
        "structure": structure,
        "params": params,
        "logits": logits,
        "history": history,
        "outer_steps": _count(saved, "outer_steps"),
        "_known": known,
    }


def _count(saved: dict[str, Any], name: str) -> int:
    if type(saved[name]) is not int or saved[name] < 0:
        raise DataError(f"{name} must be a count")
    return int(saved[name])


def _tensor(saved: dict[str, Any], name: str) -> Tensor:
    value = saved[name]
    if not isinstance(value, Tensor) or not is_plain(value):
        raise DataError(f"{name} must be a plain tensor")
    return value
