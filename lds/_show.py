"""Results that show themselves in a few lines, in a terminal and in a notebook, whatever they hold."""

from __future__ import annotations

import html
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import islice
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from torch import Tensor

# Characters of a value, and lines of a result.
_ROOM = 88
_LINES = 9
# Entries that are written out.
_FEW = 4


class Shown:
    """A dataclass (with repr=False) that prints as its name and a line a field; `_rows` may choose other lines."""

    def _rows(self) -> list[tuple[str, str]]:
        """Return names and what to say of each, one line each."""
        return [(name, short(value)) for name, value in _fields(self)]

    def __repr__(self) -> str:
        """Return at most ten lines."""
        rows = self._rows()
        if len(rows) > _LINES:
            rows = [*rows[: _LINES - 1], ("…", f"{len(rows) - _LINES + 1} more")]
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join([type(self).__name__, *(f"  {name:<{width}}  {text}" for name, text in rows)])

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        lines = (
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for name, text in self._rows()
        )
        return f"<table><caption>{type(self).__name__}</caption>{''.join(lines)}</table>"


def short(value: Any, room: int = _ROOM) -> str:
    """Return a value in one line of at most `room` characters: tensors by type and shape, few numbers as they are."""
    text = " ".join(_text(value, room).split())
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _is_tensor(value: Any) -> TypeGuard[Tensor]:
    torch = sys.modules.get("torch")  # Without it there are no tensors.
    return torch is not None and isinstance(value, torch.Tensor)


def _fields(value: Any) -> list[tuple[str, Any]]:
    named = [part.name for part in fields(value) if part.repr and not part.name.startswith("_")]
    return [(name, getattr(value, name)) for name in named]


def _text(value: Any, room: int) -> str:
    if _is_tensor(value):
        return _tensor(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return _joined("{", [(f"{key!r}: ", x) for key, x in islice(value.items(), room)], len(value), "}", room)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        pairs = [(f"{name}=", x) for name, x in zip(value._fields, value, strict=True)]
        pairs.sort(key=lambda pair: not isinstance(pair[1], int))  # Counters first.
        return _joined(f"{type(value).__name__}(", pairs, len(pairs), ")", room)
    if isinstance(value, list | tuple):
        if len(value) > _FEW and all(isinstance(x, int | float) for x in value):
            return f"{len(value)} numbers, {value[0]:.4g} … {value[-1]:.4g}"
        ends = "[]" if isinstance(value, list) else "()"
        return _joined(ends[0], [("", x) for x in value[:room]], len(value), ends[1], room)
    if isinstance(value, Shown):
        plain = [(name, x) for name, x in _fields(value) if isinstance(x, int | float | str | None)]
        return f"{type(value).__name__}: " + ", ".join(f"{name} {_text(x, room)}" for name, x in plain)
    if isinstance(value, FunctionType):
        return value.__qualname__
    if isinstance(value, str | int | None):
        return repr(value[: room + 2]) if isinstance(value, str) else repr(value)
    text = repr(value)
    return type(value).__name__ if "\n" in text else text


def _joined(opening: str, pairs: Sequence[tuple[str, Any]], count: int, closing: str, room: int) -> str:
    """Return parts between brackets: as many as there is room for, and how many more there are."""
    text, shown = opening, 0
    for name, value in pairs:
        part = f"{', ' if shown else ''}{name}{short(value, room // 2)}"
        if shown and len(text) + len(part) > room - 12:
            return f"{text}, … {count - shown} more{closing}"
        text, shown = text + part, shown + 1
    return text + closing


def _tensor(x: Tensor) -> str:
    kind = str(x.dtype).removeprefix("torch.")
    plain = not (x.is_sparse or x.is_sparse_csr or x.is_meta or x.is_nested or x.is_quantized)
    if plain and 0 < x.numel() <= _FEW and not x.is_complex():
        numbers = x.detach().reshape(-1).tolist()
        texts = [f"{number:.4g}" if isinstance(number, float) else str(number) for number in numbers]
        if x.dim() == 0:
            return f"{texts[0]} ({kind})"
        if x.dim() == 1:
            return f"[{', '.join(texts)}] ({kind})"
    return f"{kind} {list(x.shape)}"
