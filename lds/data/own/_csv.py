"""Tables as text, or as parquet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from lds._files import open_file
from lds._read import reason
from lds.data.own._table import Columns, Nodes, read_table
from lds.data.own._text import lines
from lds.errors import DataError


def read_text(path: Path, wanted: Columns, sep: str | None) -> Nodes:
    """Return the nodes of a table of text.

    Raises:
        DataError: the file is malformed.
        OSError: it cannot be read.
    """
    with closing(lines(path, sep)) as rows:
        _, header = next(rows, (0, []))
        return read_table(path, header, rows, wanted)


def read_parquet(path: Path, wanted: Columns) -> Nodes:
    """Return the nodes of a table of pandas.

    Raises:
        DataError: the file is damaged, or pandas cannot read it here.
        OSError: it cannot be read.
    """
    try:
        import pandas  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError(f"{path} needs pandas to be read: pip install pandas pyarrow, or save it as .csv") from error
    try:
        with os.fdopen(open_file(path, os.O_RDONLY, links=True), "rb") as file:
            table = pandas.read_parquet(file)
    except OSError:
        raise
    # What reads parquet for pandas raises exceptions of its own.
    except Exception as error:
        raise DataError(
            f"{path} must be a parquet file, and pandas have pyarrow to read it, but {reason(error)}; pip install "
            "pyarrow, or save it as .csv"
        ) from error

    def rows() -> Iterator[tuple[int, list[Any]]]:
        for place, row in enumerate(table.itertuples(index=False, name=None), start=1):
            yield place, list(row)

    return read_table(path, [str(column) for column in table.columns], rows(), wanted)
