"""Text files as lines of cells."""

from __future__ import annotations

import csv
import os
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

from lds._files import open_file
from lds.errors import DataError, InputError

_NAMES = {"tab": "\t", "\\t": "\t", "space": " ", "comma": ",", "semicolon": ";"}
# In the order in which they are looked for in the first line.
_SEPARATORS = (",", "\t", ";")


def check_sep(sep: str | None) -> str | None:
    """Return a separator as one character; " " is any white space.

    Raises:
        InputError: it is none.
    """
    found = sep if sep is None else _NAMES.get(sep, sep)
    if found is not None and (len(found) != 1 or found in '"\r\n'):
        raise InputError(f'sep must be one character, or "tab" or "space", got {sep!r:.80}')
    return found


def whole_text(path: Path) -> str:
    """Return a text in UTF-8, without a byte order mark, and with line feeds at the ends of lines.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is none.
    """
    with os.fdopen(open_file(path, os.O_RDONLY, links=True), encoding="utf-8-sig") as file:
        return file.read()


def lines(path: Path, sep: str | None, *, spaces: bool = False) -> Generator[tuple[int, list[str]], None, None]:
    """Yield line numbers and cells, without empty lines; every line has as many cells as the first.

    Args:
        path: the file, in UTF-8.
        sep: what separates cells; a comma, tab or semicolon, whichever is in the first line, when None.
        spaces: for edges: white space separates cells where nothing else does, and lines that begin with # or % are
            comments.

    Raises:
        DataError: the file is no such text.
        OSError: it cannot be read.
    """
    width = number = None
    # utf-8-sig: spreadsheets put a byte order mark in front.
    with os.fdopen(open_file(path, os.O_RDONLY, links=True), encoding="utf-8-sig", newline="") as file:
        reader = _Rows(file, sep, spaces=spaces)
        try:
            for number, row in reader:
                width = len(row) if width is None else width
                if len(row) != width:
                    raise DataError(
                        f"{path}, line {number}: a line must have {width} cells, as the first has, "
                        f"but {len(row)} came; mend it, or name what separates cells with sep"
                    )
                yield number, row
        except (csv.Error, UnicodeDecodeError) as error:
            what = "commas between cells" if reader.sep in (",", None) else f"{reader.sep!r} between cells"
            raise DataError(
                f"{path}, after line {number or 0}: must be text in UTF-8 with {what}, but {error}; save it again "
                "as such"
            ) from error


class _Rows:
    """The rows of a text, and the separator that was found in the first."""

    def __init__(self, file: Iterable[str], sep: str | None, *, spaces: bool) -> None:
        self.sep = sep
        self._file = file
        self._spaces = spaces

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        if self._spaces:
            yield from self._rows_of_edges()
            return
        kept: list[str] = []
        reader: Iterator[list[str]] | None = None
        first = ""
        source = iter(self._file)
        for first in source:
            kept.append(first)
            if first.strip():
                break
        if self.sep is None:
            self.sep = next((sep for sep in _SEPARATORS if sep in first), ",")

        def again() -> Iterator[str]:
            yield from kept
            yield from source

        reader = csv.reader(again(), strict=True, delimiter=self.sep)
        for row in reader:
            if row:
                yield reader.line_num, row

    def _rows_of_edges(self) -> Iterator[tuple[int, list[str]]]:
        for number, line in enumerate(self._file, start=1):
            if not line.strip() or line.lstrip()[0] in "#%":
                continue
            if self.sep is None:
                self.sep = next((sep for sep in _SEPARATORS if sep in line), " ")
            if self.sep == " ":
                yield number, line.split()
            else:
                yield from ((number, row) for row in csv.reader([line], strict=True, delimiter=self.sep))
