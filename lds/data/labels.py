"""Labels in any form that people have, as class numbers: one rule at every door."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lds.errors import DataError

# The texts that pandas takes for missing, and NaT.
_MISSING = frozenset(
    [
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "-1.#IND",
        "-1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "None",
        "n/a",
        "nan",
        "null",
        "NaT",
        "",
    ]
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# What a column of integers becomes in pandas once a cell of it is empty.
_INTEGRAL = re.compile(r"(-?\d+)\.0+")


class Labels(NamedTuple):
    """Labels as class numbers.

    Attributes:
        numbers: class of every node, from 0, and -1 where it has none; int64 of shape [N].
        names: names of the classes, in the order of their numbers.
        values: the integers that the classes had, where they had others than 0 … C−1; int64 of shape [C].
    """

    numbers: Tensor
    names: list[str]
    values: Tensor | None = None


def encode(
    labels: Any,
    *,
    unlabelled: str | None = None,
    names: Sequence[str] | None = None,
    num_classes: int | None = None,
    nodes: int | None = None,
) -> Labels:
    """Return class numbers for labels in any form.

    * -1, as a number or a text, leaves a node unlabelled, and so does what pandas takes for missing: None, NaN, pd.NA,
      NaT, an empty text, NA, <NA>, N/A, None, null.
    * 2.0 is the class 2. Other fractions are measurements, and refused; so are integers below -1.
    * Integers with gaps are renumbered in their order, unless `names` or `num_classes` say what they number.
    * Texts are numbered in the order of the alphabet, or of integers where all of them are. A text among numbers is
      refused, and so is "?".
    * False and True are two classes. Rows of zeros with a single 1 are the classes of their columns; rows with more are
      several labels per node, and refused.

    Args:
        labels: a tensor, an array, a list, or a column of pandas, of shape [N] or [N, 1], or [N, C] with a single 1 a
            row.
        unlabelled: a further text that marks unlabelled nodes.
        names: names of the classes, where integers number them or texts are among them.
        num_classes: number of classes, where integers number them.
        nodes: number of nodes N, where it is known.

    Raises:
        DataError: the labels are none of these.
    """
    column = _column(labels, nodes)
    if column.ndim == 2:
        column = _of_one_hot(column)
    if nodes is not None and len(column) != nodes:
        raise DataError(
            f"y must be integer [{nodes}], one label per row of x, but {_describe(labels)} came; convert it, "
            "or drop rows"
        )
    if column.dtype.kind == "b":
        return _checked(Labels(torch.from_numpy(column.astype(np.int64)), ["False", "True"]), names, num_classes)
    if column.dtype.kind in "iuf":
        return _of_numbers(column, unlabelled, names, num_classes)
    return _of_texts(_texts(column), unlabelled, names, num_classes)


def _column(labels: Any, nodes: int | None) -> npt.NDArray[Any]:
    """Return the labels as an array of one or two dimensions."""
    if labels is None:
        raise DataError("data.y must hold the labels [N], but it is missing; set it, with -1 on unlabelled nodes")
    if isinstance(labels, Tensor):
        if labels.layout != torch.strided or labels.is_meta or labels.is_quantized or labels.is_nested:
            raise DataError(f"y must be a dense tensor with numbers in memory, but {labels.layout} came; convert it")
        if labels.is_complex():
            raise DataError(f"y must be integer [N], but {_describe(labels)} came; convert it")
        plain = labels.detach().cpu()
        if plain.is_floating_point():
            plain = plain.double()
        array = plain.numpy()
    elif isinstance(labels, Mapping | str | bytes) or not (
        hasattr(labels, "__array__") or isinstance(labels, Sequence)
    ):
        raise DataError(
            f"y must be labels, one per node, as a tensor, an array or a list, but {_describe(labels)} came"
        )
    else:
        array = _array(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.dtype.kind not in "biuf"):
        raise DataError(
            f"y must be integer [{nodes or 'N'}], one label per node, but {_describe(labels)} came; convert it"
        )
    return array


def _array(labels: Any) -> npt.NDArray[Any]:
    if isinstance(labels, np.ndarray):
        return labels
    if not isinstance(labels, list | tuple):  # A column of pandas, which may mark what is missing in its own way.
        array = np.asarray(labels)
        return array if array.dtype.kind in "biuf" else np.asarray(labels, dtype=object)
    try:
        array = np.asarray(labels)
    except ValueError as error:
        raise DataError(f"y must be one label per node, but {error}; give a list of numbers or texts") from error
    if array.ndim == 1 and array.dtype.kind not in "biuf":  # numpy would make a text "None" of a missing label.
        array = np.fromiter(labels, dtype=object, count=len(labels))
    return array


def _of_one_hot(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the column of the single 1 in every row."""
    ones = (rows == 1).sum(1)
    if rows.shape[1] < 2 or not ((rows == 0) | (rows == 1)).all():
        raise DataError(
            f"y must be one class per node [N], but numbers of shape {list(rows.shape)} came; several targets are not "
            "learned, keep one column of class numbers"
        )
    if (ones > 1).any():
        raise DataError(
            f"y must be one class per node [N], but rows of shape {list(rows.shape)} with several 1s came, the first "
            f"at node {int(np.argmax(ones > 1))}; several labels per node are not learned, keep one column"
        )
    if (ones == 0).any():
        raise DataError(
            f"y must be one class per node [N], but a row of {list(rows.shape)} without a 1 came, the first at node "
            f"{int(np.argmax(ones == 0))}; give class numbers [N], with -1 on unlabelled nodes"
        )
    column: npt.NDArray[Any] = rows.argmax(1)
    return column


def _of_numbers(
    column: npt.NDArray[Any], unlabelled: str | None, names: Sequence[str] | None, num_classes: int | None
) -> Labels:
    missing = np.zeros(len(column), dtype=bool)
    if column.dtype.kind == "f":
        column = column.astype(np.float64)
        missing = np.isnan(column)
        if np.isinf(column).any():
            raise DataError(
                f"y must name classes, but infinity came, the first in row {int(np.argmax(np.isinf(column)))} (Input y "
                "contains infinity or a value too large for dtype('float64')); correct it"
            )
        whole = missing | (column == np.floor(column))
        if not whole.all():
            _refuse_measurements(column[~whole][0], int(np.argmin(whole)))
        if (abs(column[~missing]) >= 2.0**53).any():
            raise DataError("y must name classes, but numbers beyond 2**53 came, which are not exact; save integers")
        column = np.where(missing, -1, column).astype(np.int64)
    if unlabelled is not None and _NUMBER.fullmatch(unlabelled.strip()):
        missing = missing | (column == float(unlabelled))
    elif unlabelled is not None and not missing.any():
        _refuse_mark(unlabelled)
    missing = missing | (column == -1)
    low = (column < -1) & ~missing
    if low.any():
        first = int(np.argmax(low))
        raise DataError(
            f"y must be class numbers from 0, or -1 where unlabelled, but {column[first]} came in {_rows(low)}, the "
            f"first at node {first}; renumber the labels, or, where it marks unlabelled nodes, give unlabelled="
            f'"{column[first]}"'
        )
    present = np.unique(column[~missing])
    top = int(present[-1]) if len(present) else -1
    if names is not None or num_classes is not None or top + 1 == len(present):
        if top >= 1 << 31:
            raise DataError(f"y must be class numbers below 2**31 where num_classes is set, but {top} came; renumber")
        count = len(names) if names is not None else num_classes if num_classes is not None else top + 1
        numbers = torch.from_numpy(np.where(missing, -1, column.astype(np.int64)))
        return _checked(Labels(numbers, [str(number) for number in range(min(count, top + 1))]), names, num_classes)
    places = np.searchsorted(present, column)
    places[missing] = -1
    values = torch.from_numpy(present.astype(np.int64)) if top < 1 << 63 else None
    return Labels(torch.from_numpy(places.astype(np.int64)), [str(value) for value in present.tolist()], values)


def _texts(column: npt.NDArray[Any]) -> list[str]:
    if column.dtype.kind not in "OUST":
        note = " (Complex data not supported)" if column.dtype.kind == "c" else ""
        raise DataError(f"y must be numbers or texts, but {column.dtype} came{note}; convert it")
    try:
        return [_text(value) for value in column.tolist()]
    except (ValueError, SystemError) as error:  # What is no text in UTF-8, or no code point.
        raise DataError(f"y must hold texts, but {' '.join(str(error).split())}; save the labels again") from error


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode()
    elif isinstance(value, Tensor | np.generic) and value.ndim == 0:
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, Sequence | Mapping | np.ndarray | Tensor | set) and not isinstance(value, str):
        raise DataError(f"y must be one label per node, but {_describe(value)} came for one; keep one label per node")
    return _INTEGRAL.sub(r"\1", text) if _INTEGRAL.fullmatch(text := str(value).strip()) else text


def _of_texts(texts: list[str], unlabelled: str | None, names: Sequence[str] | None, num_classes: int | None) -> Labels:
    distinct = set(texts)
    if unlabelled is not None:
        mark = _text(unlabelled)
        if mark not in distinct and not any(map(_is_missing, distinct)):
            _refuse_mark(unlabelled)
        distinct.discard(mark)
    present = sorted(name for name in distinct if not _is_missing(name))
    if names is not None and all(name in names for name in present) and len(set(names)) == len(names):
        order = {name: number for number, name in enumerate(names)}
        numbers = torch.tensor([order.get(text, -1) if text in distinct else -1 for text in texts], dtype=torch.int64)
        return _checked(Labels(numbers, list(names)), names, num_classes)
    _check_texts(texts, present)
    if integers := all(_is_integer(name) for name in present):
        present.sort(key=lambda name: (int(name), name))
    order = {name: number for number, name in enumerate(present)}
    if integers and (names is not None or num_classes is not None):
        order = {name: int(name) for name in present}
    numbers = torch.tensor([order.get(text, -1) for text in texts], dtype=torch.int64)
    return _checked(Labels(numbers, present), names if integers else None, num_classes)


def _check_texts(texts: list[str], present: list[str]) -> None:
    """Refuse measurements, texts among numbers, and the mark of UCI."""
    numeric = {name for name in present if _NUMBER.fullmatch(name)}
    if numeric and len(numeric) == len(present):
        if (fraction := next((text for text in texts if text in numeric and not _is_integer(text)), None)) is not None:
            _refuse_measurements(fraction, texts.index(fraction))
        for name in present:
            if int(name) < -1:
                raise DataError(
                    f"labels must be class numbers from 0, or -1 where unlabelled, but {name:.80} came, the first in "
                    f"row {texts.index(name)}; renumber them, or, where it marks unlabelled nodes, give unlabelled="
                    f'"{name:.80}"'
                )
        return
    others = [name for name in present if name not in numeric] if numeric else [name for name in present if name == "?"]
    if others:
        what = "the text %r came among numbers" if numeric else "%r came among texts"
        raise DataError(
            f"labels must be all numbers or all texts, but {what % others[0][:80]} in {texts.count(others[0])} "
            f"rows, the first row {texts.index(others[0])}; where it marks unlabelled nodes, give "
            f"unlabelled={others[0][:80]!r} "
            f'(--unlabelled "{others[0][:80]}"), else rename it'
        )


def _checked(found: Labels, names: Sequence[str] | None, num_classes: int | None) -> Labels:
    """Return the labels if their numbers are those of as many classes as there are said to be, with their names."""
    count = len(names) if names is not None else num_classes
    if names is not None and num_classes is not None and num_classes != len(names):
        raise DataError(
            f"class_names must name the {num_classes} classes of num_classes, but {len(names)} came; drop one of them"
        )
    if count is None:
        return found
    bad = (found.numbers >= count).nonzero().flatten()
    if bad.numel():
        raise DataError(
            f"y must lie in 0 … {count - 1}, or be -1 where unlabelled, but other values came in {bad.numel()} "
            f"row{'s' * (bad.numel() > 1)}, the first at node {int(bad[0])} with {int(found.numbers[bad[0]])}; "
            "renumber the labels or set data.num_classes"
        )
    more = found.names + [str(number) for number in range(len(found.names), count)]
    return Labels(found.numbers, list(names) if names is not None else more)


def _refuse_measurements(value: Any, row: int) -> NoReturn:
    raise DataError(
        f"y must name classes, but measurements came, the first {value!s:.40} in row {row} (Unknown label type: "
        "continuous); regression is not learned, name another column or cut the numbers into classes"
    )


def _refuse_mark(unlabelled: str) -> NoReturn:
    raise DataError(f"unlabelled={unlabelled!r:.80} must mark a node, but no label is this; correct or drop it")


def _is_missing(name: str) -> bool:
    if name in _MISSING:
        return True
    try:
        return float(name) == -1 or math.isnan(float(name))
    except ValueError:
        return False


def _is_integer(name: str) -> bool:
    # Python reads no integer of more than 4300 digits.
    return name.removeprefix("-").isdecimal() and len(name) < 1000


def _rows(there: npt.NDArray[np.bool_]) -> str:
    count = int(there.sum())
    return f"{count} row{'s' * (count > 1)}"


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__
