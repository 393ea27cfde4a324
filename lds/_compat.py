"""What older releases of the requirements lack, in one place; each part says from which release on it is not needed.

`constraints-oldest.txt` names the oldest releases that the tests pass with.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

# torch 2.9: a gradient edge owns its node.
_EDGES_OWN = "ownership_token" in GradientEdge._fields


class OwnedEdge(NamedTuple):
    """A gradient edge, and what keeps its node alive.

    The Python object of a node of a `torch.autograd.Function` does not own the node in C++: the tensors computed from
    its result do. Where nobody uses the result, the node is gone, and up to torch 2.8 naming the edge among the inputs
    of `torch.autograd.grad` follows a null pointer.
    """

    edge: GradientEdge
    owner: object


def owned_edge(tensor: Tensor) -> OwnedEdge:
    """Return the gradient edge of a tensor, valid for as long as the result is kept."""
    if _EDGES_OWN:
        return OwnedEdge(get_gradient_edge(tensor), None)
    with torch.enable_grad():
        return OwnedEdge(get_gradient_edge(tensor), tensor.view_as(tensor).grad_fn)


@contextmanager
def safe_globals(classes: Sequence[Any]) -> Iterator[None]:
    """Have `torch.load(…, weights_only=True)` take these classes meanwhile; torch 2.5 has it."""
    if hasattr(torch.serialization, "safe_globals"):
        with torch.serialization.safe_globals(list(classes)):
            yield
        return
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(list(classes))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def may_run_code(file: BinaryIO) -> bool:
    """Tell whether torch below 2.6 would run code of a file, in spite of weights_only: a tar archive (CVE-2025-32434).

    The file is left at its beginning.
    """
    file.seek(0)
    found = tarfile.is_tarfile(file)
    file.seek(0)
    return found
