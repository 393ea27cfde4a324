"""Writes a report; imports nothing heavy before it is called."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path

from lds._files import make_folder, write_atomically
from lds.errors import InputError
from lds.run._export import refuse_taken


def write_report(
    folders: Sequence[Path],
    out: Path,
    *,
    node: int | None = None,
    data_root: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Path:
    """Write one HTML page on runs, sweeps and ablations, which needs no network and no other file.

    Args:
        folders: what `lds train`, `lds sweep` or `lds ablate` wrote; a section each.
        out: the page.
        node: whose learned neighbourhood to show; when not given, the test node whose edges changed most.
        data_root: folder of the data sets; when not given, that of the run, else $LDS_DATA_ROOT, else data/.
        force: replace a page that is there.

    Returns:
        The path of the page.

    Raises:
        InputError: a folder is not what it must be, there is no such node, the page is there or cannot be made, or
            matplotlib or Jinja2 is not installed.
        DataError: a file of a folder is malformed.
        StorageError: the page cannot be written: the disk is full, or the folder read-only.
    """
    for package in ("matplotlib", "jinja2"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise InputError(f"a report needs {package}; run: pip install 'lds-gnn[report]'") from error
    from lds.report._page import render_page
    from lds.report._sections import Options, comparison_section, read_folder, runs_of, section, title_of

    paths = [Path(folder) for folder in folders]
    if not paths:
        raise InputError("a report needs at least one folder, but none came; name what was given as --out")
    refuse_taken(out, force=force)
    read = [read_folder(path) for path in paths]
    options = Options(node, None if data_root is None else os.fspath(data_root))
    sections = [section(folder, f"f{number}", options) for number, folder in enumerate(read, start=1)]
    runs = [run for folder in read for run in runs_of(folder)]
    if len(paths) > 1 and len(runs) > 1:
        sections.insert(0, comparison_section(runs))
    page = render_page(title_of(paths[0].resolve(), len(paths)), sections)
    make_folder(out.parent)
    write_atomically(out, page.encode("utf-8", "backslashreplace"))
    return out
