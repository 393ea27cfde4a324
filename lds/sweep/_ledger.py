"""The ledger of a sweep: a line of JSON for every run that has ended, written by one process."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from lds._files import extend, lock
from lds._read import parse_json, reason
from lds.errors import InputError
from lds.sweep._identity import key

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
    """The open ledger of a sweep, locked until it is closed.

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
            self.outcomes = {outcome.key: outcome for outcome in _parse(path, content)}
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
    return list({outcome.key: outcome for outcome in _parse(path, content)}.values())


def _parse(path: Path, content: bytes) -> Iterable[Outcome]:
    # The part after the last newline, mostly empty, is a line that was cut off.
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            yield _outcome(parse_json(line))
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise InputError(
                f"line {number} of {path} must be the outcome of a run, but is not ({reason(error)}); "
                "take the line out, and the run is repeated"
            ) from error


def _outcome(values: dict[str, Any]) -> Outcome:
    outcome = Outcome(**values)
    part = {"done": outcome.result, "failed": outcome.error}[outcome.status]
    config = outcome.config
    named = isinstance(config, dict) and isinstance(config.get("method"), str) and type(config.get("seed")) is int
    if not isinstance(part, dict) or not named or not isinstance(config.get("dataset") or config.get("data"), str):
        raise ValueError("it lacks the result, the error, or data set, method and seed")
    for name in _NUMBERS:
        if isinstance(part.get(name), int):
            float(part[name])  # Python's integers go further than its floats.
        elif not isinstance(part.get(name), float | None):
            raise TypeError(f"its {name} is no number")
    if outcome.status == "failed" and not all(isinstance(part.get(name), str) for name in ("type", "message")):
        raise ValueError("its error needs a type and a message")
    return outcome
