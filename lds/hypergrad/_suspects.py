"""Why a step may not repeat: what a user's functions read besides their arguments."""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from lds._updater import Updater

_ADVICE = (
    'make it a function of its arguments and of the global torch, numpy and random generators, or use noise="resample"'
)


def unrepeatable(updater: Updater, inner: Any) -> str:
    """Return in words what may keep a step from repeating, by what the objective and the updater hold."""
    held = [*_held(inner), *_held(updater)]
    found = list(dict.fromkeys(f"it reads {name}, {what}" for name, x in held if (what := _kind(x)) is not None))
    if found:
        return f"{'; '.join(found[:3])}; {_ADVICE}"
    return (
        "Φ or the inner objective reads something besides its arguments, such as an iterator or a data loader (give it "
        "as batches=), a random generator of its own, or a tensor, a buffer or an attribute that is written to "
        f"meanwhile; {_ADVICE}"
    )


def _held(root: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a function or an object holds, by name, and what the functions in it hold."""
    ahead, seen = [root], {id(root)}
    for owner in ahead:  # Which grows on the way.
        for name, value in _names(owner).items():
            if id(value) in seen:
                continue
            seen.add(id(value))
            yield name, value
            if inspect.isfunction(value) or inspect.ismethod(value) or isinstance(value, partial):
                ahead.append(value)


def _names(owner: Any) -> dict[str, Any]:
    """Return what a function reads besides its arguments, or the attributes of an object and what its step reads."""
    if isinstance(owner, partial):
        return {"an argument of partial": owner.args, **owner.keywords, "the function of partial": owner.func}
    names: dict[str, Any] = {}
    if not inspect.isroutine(owner):
        names.update({f"self.{name}": value for name, value in getattr(owner, "__dict__", {}).items()})
        owner = getattr(owner, "step", None) or type(owner).__call__
    if inspect.ismethod(owner):
        names.update({f"self.{name}": value for name, value in getattr(owner.__self__, "__dict__", {}).items()})
    with suppress(TypeError):  # Written in C.
        read = inspect.getclosurevars(inspect.unwrap(owner))
        names.update({**read.globals, **read.nonlocals})
    return names


def _kind(value: Any) -> str | None:
    if isinstance(value, DataLoader):
        return "a data loader; give it as batches="
    if isinstance(value, Iterator):
        return "an iterator, which moves on; give the batches as batches="
    if isinstance(value, torch.Generator | np.random.Generator | np.random.RandomState | random.Random):
        return "a random generator of its own; draw from the global one"
    if isinstance(value, nn.Module) and value.training and any(True for _ in value.buffers()):
        return "a module with buffers in train mode, which a call changes"
    return None
