"""The ledger of a grid: a line of JSON for every run that has ended, written by one process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from lds._files import extend, lock, open_file, read_file
from lds._read import goes_beyond, parse_json
from lds._sums import SUM, check_sum, warn_unverified, with_sum
from lds.errors import DataError, InputError
from lds.run._reader import check_config, check_result
from lds.sweep._spec import key

LEDGER = "results.jsonl"
_PARTS = ("config", "status", "result", "error", SUM)
# What tables and summaries are made of; a baseline without probabilities has no loss.
_NUMBERS = ("test_accuracy", "es_accuracy", "es_loss")


@dataclass(frozen=True)
class Outcome:
    """How one run ended.

    Attributes:
        config: the fields that differ from their defaults, and data set, method and seed.
        status: done or failed.
        result: what the run's result.json holds; None for a failed run.
        error: type, message and traceback; None for a run that is done.

    Example:
        >>> outcome = Outcome({"dataset": "iris", "method": "svm", "seed": 0}, "done", {"test_accuracy": 0.9})
        >>> outcome.key
        '{"dataset":"iris","method":"svm","seed":0}'
    """

    config: dict[str, Any]
    status: Literal["done", "failed"]
    result: dict[str, Any] | None = None
    error: dict[str, str] | None = None

    @property
    def key(self) -> str:
        """The same text for the same run."""
        return key(self.config)


class Ledger:
    """The open ledger of a grid, locked until it is closed.

    Args:
        path: the file; made where there is none.

    Raises:
        InputError: another process has it open, or a line of it is no outcome, or it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = os.fdopen(open_file(path, os.O_RDWR | os.O_APPEND | os.O_CREAT), "a+b", buffering=0)
        except OSError as error:
            raise InputError(
                f"{path} cannot be written: {error.strerror}; give the rights, or choose another --out"
            ) from error
        try:
            if not lock(self._file.fileno()):
                raise InputError(f"{path.parent} must be a sweep that no other process runs, but one does; wait for it")
            self._file.seek(0)
            content = self._file.read()
            self.outcomes = {outcome.key: outcome for outcome in _outcomes(path, content)}
            # What follows the last line was cut off while it was written.
            self._file.truncate(content.rfind(b"\n") + 1)
        except BaseException:
            self._file.close()
            raise

    def append(self, outcome: Outcome) -> None:
        """Add the outcome of a run; on return it is on the disk.

        Raises:
            StorageError: it cannot be written; the ledger is as before.
        """
        extend(self._file, self._path, json.dumps(with_sum(asdict(outcome))).encode() + b"\n")
        self.outcomes[outcome.key] = outcome

    def __enter__(self) -> Ledger:
        """Return the ledger."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file and so give the lock back."""
        self._file.close()


def read_ledger(path: Path) -> list[Outcome]:
    """Return the last outcome of every run, in the order in which the runs ended first.

    Raises:
        InputError: the file cannot be read, or a line of it is no outcome.
    """
    try:
        content = read_file(path, links=True)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}; give the folder of a sweep or its ledger"
        ) from error
    return list({outcome.key: outcome for outcome in _outcomes(path, content)}.values())


def whole_lines(content: bytes) -> tuple[list[tuple[int, bytes]], bool]:
    """Return the lines of a ledger with their numbers, and whether a last one was cut off, which is left out."""
    *lines, rest = content.split(b"\n")
    if goes_beyond(rest):  # No line that was cut off, but one whose end has changed: the reader of lines says so.
        lines, rest = [*lines, rest], b""
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()], bool(rest.strip())


def warn_of_old_lines(path: Path, lines: Sequence[tuple[int, bytes]]) -> None:
    """Warn where a line is of an earlier version, which wrote no sums."""
    if not all(f'"{SUM}":'.encode() in line for _, line in lines):
        warn_unverified(path)


def outcome_of(line: bytes, where: str) -> Outcome:
    """Return the outcome that a line of a ledger holds.

    Args:
        line: the line.
        where: what to call it in messages.

    Raises:
        DataError: it holds none, or has changed since it was written.
    """
    try:
        values = parse_json(line)
    except DataError as fault:
        raise DataError(f"{where} must be a JSON object, but {fault}; mend or drop the line") from fault
    if not isinstance(values, dict):
        raise DataError(f"{where} must hold names and values, but holds {type(values).__name__}")
    check_sum(values, where, "mend or drop the line")
    if unknown := values.keys() - set(_PARTS):
        raise DataError(f"{where} must hold {', '.join(_PARTS)}, but {min(unknown):.80} came; mend or drop the line")
    config: Any = values.get("config")
    result: Any = values.get("result")
    error: Any = values.get("error")
    check_config(config, where)
    if values.get("status") == "done":
        check_result(result, where)
        _check_numbers(result, where)
        outcome = Outcome(config, "done", result=result)
    elif values.get("status") == "failed":
        if not isinstance(error, dict) or not all(isinstance(error.get(name), str) for name in ("type", "message")):
            raise DataError(f"{where} needs type, message and traceback as error, but holds {error!r:.80}")
        outcome = Outcome(config, "failed", error=error)
    else:
        raise DataError(f'{where} needs "done" or "failed" as status, but holds {values.get("status")!r:.80}')
    if not isinstance(config.get("method"), str) or type(config.get("seed")) is not int:
        raise DataError(f"{where} needs a configuration with method and seed, but holds {config!r:.80}")
    return outcome


def _outcomes(path: Path, content: bytes) -> list[Outcome]:
    outcomes = []
    lines, _ = whole_lines(content)
    for number, line in lines:
        try:
            outcomes.append(outcome_of(line, "it"))
        except DataError as error:
            raise InputError(
                f"line {number} of {path} must be the outcome of a run, but is not ({error}); "
                "take the line out, and the run is repeated"
            ) from error
    warn_of_old_lines(path, lines)
    return outcomes


def _check_numbers(result: dict[str, Any], where: str) -> None:
    for name in _NUMBERS:
        number = result.get(name)
        # Python's integers go further than its floats.
        too_large = isinstance(number, int) and abs(number) > sys.float_info.max
        if too_large or not isinstance(number, int | float | None):
            raise DataError(f"{where} needs a number as {name}, but holds {number!r:.80}")
