"""Figures of matplotlib as SVG elements that take their colours from the page, so that light and dark both fit.

matplotlib knows no CSS: it draws in stand-ins, colours that nothing else has, and `render` puts the variables in their
places.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

INK, GRID, PAPER = "#010101", "#020202", "#030303"
SERIES = tuple(f"#0a00{number:02d}" for number in range(1, 9))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")

_STYLE: Any = {
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
    with matplotlib.rc_context(_STYLE):
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


def render(figure: Figure, name: str, title: str) -> str:
    """Return the SVG element of a figure.

    Args:
        figure: what to render.
        name: prefix of the ids in it; no two figures of a page may have the same.
        title: what a screen reader says.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
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
