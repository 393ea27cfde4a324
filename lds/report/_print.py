"""The figures of a page as files for papers and slides, in the colours of the light page."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure

from lds._files import make_folder, write_atomically
from lds.report._page import Picture, Pictures, Section
from lds.report._svg import GRID, INK, PAPER, SERIES, STYLE
from lds.run._export import refuse_taken

FORMATS = ("pdf", "svg", "png")
# As in page.css, where they have their names.
_LIGHT = ("#0067a3", "#c64600", "#00795c", "#a53f7c", "#8a6400", "#5a49b8", "#1f8fb8", "#6b7280")
PRINTED = dict(zip(SERIES, _LIGHT, strict=True)) | {INK: "#1a1d21", GRID: "#dfe3e8", PAPER: "#ffffff"}
_COLOURS = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")


def write_figures(sections: Iterable[Section], folder: Path, *, single: bool, force: bool) -> list[Path]:
    """Write every figure of a page as pdf, svg and png; return the paths.

    Args:
        sections: those of the page.
        folder: where the files go; made where it is not there.
        single: whether the page is on a single folder, so that names need not say of which.
        force: replace files that are there.

    Raises:
        InputError: a file is there, or the folder cannot be made.
        StorageError: a file cannot be written.
    """
    figures = {
        f"{picture.name.split('-', 1)[1] if single else picture.name}.{kind}": (picture.figure, kind)
        for picture in _pictures(sections)
        for kind in FORMATS
    }
    paths = {folder / name: what for name, what in figures.items()}
    for path in paths:
        refuse_taken(path, force=force)
    make_folder(folder)
    for path, (figure, kind) in paths.items():
        write_atomically(path, printed(figure, kind))
    return list(paths)


def printed(figure: Figure, kind: str) -> bytes:
    """Return a figure of a page as a file: its stand-ins become colours, on a ground that is white or none."""
    recolour(figure)
    buffer = io.BytesIO()
    # Fonts as TrueType, which journals ask for; no date, so that the same figure is the same file.
    own = {"pdf.fonttype": 42, "axes.facecolor": "none", "grid.color": PRINTED[GRID]}
    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    with matplotlib.rc_context(STYLE | own | dict.fromkeys(inks, PRINTED[INK])):
        metadata: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind, {})
        ground = PRINTED[PAPER] if kind == "png" else "none"
        figure.savefig(buffer, format=kind, dpi=200, facecolor=ground, metadata=metadata)
    return buffer.getvalue()


def recolour(figure: Figure) -> None:
    """Put the colours of the light page in the places of the stand-ins."""
    for artist in figure.findobj():
        for what in _COLOURS:
            get, put = (getattr(artist, f"{verb}_{what}", None) for verb in ("get", "set"))
            if get is None or put is None:
                continue
            colour = get()
            if isinstance(colour, np.ndarray) and colour.ndim == 2:  # Of a collection, a row a member.
                if len(colour):
                    put([_own(row) for row in colour])
            elif not isinstance(colour, str) or colour not in ("none", "auto"):
                put(_own(colour))


def _own(colour: Any) -> tuple[float, float, float, float]:
    printed = PRINTED.get(to_hex(colour))
    return to_rgba(colour) if printed is None else to_rgba(printed, to_rgba(colour)[3])


def _pictures(sections: Iterable[Section]) -> Iterator[Picture]:
    for section in sections:
        for part in section.parts:
            for block in part.blocks:
                if isinstance(block, Pictures):
                    yield from block.pictures
