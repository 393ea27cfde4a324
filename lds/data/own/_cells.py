"""The features of a table, cell by cell: numbers, categories as columns of 0 and 1, gaps, and what is neither."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lds.errors import DataError

Impute = Literal["none", "mean"]
# In place of names: every column that holds a text.
ALL = "all"

_TRUTH = {"false": 0.0, "true": 1.0}
_GAPS = {"", "na", "n/a", "nan", "none", "null", "?"}
# Of the cells that are no numbers.
_SHOWN = 5
_CATEGORIES = 1000


class Cells:
    """Collects the features of a table.

    Args:
        path: the file, for messages.
        columns: names of the columns of features.
        one_hot: those that hold categories; with `ALL`, those that hold a text.
        impute: "mean" puts the mean of a column into its gaps.
    """

    def __init__(self, path: Path, columns: Sequence[str], one_hot: Sequence[str], impute: Impute) -> None:
        self._path, self._columns, self._impute = path, columns, impute
        self._all = tuple(one_hot) == (ALL,) and ALL not in columns
        self._texts: dict[int, list[str]] = {
            place: [] for place, name in enumerate(columns) if self._all or name in one_hot
        }
        # 8 bytes a number, as against 32 for one of a list.
        self._values = array("d")
        self._lines = array("q")
        self._bad: list[tuple[int, int, Any]] = []
        self._count = 0

    def add(self, line: int, row: Sequence[Any]) -> None:
        """Take the cells of a line."""
        self._lines.append(line)
        for place, cell in enumerate(row):
            if place in self._texts:
                self._texts[place].append(_category(cell))
            value = _number(cell)
            if value is None and not (place in self._texts or (self._impute == "mean" and is_gap(cell))):
                self._count += 1
                if len(self._bad) < _SHOWN:
                    self._bad.append((line, place, cell))
            self._values.append(math.nan if value is None else value)

    def matrix(self, rows: int) -> npt.NDArray[np.float64] | None:
        """Return the features [N, F]; None where there are none.

        Raises:
            DataError: cells are no numbers, or a column is nothing but gaps, or has too many categories.
        """
        if self._count:
            raise DataError(self._complaint())
        if not self._columns:
            return None
        values = np.frombuffer(self._values, dtype=np.float64).reshape(rows, -1).copy()
        parts: list[npt.NDArray[np.float64]] = []
        for place, name in enumerate(self._columns):
            column, texts = values[:, place], self._texts.get(place)
            if texts is not None and (not self._all or self._is_text(name, column, texts)):
                parts.append(self._one_hot(name, texts))
            else:
                parts.append(self._filled(name, column)[:, None])
        return np.concatenate(parts, 1)

    def _is_text(self, name: str, column: npt.NDArray[np.float64], texts: Sequence[str]) -> bool:
        """Tell a column of texts from one of numbers; both in one may be a slip, and are refused."""
        words = np.array([bool(text) for text in texts]) & np.isnan(column)
        if words.any() and not np.isnan(column).all():
            row = int(np.flatnonzero(words)[0])
            raise DataError(
                f"{self._path}, line {self._lines[row]}: {name:.80} must hold numbers, or texts alone, "
                f"but {texts[row]!r:.80} came among numbers; correct it, or name the column in one_hot (--one-hot)"
            )
        return bool(words.any())

    def _one_hot(self, name: str, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return a column per category, in the order of the texts; a gap is in none of them."""
        found = sorted(set(texts) - {""})
        if not found or len(found) > _CATEGORIES:
            raise DataError(
                f"{self._path}: {name:.80} must have between 1 and {_CATEGORIES} categories to become columns of 0 and "
                f"1, but {len(found)} came; leave the column out with drop={name:.80}"
            )
        number = {text: place for place, text in enumerate(found)}
        result = np.zeros((len(texts), len(found)))
        for row, text in enumerate(texts):
            if text:
                result[row, number[text]] = 1
        return result

    def _filled(self, name: str, column: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        gaps = np.isnan(column)
        if not gaps.any():
            return column
        if self._impute != "mean":  # Of a column that has no texts.
            line = self._lines[int(np.flatnonzero(gaps)[0])]
            raise DataError(
                f"{self._path}, line {line}: {name:.80} must be a finite number, but the cell is empty; fill it, or "
                "give impute=mean (--impute mean)"
            )
        if gaps.all():
            raise DataError(
                f"{self._path}: {name:.80} must have a number to take the mean of, but every cell is empty; leave the "
                f"column out with drop={name:.80}"
            )
        return np.where(gaps, column[~gaps].mean(), column)

    def _complaint(self) -> str:
        line, place, cell = self._bad[0]
        drop = ",".join(dict.fromkeys(f"{self._columns[place]:.80}" for _, place, _ in self._bad))
        advice = (
            "encode texts as numbers, or name their columns in one_hot (--one-hot), fill what is missing, or give "
            f"impute=mean (--impute mean), or leave columns out with drop={drop}"
        )
        if self._count == 1:
            name = f"{self._columns[place]:.80}"
            return f"{self._path}, line {line}: {name} must be a finite number, but {cell!r:.80} came; {advice}"
        shown = "; ".join(f"line {line}, {self._columns[place]:.40} {cell!r:.40}" for line, place, cell in self._bad)
        more = f"; and {self._count - len(self._bad)} more" if self._count > len(self._bad) else ""
        return f"{self._path}: {self._count} cells must be finite numbers, but are not: {shown}{more}; {advice}"


def is_gap(cell: Any) -> bool:
    """Tell whether nothing is in a cell."""
    if isinstance(cell, str):
        return cell.strip().lower() in _GAPS
    return cell is None or (isinstance(cell, float) and math.isnan(cell)) or str(cell) in ("<NA>", "NaT")


def _category(cell: Any) -> str:
    return "" if is_gap(cell) else str(cell).strip()


def _number(cell: Any) -> float | None:
    try:
        value = float(cell)
    except (TypeError, ValueError):
        value = _TRUTH.get(cell.strip().lower(), math.nan) if isinstance(cell, str) else math.nan
    return value if math.isfinite(value) else None
