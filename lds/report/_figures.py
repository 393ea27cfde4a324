"""Line plots: learning curves by outer epoch, accuracy and costs by horizon, fidelity by depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from lds._callbacks import EpochRecord
from lds._statistics import mean
from lds.ablate import Ablation, Row
from lds.report._numbers import count, percent, sentence
from lds.report._page import Block, Picture, Pictures, Text
from lds.report._svg import DASHES, INK, MARKERS, SERIES, canvas, logarithmic, picture, short, whole_numbers
from lds.run._reader import Run

if TYPE_CHECKING:
    from lds.hypergrad import TruncationCurve

# No more than there are colours, or lines that a reader takes in.
_SETTINGS, _ROWS = 8, 30


def curves(run: Run, name: str, initial_edges: int | None) -> list[Block]:
    """Return inner loss, ES accuracy and expected edges of one run by outer epoch."""
    epochs = run.epochs
    if not epochs:
        return [Text("No outer epoch has ended yet." if run.result is None else "This method has no outer epochs.")]
    if len(epochs) == 1:
        (epoch,) = epochs
        return [
            Text(
                f"One outer epoch, so there is no curve: inner loss {epoch.inner_loss:.4g}, accuracy on the "
                f"early-stopping nodes {percent(epoch.es_accuracy)}, {count(epoch.expected_edges)} expected edges."
            )
        ]
    loss = _line(epochs, [e.inner_loss for e in epochs], "Inner loss", "inner loss (nats)", f"{name}-loss", 0)
    accuracy = _line(
        epochs,
        [100 * e.es_accuracy for e in epochs],
        "Early-stopping accuracy",
        "ES accuracy (%)",
        f"{name}-es",
        1,
    )
    edges = _line(
        epochs,
        [e.expected_edges for e in epochs],
        "Expected edges",
        "expected number of edges",
        f"{name}-edges",
        2,
        initial=initial_edges,
    )
    best = run.best
    pictures = Pictures([loss, accuracy, edges])
    if best is None:
        return [pictures]
    return [pictures, Text(f"The ring marks outer epoch {best.epoch}, the best: its structure was kept.")]


def grid_curves(runs: Sequence[Run], name: str) -> list[Block]:
    """Return the ES accuracy of many runs by outer epoch, a colour a setting; the first eight settings."""
    runs = [run for run in runs if len(run.epochs) > 1]
    if not runs:
        return [Text("No run of more than one outer epoch has its folder here, so there are no curves.")]
    settings = list(dict.fromkeys((run.dataset, run.setting) for run in runs))
    pictures: list[Picture] = []
    for dataset in dict.fromkeys(dataset for dataset, _ in settings):
        of_it = [setting for data, setting in settings if data == dataset]
        pictures.append(_many(runs, dataset, of_it[:_SETTINGS], f"{name}-es-{len(pictures)}"))
    left_out = max(sum(data == dataset for data, _ in settings) for dataset, _ in settings) > _SETTINGS
    note = f" Of more than {_SETTINGS} settings, the first {_SETTINGS} are drawn." if left_out else ""
    return [Pictures(pictures), Text(f"Each line is a run, each colour a setting.{note}")]


def settings_figure(dataset: str, tests: Mapping[str, Mapping[int, float]], name: str) -> Picture:
    """Return test accuracy by setting, a line per setting: single seeds, and means with intervals.

    Args:
        dataset: of the runs.
        tests: setting -> seed -> test accuracy, 0 to 1.
        name: prefix of the ids.
    """
    shown = {setting: [100 * v for v in values.values()] for setting, values in tests.items() if values}
    left_out = len(shown) - _ROWS
    rows = list(shown.items())[:_ROWS]
    title = f"Test accuracy by setting, {dataset}"
    text = "Small points are single seeds; large ones with bars are means with 95 % intervals."
    if left_out > 0:
        text += f" The first {_ROWS} settings are drawn, {left_out} are not."
    points = []
    with canvas("test accuracy (%)", "", (4.6, 1.0 + 0.34 * len(rows))) as (figure, axes):
        for place, (setting, values) in enumerate(rows):
            whole = mean(values)
            axes.plot(values, [place + 0.18] * len(values), "o", color=INK, alpha=0.45, ms=3.5, mew=0)
            error = 0.0 if math.isnan(whole.half_width) else whole.half_width
            axes.errorbar([whole.mean], [place], xerr=[error], color=SERIES[0], marker="o", capsize=4, elinewidth=1.3)
            points += [(v, place + 0.18, f"{setting}: {v:.1f} %, a seed") for v in values]
            points.append((whole.mean, place, f"{setting}: {whole.mean:.1f} %, 95 % interval ± {error:.1f}"))
        axes.set_yticks(range(len(rows)), [short(setting, 26) for setting, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        return picture(figure, name, title, title, text, points=points)


def overlaid(runs: Mapping[str, Run], name: str) -> list[Block]:
    """Return inner loss, ES accuracy and expected edges of several runs by outer epoch, a line per run.

    Args:
        runs: the runs by what to call them.
        name: prefix of the ids.
    """
    drawn = {called: run for called, run in runs.items() if len(run.epochs) > 1}
    if len(drawn) < 2:
        return []
    shown = dict(list(drawn.items())[:_SETTINGS])
    what: list[tuple[str, str, str, Callable[[EpochRecord], float]]] = [
        ("Inner loss", "inner loss (nats)", "loss", lambda epoch: epoch.inner_loss),
        ("Early-stopping accuracy", "ES accuracy (%)", "es", lambda epoch: 100 * epoch.es_accuracy),
        ("Expected edges", "expected number of edges", "edges", lambda epoch: epoch.expected_edges),
    ]
    pictures = []
    for title, ylabel, suffix, of in what:
        with canvas("outer epoch", ylabel, (4.6, 3.1 + 0.17 * len(shown))) as (figure, axes):
            for number, (called, run) in enumerate(shown.items()):
                axes.plot(
                    [epoch.epoch for epoch in run.epochs],
                    [of(epoch) for epoch in run.epochs],
                    color=SERIES[number],
                    linestyle=DASHES[number % len(DASHES)],
                    marker=MARKERS[number],
                    markevery=max(1, len(run.epochs) // 8),
                    markersize=3.5,
                    label=short(called, 52),
                )
            figure.legend(loc="outside lower left")
            whole_numbers(axes)
            pictures.append(picture(figure, f"{name}-{suffix}", title, f"{title} of {len(shown)} runs by outer epoch"))
    note = f" Of {len(drawn)} runs, the first {_SETTINGS} are drawn." if len(drawn) > _SETTINGS else ""
    return [Pictures(pictures), Text(f"Each line is a run.{note}")]


def score_figure(ablation: Ablation, name: str) -> Picture:
    """Return the score that is shown by horizon, single seeds and means with intervals."""
    score = ablation.names[0]
    title = f"{sentence(score)} by horizon"
    text = "Small points are single seeds; large ones with bars are means with 95 % intervals."
    return _by_horizon(ablation.rows, "score", title, score, text, f"{name}-accuracy", 0)


def cost_figures(runs: Sequence[Row], name: str) -> list[Picture]:
    """Return time and memory by horizon."""
    return [
        _by_horizon(runs, "seconds", "Time by horizon", "time of a run (s)", "", f"{name}-seconds", 2),
        _by_horizon(runs, "peak_rss_mb", "Memory by horizon", "peak memory (MiB)", "", f"{name}-memory", 3),
    ]


def fidelity_figures(curve: TruncationCurve, name: str) -> list[Picture]:
    """Return relative error, cosine and costate norm by depth."""
    errors, cosines = curve.relative_error, curve.cosine
    # That of the first state is a derivative by slots that start at zero, and no step follows from it.
    norms = curve.costate_norm[:-1]
    return [
        _by_depth(errors, "Relative error by depth", "relative error", f"{name}-error", 4, log=True),
        _by_depth(cosines, "Cosine by depth", "cosine with the full hypergradient", f"{name}-cosine", 1),
        _by_depth(norms, "Costate norm by depth", "norm of the costate", f"{name}-costate", 5, log=True),
    ]


def _line(
    epochs: Sequence[EpochRecord],
    values: Sequence[float],
    title: str,
    ylabel: str,
    name: str,
    series: int,
    initial: int | None = None,
) -> Picture:
    numbers = [epoch.epoch for epoch in epochs]
    with canvas("outer epoch", ylabel) as (figure, axes):
        axes.plot(numbers, values, color=SERIES[series], marker="o", markersize=3.5 if len(epochs) < 60 else 0)
        kept = [i for i, epoch in enumerate(epochs) if epoch.improved]
        if kept:
            axes.plot(numbers[kept[-1]], values[kept[-1]], "o", color=SERIES[series], mfc="none", mew=1.6, ms=11)
        if initial is not None:
            axes.axhline(initial, color=SERIES[7], linestyle="--", linewidth=1.2, label="initial edges")
            axes.legend(loc="best")
        whole_numbers(axes)
        return picture(figure, name, title, f"{title} by outer epoch")


def _many(runs: Sequence[Run], dataset: str, settings: Sequence[str], name: str) -> Picture:
    title = f"Early-stopping accuracy, {dataset}"
    with canvas("outer epoch", "ES accuracy (%)", (4.6, 3.1 + 0.17 * len(settings))) as (figure, axes):
        for number, setting in enumerate(settings):
            of_it = [run for run in runs if (run.dataset, run.setting) == (dataset, setting)]
            for first, run in enumerate(of_it):
                axes.plot(
                    [e.epoch for e in run.epochs],
                    [100 * e.es_accuracy for e in run.epochs],
                    color=SERIES[number],
                    linestyle=DASHES[number % len(DASHES)],
                    marker=MARKERS[number],
                    markevery=max(1, len(run.epochs) // 8),
                    markersize=3.5,
                    linewidth=1.1,
                    label=None if first else short(setting, 52),
                )
        figure.legend(loc="outside lower left")
        whole_numbers(axes)
        return picture(figure, name, title, f"{title}, by outer epoch")


def _by_horizon(
    runs: Sequence[Row], column: str, title: str, ylabel: str, text: str, name: str, series: int
) -> Picture:
    groups: dict[int, list[float]] = {}
    for run in sorted(runs, key=lambda run: run.horizon):
        groups.setdefault(run.horizon, []).append(getattr(run, column))
    centres = [mean(values) for values in groups.values()]
    errors = [0.0 if math.isnan(m.half_width) else m.half_width for m in centres]
    # Beside the bar, which would hide them.
    aside = 0.02 * (max(groups) - min(groups))
    # Not those of the bars, which are the ends of intervals.
    points = [(h + aside, v, f"horizon {h}: {ylabel} {v:.4g}") for h, values in groups.items() for v in values]
    points += [
        (h, m.mean, f"horizon {h}: mean {m.mean:.4g}, 95 % interval ± {e:.2g}")
        for h, m, e in zip(groups, centres, errors, strict=True)
    ]
    with canvas("horizon (inner steps)", ylabel) as (figure, axes):
        for horizon, values in groups.items():
            axes.plot([horizon + aside] * len(values), values, "o", color=INK, alpha=0.45, ms=3.5, mew=0)
        axes.errorbar(
            list(groups), [m.mean for m in centres], errors, color=SERIES[series], marker="o", capsize=4, elinewidth=1.3
        )
        whole_numbers(axes)
        return picture(figure, name, title, title, text, points=points)


def _by_depth(
    values: Sequence[float], title: str, ylabel: str, name: str, series: int, *, log: bool = False
) -> Picture:
    log = log and any(value > 0 for value in values)
    # A logarithmic scale has no place for 0.
    drawn = [value if value > 0 or not log else math.nan for value in values]
    zeros = sum(value == 0 for value in values) if log else 0
    with canvas("depth of the sweep (inner steps)", ylabel) as (figure, axes):
        axes.plot(range(len(values)), drawn, color=SERIES[series], marker="o", markersize=3.5)
        if log:
            logarithmic(axes)
        whole_numbers(axes)
        text = "" if not zeros else "A value of exactly 0 is not drawn on the logarithmic scale."
        return picture(figure, name, title, title, text)
