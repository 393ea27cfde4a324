"""Learning curves by outer epoch."""

from __future__ import annotations

from collections.abc import Sequence

from lds.report._blocks import Block, Picture, Pictures, Text
from lds.report._numbers import count, percent
from lds.report._run import Epoch, Run
from lds.report._svg import DASHES, MARKERS, SERIES, canvas, render, whole_numbers

_SETTINGS = 8


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
        "Accuracy on the early-stopping nodes",
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
    return [pictures, Text(f"The ring marks outer epoch {best.epoch:.0f}, the best: its structure was kept.")]


def sweep_curves(runs: Sequence[Run], name: str) -> list[Block]:
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
    return [Pictures(pictures), Text(f"One line a run, one colour a setting.{note}")]


def _line(
    epochs: Sequence[Epoch],
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
        return Picture(title, render(figure, name, f"{title} by outer epoch"))


def _many(runs: Sequence[Run], dataset: str, settings: Sequence[str], name: str) -> Picture:
    title = f"Accuracy on the early-stopping nodes, {dataset}"
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
                    label=None if first else _short(setting),
                )
        figure.legend(loc="outside lower left")
        whole_numbers(axes)
        return Picture(title, render(figure, name, f"{title}, by outer epoch"))


def _short(setting: str) -> str:
    return setting if len(setting) <= 52 else f"{setting[:51]}…"
