"""Files of run folders as plain values; what is malformed is a DataError that names file and line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lds._read import parse_yaml, reason
from lds.errors import DataError


class Row(NamedTuple):
    """One line of a file.

    Attributes:
        where: file and line, for messages.
        values: what the line holds.
    """

    where: str
    values: Mapping[str, Any]


class Rows(NamedTuple):
    """The lines of a JSONL file.

    Attributes:
        rows: the whole lines.
        torn: whether the last line has been written in part only.
    """

    rows: list[Row]
    torn: bool


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the file and its rights") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} must be UTF-8 text, but byte {error.start} is not; write the file again") from error


def read_json(path: Path) -> Mapping[str, Any]:
    """Return the object of a JSON file.

    Raises:
        DataError: it cannot be read, or is no JSON object.
    """
    text = read_text(path)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise DataError(f"{path}:{line} must be JSON, but {_reason(error)}; write the file again") from error
    return _mapping(values, str(path))


def read_jsonl(path: Path) -> Rows:
    """Return the objects of a JSONL file; a last line without its end may be cut off.

    Raises:
        DataError: it cannot be read, or a whole line is no JSON object.
    """
    lines = read_text(path).split("\n")
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                return Rows(rows, torn=True)
            raise DataError(f"{where} must be a JSON object, but {_reason(error)}; mend or drop the line") from error
        rows.append(Row(where, _mapping(values, where)))
    return Rows(rows, torn=False)


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, float]]:
    """Return the rows of a CSV file as numbers.

    Raises:
        DataError: it cannot be read, lacks a column, or holds what is no number.
    """
    lines = csv.reader(read_text(path).splitlines())
    try:
        table = [(lines.line_num, line) for line in lines if line]
    except csv.Error as error:
        raise DataError(f"{path}:{lines.line_num} must be CSV, but {error}; write the file again") from error
    header = table[0][1] if table else []
    missing = [name for name in columns if name not in header]
    if missing:
        raise DataError(f"{path}:1 needs the columns {', '.join(columns)}, but lacks {', '.join(missing)}")
    rows: list[dict[str, float]] = []
    for number, cells in table[1:]:
        where = f"{path}:{number}"
        if len(cells) != len(header):
            raise DataError(f"{where} needs {len(header)} cells, as the header has, but holds {len(cells)}")
        values = dict(zip(header, cells, strict=True))
        rows.append({name: number_of(values, name, where) for name in columns})
    return rows


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Return the mapping of a YAML file.

    Raises:
        DataError: it cannot be read, or is no YAML mapping.
    """
    text = read_text(path)
    try:
        values = parse_yaml(text)
    except DataError as error:
        mark = getattr(error.__cause__, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 1
        raise DataError(f"{path}:{line} must be YAML, but {_reason(error)}; write the file again") from error
    return _mapping(values, str(path))


def number_of(values: Mapping[str, Any], name: str, where: str) -> float:
    """Return a field as a number; an empty cell or null is NaN.

    Raises:
        DataError: the field is missing, or no number.
    """
    if name not in values:
        raise DataError(f"{where} needs the field {name}, which is missing")
    value = values[name]
    if value is None or value == "":
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where} needs a number as {name}, but holds {value!r:.80}") from None


def _mapping(values: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(values, dict):
        raise DataError(f"{where} must hold names and values, but holds {type(values).__name__}")
    return {str(name): value for name, value in values.items()}


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg[0].lower()}{error.msg[1:]} at column {error.colno}"
    return reason(error)
