"""Problems that are solved again and again: which of them is due for a look that takes as long as a few steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

# The latest problems, by what they look like.
_MET: dict[Hashable, Met] = {}
_MOST = 4096


class Met:
    """What is known of a problem from the times that it was solved.

    Attributes:
        kept: the numbers of steps of which all graphs were kept the last time.
    """

    def __init__(self) -> None:
        self._times = 0
        self.kept: set[int] = set()

    def is_due(self) -> bool:
        """Tell whether to look at the graph and at the values of a step, and count.

        It is at the first, second, fourth, eighth, … time: a slip is in the code, which is met in the first call, and
        the look would take a good part of the time of a few steps.
        """
        due = self.is_next_due
        self._times += 1
        return due

    @property
    def is_next_due(self) -> bool:
        """What `is_due` will say the next time."""
        return self._times & (self._times + 1) == 0

    def forget(self) -> None:
        """Look again the next time: something was found."""
        self._times = 0


def met(inner: Callable[..., Any], updater: object, structure: Hashable) -> Met:
    """Return what is known of a problem.

    Problems are distinguished by the code of the objective and of the updater, by the flags that they hold, and by the
    structure of the state, the kinds of its tensors among it.
    """
    look = _trait(inspect.unwrap(inner), 3), _trait(updater, 3), structure
    if len(_MET) > _MOST:
        _MET.clear()
    found = _MET.get(look)
    if found is None:
        found = _MET[look] = Met()
    return found


_FLAGS = (type(None), bool, int, str)


def _trait(value: Any, depth: int) -> Hashable:
    """Return what identifies a value that the functions of a problem hold."""
    kind: Any = type(value)
    if kind in _FLAGS:
        return (value,)
    if kind is float:
        return kind
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
