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
    folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    *,
    node: int | str | None = None,
    data_root: str | os.PathLike[str] | None = None,
    figures: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Path:
    """Write one HTML page on runs, sweeps and ablations, which needs no network and no other file.

    Args:
        folders: what `lds train`, `lds sweep` or `lds ablate` wrote, one or several; a section each, and one that
            compares them.
        out: the page; report.html in the folder, for a single one, when None. That page is ours to write anew.
        node: whose learned neighbourhood to show, by number or name; when not given, the test node whose edges changed
            most. A reader of the page may choose others.
        data_root: folder of the data sets; when not given, that of the run, else $LDS_DATA_ROOT, else data/.
        figures: folder that gets every figure as pdf, svg and png, in the colours of the page.
        force: replace the page `out` and figures that are there.

    Returns:
        The path of the page.

    Raises:
        InputError: a folder is not what it must be, there is no such node, a file is there or cannot be made, or
            matplotlib or Jinja2 is not installed.
        DataError: a file of a folder is malformed.
        StorageError: a file cannot be written: the disk is full, or the folder read-only.

    Example:
        >>> from lds.run import BaselineConfig, train
        >>> result = train(BaselineConfig("iris", "logreg"), Path("iris"), progress=False)
        >>> write_report("iris").name
        'report.html'
    """
    _need("matplotlib", "jinja2")
    from lds.report._page import render_page
    from lds.report._print import write_figures
    from lds.report._sections import Options, comparison_section, read_folder, section, title_of

    paths = _paths(folders)
    if out is None and len(paths) > 1:
        raise InputError(f"--out is needed for a page on {len(paths)} folders; name the file, e.g. report.html")
    page_path = paths[0] / "report.html" if out is None else Path(out)
    refuse_taken(page_path, force=force or out is None)
    read = [read_folder(path) for path in paths]
    options = Options(node, None if data_root is None else os.fspath(data_root))
    sections = [section(folder, f"f{number}", options) for number, folder in enumerate(read, start=1)]
    if len(paths) > 1:
        compared = comparison_section(read, "all")
        sections = [compared, *sections] if compared.parts else sections
    page = render_page(title_of(paths[0].resolve(), len(paths)), sections)
    if figures is not None:
        write_figures(sections, Path(figures), single=len(paths) == 1, force=force)
    make_folder(page_path.parent)
    write_atomically(page_path, page.encode("utf-8", "backslashreplace"))
    return page_path


def score_table(folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], style: str = "md") -> str:
    """Return the scores of runs, sweeps and ablations as a table for a paper or a spreadsheet.

    Args:
        folders: what `lds train`, `lds sweep` or `lds ablate` wrote, one or several. Runs and sweeps are one table a
            data set, by setting; an ablation is a table by horizon.
        style: "latex" (with the rules of booktabs), "csv" or "md".

    Raises:
        InputError: there is no such style, no run that has ended, or a folder is not what it must be.
        DataError: a file of a folder is malformed.

    Example:
        >>> from lds.run import BaselineConfig, train
        >>> result = train(BaselineConfig("iris", "logreg"), Path("scores"), progress=False)
        >>> "logreg" in score_table("scores", "csv")
        True
    """
    _need("matplotlib", "jinja2")
    from lds.report._sections import read_folder, score_tables
    from lds.report._text import text_of

    paths = _paths(folders)
    tables = score_tables([read_folder(path) for path in paths])
    if not tables:
        raise InputError(f"a table needs a run that has ended, but there is none in {', '.join(map(str, paths))}")
    return text_of(tables, style)


def _need(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise InputError(f"a report needs {package}; run: pip install 'lds-gnn[report]'") from error


def _paths(folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    paths = [Path(folder) for folder in ([folders] if isinstance(folders, str | os.PathLike) else folders)]
    if not paths:
        raise InputError("a report needs at least one folder, but none came; name what was given as --out")
    return paths
