"""Sums that tie files together, so that one that has changed, or comes from elsewhere, is noticed.

They guard against damage and mix-ups, not against forgery: anyone can compute the sums again, and nothing is signed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from lds._files import open_file, read_file
from lds.errors import DataError, UnverifiedWarning

SUM = "sum"
_SHORT = 16
_YAML_SUM = re.compile(rb"^# sum: (\w*)\s*\Z", re.MULTILINE)
# Zip archives, which hold a CRC-32 of each member; whoever reads a member compares it.
_ARCHIVES = (".pt", ".npz")


def sum_of_values(values: Any) -> str:
    """Return the sum of plain values, however they are laid out in a file."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _sum_of(name: str, file: BinaryIO) -> str:
    """Return the SHA-256 sum of a file; that of a zip archive is the sum of its directory, which has a CRC-32 a member.

    So a large archive is gone through once, by its reader, and not twice.
    """
    if not name.endswith(_ARCHIVES):
        return hashlib.sha256(file.read()).hexdigest()
    try:
        with zipfile.ZipFile(file) as archive:
            return sum_of_values([(m.filename, m.file_size, m.CRC, m.compress_type) for m in archive.infolist()])
    except Exception as error:  # A damaged archive raises many.
        raise DataError("it is no whole zip archive") from error


def with_sum(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with their own sum among them, cut to the length of a line."""
    return {**values, SUM: sum_of_values(values)[:_SHORT]}


def check_sum(values: Mapping[str, Any], where: str, advice: str) -> bool:
    """Tell whether values have a sum of their own: those of older versions have none.

    Args:
        values: what was read.
        where: what to call it in messages.
        advice: what to do where it has changed.

    Raises:
        DataError: they differ from it.
    """
    if SUM not in values:
        return False
    if sum_of_values({name: value for name, value in values.items() if name != SUM})[:_SHORT] != values[SUM]:
        raise DataError(f"{where} must be as it was written, but differs from its own sum; {advice}")
    return True


def yaml_with_sum(values: Mapping[str, Any], without: Sequence[str] = ()) -> bytes:
    """Return the content of a YAML file whose last line, a comment, is the sum of the values.

    Args:
        values: plain values.
        without: the names of those that may be changed.
    """
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    return f"{text}# {SUM}: {_sum_of_some(values, without)}\n".encode()


def check_yaml_sum(path: Path, values: Mapping[str, Any], advice: str, without: Sequence[str] = ()) -> bool:
    """Compare what a YAML file holds with its sum; tell whether it has one: those of users and older versions do not.

    Args:
        path: the file.
        values: what it holds.
        advice: what to do where it has changed.
        without: as for `yaml_with_sum`.

    Raises:
        DataError: they differ, or the file cannot be read.
    """
    try:
        found = _YAML_SUM.search(read_file(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the file and its rights") from error
    if found is not None and found[1].decode() != _sum_of_some(values, without):
        raise DataError(f"{path} must be as it was written, but differs from its own sum; {advice}")
    return found is not None


def _sum_of_some(values: Mapping[str, Any], without: Sequence[str]) -> str:
    return sum_of_values({name: value for name, value in values.items() if name not in without})[:_SHORT]


def sums_of_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the sums of those of these files that are in a folder.

    Raises:
        DataError: one cannot be read.
    """
    return {name: _read(folder / name) for name in names if (folder / name).exists()}


def check_files(folder: Path, sums: Mapping[str, Any], names: Iterable[str], *, needed: Iterable[str] = ()) -> None:
    """Compare the files of a folder with their sums.

    Args:
        folder: the folder.
        sums: the sums, by name.
        names: the files that may be there; one that is and has no sum is from elsewhere.
        needed: files that must be there if they have a sum; others may have been removed.

    Raises:
        DataError: a file differs, or is missing, or cannot be read.
    """
    for name in names:
        path = folder / name
        there, expected = path.exists(), sums.get(name)
        if there and expected is None:
            raise DataError(f"{path} must be a file of its folder, but the folder ended without it; take it out")
        if there and _read(path) != expected:
            raise DataError(
                f"{path} must be as its folder ended with it, but has changed or is that of another folder; put the "
                "right file back, or run again"
            )
        if not there and expected is not None and name in needed:
            raise DataError(f"{path} must be there, for its folder ended with it, but is missing; put it back")


def warn_unverified(what: Path) -> None:
    """Warn that what an earlier version wrote has no sums."""
    warnings.warn(
        f"{what} is not verified: it has no sums, as those of earlier versions have none, so that a change would not "
        "be noticed",
        UnverifiedWarning,
        stacklevel=2,
    )


def _read(path: Path) -> str:
    try:
        with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:  # Of an archive only the directory is read.
            return _sum_of(path.name, file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the file and its rights") from error
    except DataError as error:
        raise DataError(f"{path} must be as its folder ended with it, but {error}; put the right file back") from error
