"""Figures of an ablation: accuracy and costs by horizon, fidelity by depth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lds._statistics import mean
from lds.report._blocks import Picture
from lds.report._svg import INK, SERIES, canvas, logarithmic, render, whole_numbers

Row = Mapping[str, float]


def accuracy_figure(runs: Sequence[Row], name: str) -> Picture:
    """Return test accuracy by horizon, single seeds and means with intervals."""
    title = "Test accuracy by horizon"
    text = "Small points are single seeds; large ones with bars are means with 95 % intervals."
    return _by_horizon(runs, "test_accuracy", title, "test accuracy (%)", text, f"{name}-accuracy", 0, scale=100)


def cost_figures(runs: Sequence[Row], name: str) -> list[Picture]:
    """Return time and memory by horizon."""
    return [
        _by_horizon(runs, "seconds", "Time by horizon", "time of a run (s)", "", f"{name}-seconds", 2),
        _by_horizon(runs, "peak_rss_mb", "Memory by horizon", "peak memory (MiB)", "", f"{name}-memory", 3),
    ]


def fidelity_figures(rows: Sequence[Row], name: str) -> list[Picture]:
    """Return relative error, cosine and costate norm by depth."""
    rows = sorted(rows, key=lambda row: row["depth"])
    return [
        _by_depth(rows, "relative_error", "Relative error by depth", "relative error", f"{name}-error", 4),
        _by_depth(rows, "cosine", "Cosine by depth", "cosine with the full hypergradient", f"{name}-cosine", 1),
        # That of the first state is a derivative by slots that start at zero, and no step follows from it.
        _by_depth(rows[:-1], "costate_norm", "Costate norm by depth", "norm of the costate", f"{name}-costate", 5),
    ]


def _by_horizon(
    runs: Sequence[Row], column: str, title: str, ylabel: str, text: str, name: str, series: int, scale: float = 1
) -> Picture:
    groups: dict[float, list[float]] = {}
    for run in sorted(runs, key=lambda run: run["horizon"]):
        groups.setdefault(run["horizon"], []).append(scale * run[column])
    centres = [mean(values) for values in groups.values()]
    errors = [0.0 if math.isnan(m.half_width) else m.half_width for m in centres]
    # Beside the bar, which would hide them.
    aside = 0.02 * (max(groups) - min(groups))
    with canvas("horizon (inner steps)", ylabel) as (figure, axes):
        for horizon, values in groups.items():
            axes.plot([horizon + aside] * len(values), values, "o", color=INK, alpha=0.45, ms=3.5, mew=0)
        axes.errorbar(
            list(groups), [m.mean for m in centres], errors, color=SERIES[series], marker="o", capsize=4, elinewidth=1.3
        )
        whole_numbers(axes)
        return Picture(title, render(figure, name, title), text)


def _by_depth(rows: Sequence[Row], column: str, title: str, ylabel: str, name: str, series: int) -> Picture:
    depths, values = [row["depth"] for row in rows], [row[column] for row in rows]
    log = column != "cosine" and any(value > 0 for value in values)
    # A logarithmic scale has no place for 0.
    drawn = [value if value > 0 or not log else math.nan for value in values]
    zeros = sum(value == 0 for value in values) if log else 0
    with canvas("depth of the sweep (inner steps)", ylabel) as (figure, axes):
        axes.plot(depths, drawn, color=SERIES[series], marker="o", markersize=3.5)
        if log:
            logarithmic(axes)
        whole_numbers(axes)
        text = "" if not zeros else "A value of exactly 0 is not drawn on the logarithmic scale."
        return Picture(title, render(figure, name, title), text)
