"""Problems that are solved again and again: which of them is due for a look that takes as long as a few steps."""

from __future__ import annotations

import inspect
from collections.abc import Hashable
from contextlib import suppress
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from lds.hypergrad._dynamics import Dynamics

# How often a problem was met, by what it looks like; of the latest ones.
_MET: dict[Hashable, int] = {}
_KEPT: dict[Hashable, bool] = {}
_MOST = 4096


def is_due(dynamics: Dynamics) -> bool:
    """Tell whether to look at the graph and at the values of a step of a problem that is solved again and again.

    It is at the first, second, fourth, eighth, … time: a slip is in the code, which is met in the first call, and the
    look would take a good part of the time of a few steps. Problems are distinguished by the code of the objective and
    of the updater, by the flags that they hold, and by the kinds of their tensors.
    """
    look = _look(dynamics)
    if len(_MET) > _MOST:
        _MET.clear()
    times = _MET[look] = _MET.get(look, 0) + 1
    return times & (times - 1) == 0


def is_next_due(dynamics: Dynamics) -> bool:
    """Tell what `is_due` will say the next time."""
    times = _MET.get(_look(dynamics), 0) + 1
    return times & (times - 1) == 0


def know(dynamics: Dynamics, steps: int, *, kept: bool) -> None:
    """Note whether all graphs of so many steps were kept, by what the problem looks like."""
    if len(_KEPT) > _MOST:
        _KEPT.clear()
    _KEPT[_look(dynamics), steps] = kept


def is_known(dynamics: Dynamics, steps: int) -> bool:
    """Tell whether all graphs of so many steps of such a problem were kept the last time."""
    return _KEPT.get((_look(dynamics), steps), False)


def forget(dynamics: Dynamics) -> None:
    """Look again the next time: something was found."""
    _MET.pop(_look(dynamics), None)


def _look(dynamics: Dynamics) -> Hashable:
    known = dynamics.look
    if not known:
        known.append(_new_look(dynamics))
    return known[0]


def _new_look(dynamics: Dynamics) -> Hashable:
    return (
        _trait(inspect.unwrap(dynamics.inner), 3),
        _trait(dynamics.updater, 3),
        dynamics.spec.spec,
        *dynamics.spec.kinds,
    )


_FLAGS = (type(None), bool, int, str)


def _trait(value: Any, depth: int) -> Hashable:
    """Return what identifies a value that the functions of a problem hold."""
    kind: Any = type(value)
    if kind in _FLAGS:
        return (value,)
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.requires_grad
    if isinstance(value, nn.Module):
        return kind, value.training
    if not depth:
        return (kind,)
    if kind is FunctionType:
        held: list[Any] = list(value.__defaults__ or ())
        for cell in value.__closure__ or ():
            with suppress(ValueError):  # Empty as yet.
                held.append(cell.cell_contents)
        return value.__code__, *[_trait(x, depth - 1) for x in held]
    if kind is MethodType:
        return value.__func__.__code__, _trait(value.__self__, depth - 1)
    if isinstance(value, partial):
        return tuple(_trait(x, depth - 1) for x in (value.func, *value.args, *value.keywords.values()))
    return kind, *[_trait(x, depth - 1) for x in getattr(value, "__dict__", {}).values()]
