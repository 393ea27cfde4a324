"""The ledger of a grid: a line of JSON for every run that has ended, written by one process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from lds._files import extend, lock
from lds._read import parse_json
from lds.errors import DataError, InputError
from lds.sweep._spec import key

LEDGER = "results.jsonl"
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
            self._file = path.open("a+b", buffering=0)
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
        extend(self._file, self._path, json.dumps(asdict(outcome)).encode() + b"\n")
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
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}; give the folder of a sweep or its ledger"
        ) from error
    return list({outcome.key: outcome for outcome in _outcomes(path, content)}.values())


def parse_ledger(content: bytes, refusal: Callable[[int, str], InputError]) -> tuple[list[Outcome], bool]:
    """Return the outcomes in a ledger, and whether a last line was cut off while it was written; that one is left out.

    Args:
        content: of the file.
        refusal: what to raise where a line is no outcome, from its number and from what it must be and is not.
    """
    outcomes = []
    *lines, rest = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                outcomes.append(_outcome(_parse(line)))
        except DataError as error:
            raise refusal(number, str(error)) from error
    return outcomes, bool(rest.strip())


def _outcomes(path: Path, content: bytes) -> list[Outcome]:
    def refusal(number: int, fault: str) -> InputError:
        return InputError(
            f"line {number} of {path} must be the outcome of a run, but is not (it {fault}); "
            "take the line out, and the run is repeated"
        )

    return parse_ledger(content, refusal)[0]


def _parse(line: bytes) -> dict[str, Any]:
    try:
        values = parse_json(line)
    except DataError as error:
        raise DataError(f"must be a JSON object, but {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"must hold names and values, but holds {type(values).__name__}")
    return values


def _outcome(values: dict[str, Any]) -> Outcome:
    """Check what a line holds.

    Raises:
        DataError: it is no outcome; the message is what a line must be, and what this one is.
    """
    config, status, result, error = (values.get(name) for name in ("config", "status", "result", "error"))
    if not isinstance(config, dict) or not isinstance(config.get("dataset") or config.get("data"), str):
        raise DataError(f"needs the configuration of a run with its dataset, but holds {config!r:.80}")
    if status == "done":
        if not isinstance(result, dict):
            raise DataError(f"needs the result of a run, but holds {result!r:.80}")
        _check_result(result)
    elif status == "failed":
        if not isinstance(error, dict) or not all(isinstance(error.get(name), str) for name in ("type", "message")):
            raise DataError(f"needs type, message and traceback as error, but holds {error!r:.80}")
    else:
        raise DataError(f'needs "done" or "failed" as status, but holds {status!r:.80}')
    if not isinstance(config.get("method"), str):
        raise DataError(f"needs a text as method, but holds {config.get('method')!r:.80}")
    if type(config.get("seed")) is not int:
        raise DataError(f"needs an integer as seed, but holds {config.get('seed')!r:.80}")
    if status == "done":
        return Outcome(config, "done", result=result)
    return Outcome(config, "failed", error=error)


def _check_result(result: dict[str, Any]) -> None:
    for name in _NUMBERS:
        number = result.get(name)
        # Python's integers go further than its floats.
        too_large = isinstance(number, int) and abs(number) > sys.float_info.max
        if too_large or not isinstance(number, int | float | None):
            raise DataError(f"needs a number as {name}, but holds {number!r:.80}")
    if not isinstance(result.get("versions", {}), dict):
        raise DataError(f"needs names and numbers as versions, but holds {result['versions']!r:.80}")
