"""Figures of matplotlib as SVG elements that take their colours from the page, so that light and dark both fit.

matplotlib knows no CSS: it draws in stand-ins, colours that nothing else has, and `render` puts the variables in their
places.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from lds.report._page import Picture

INK, GRID, PAPER = "#010101", "#020202", "#030303"
SERIES = tuple(f"#0a00{number:02d}" for number in range(1, 9))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lds",
    # Names from files must not be taken for formulas.
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "grid.color": GRID,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


@contextmanager
def canvas(xlabel: str, ylabel: str, size: tuple[float, float] = (4.6, 3.1)) -> Iterator[tuple[Figure, Axes]]:
    """Give a figure of one panel to draw on, in the style of the page."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        yield figure, axes


def whole_numbers(axes: Axes) -> None:
    """Let the x axis have ticks at whole numbers only."""
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def logarithmic(axes: Axes) -> None:
    """Make the y axis logarithmic, its ticks as plain numbers; it stays linear where nothing drawn is positive."""
    least, most = axes.dataLim.minposy, axes.dataLim.y1
    if not math.isfinite(least):
        return
    axes.set_yscale("log")
    if most < 30 * least:
        # Powers of ten would be one tick, or none.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def picture(
    figure: Figure,
    name: str,
    title: str,
    alt: str,
    text: str = "",
    *,
    points: Iterable[tuple[float, float, str]] | None = None,
) -> Picture:
    """Return a figure as a picture of the page.

    Args:
        figure: what to show.
        name: prefix of the ids in it; no two figures of a page may have the same.
        title: its caption.
        alt: what a screen reader says.
        text: how to read it.
        points: what a pointer may stand on, and what it then says, in the coordinates of the axes; the points of all
            lines that have markers or more than two ends when None.
    """
    svg = render(figure, name, alt)
    width, height = 72 * figure.get_size_inches()
    axes = figure.axes[0]
    found = list(_points(axes) if points is None else points)
    places = figure.transFigure.inverted().transform(
        axes.transData.transform(np.array([(x, y) for x, y, _ in found]).reshape(-1, 2))
    )
    marks = [
        [round(float(x * width), 1), round(float((1 - y) * height), 1), what]
        for (x, y), (_, _, what) in zip(places, found, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    ]
    return Picture(title, svg, text, name, figure, json.dumps(marks, ensure_ascii=False, separators=(",", ":")))


def _points(axes: Axes) -> Iterator[tuple[float, float, str]]:
    """Yield the points of all lines that are data, with the numbers that they stand for."""
    xlabel, ylabel = axes.get_xlabel(), axes.get_ylabel()
    for line in axes.lines:
        if line.get_transform() != axes.transData:  # As that of a level right across.
            continue
        label = str(line.get_label())
        whose = "" if label.startswith("_") else f"{label}: "
        for x, y in zip(*map(np.asarray, line.get_data()), strict=True):
            if np.isfinite(x) and np.isfinite(y):
                yield float(x), float(y), f"{whose}{xlabel} {x:g}, {ylabel} {y:.4g}"


def short(text: str, most: int = 14) -> str:
    """Return a text as matplotlib shows it, without its mathematics, and not longer than fits."""
    return (text if len(text) <= most else f"{text[: most - 1]}…").replace("$", r"\$")


def render(figure: Figure, name: str, title: str) -> str:
    """Return the SVG element of a figure.

    Args:
        figure: what to render.
        name: prefix of the ids in it; no two figures of a page may have the same.
        title: what a screen reader says.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(\bid=\"|url\(#|href=\"#)", rf"\g<1>{name}-", svg)
    svg = svg.replace(INK, "currentColor").replace(GRID, "var(--grid)").replace(PAPER, "var(--paper)")
    svg = re.sub(r"#0a00(\d\d)", lambda match: f"var(--series-{int(match[1])})", svg)
    # The page decides on the size, and on the letters.
    svg = re.sub(r"<svg ([^>]*?)height=\"[^\"]*\" ", r"<svg \1", svg, count=1)
    svg = re.sub(r"<svg ([^>]*?)width=\"[^\"]*\" ", r"<svg \1", svg, count=1)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    text = escape(title)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{text}" ', 1).replace(">", f"><title>{text}</title>", 1)
