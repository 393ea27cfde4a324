"""The learned structure of a run next to what it started from: histograms and a table of its edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lds.errors import LDSError
from lds.report._numbers import NONE, count, percent
from lds.report._page import Block, Picture, Pictures, Table, Text
from lds.report._svg import SERIES, canvas, logarithmic, picture
from lds.run import load_data, make_config
from lds.run._reader import Run, SavedGraph, fitted

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
_BINS = np.linspace(0, 1, 41)
_SHARES = "Edges within classes are those between two nodes of one class, whatever split the nodes are in."


@dataclass(frozen=True)
class Known:
    """What the data set says about the nodes of a run.

    Attributes:
        labels: class of each node.
        split: name of the split of each node; "" where it is in none.
        initial: pairs i < j of the structure that learning started from, shape [2, E].
    """

    labels: Integers
    split: tuple[str, ...]
    initial: Integers


def known(run: Run, data_root: str | None, num_nodes: int) -> Known | str:
    """Return labels, splits and initial pairs of a run, or why they are not to be had."""
    from lds.data import MASKS
    from lds.run._learner import initial_pairs

    root = data_root if data_root is not None else run.config.get("data_root")
    try:
        config = fitted(make_config({**run.config, "data_root": root}), run.result, run.dataset)
        data = load_data(config)
        initial = initial_pairs(config, data).numpy()
    except LDSError as error:
        return str(error)
    if data.num_nodes != num_nodes:
        return f"{run.dataset} has {data.num_nodes} nodes, but the learned structure {num_nodes}"
    split = [""] * num_nodes
    for mask in MASKS:
        for node in data[mask].nonzero().flatten().tolist():
            split[node] = mask.removesuffix("_mask")
    return Known(data.y.numpy(), tuple(split), initial)


def is_in(pairs: Integers, others: Integers, num_nodes: int) -> Booleans:
    """Return for each pair whether it is among the others."""
    return np.isin(pairs[0] * num_nodes + pairs[1], others[0] * num_nodes + others[1])


def structure_blocks(learned: SavedGraph, known: Known, name: str) -> list[Block]:
    """Return histograms and a table of the learned edges next to the initial ones."""
    within = known.labels[learned.pairs[0]] == known.labels[learned.pairs[1]]
    initial = is_in(learned.pairs, known.initial, learned.num_nodes)
    pictures = [
        _histogram(learned, {"within classes": within, "between classes": ~within}, "By class", f"{name}-class", 0),
        _histogram(learned, {"initial pairs": initial, "new pairs": ~initial}, "By origin", f"{name}-origin", 2),
    ]
    forgotten = known.initial.shape[1] - int(initial.sum())
    text = (
        "Pairs of nodes by edge probability, on a logarithmic scale. Pairs at or below 0.01 are not saved; "
        f"{count(forgotten)} of the {count(known.initial.shape[1])} initial edges are among these."
    )
    return [Pictures(pictures), Text(text), _table(learned, known, within, initial)]


def _histogram(learned: SavedGraph, groups: dict[str, Booleans], title: str, name: str, series: int) -> Picture:
    with canvas("edge probability", "pairs of nodes") as (figure, axes):
        for number, (label, chosen) in enumerate(groups.items()):
            counts, _ = np.histogram(learned.probability[chosen], _BINS)
            axes.stairs(
                counts,
                _BINS,
                color=SERIES[series + number],
                linewidth=1.6,
                linestyle=("-", "--")[number],
                label=f"{label} ({count(int(chosen.sum()))})",
                baseline=None,
            )
        logarithmic(axes)
        axes.set_ylim(bottom=0.7)
        axes.set_xlim(0, 1)
        figure.legend(loc="outside lower center", ncols=2)
        return picture(figure, name, title, f"Edge probabilities, {title[0].lower()}{title[1:]}")


def _table(learned: SavedGraph, known: Known, within: Booleans, initial: Booleans) -> Table:
    p = learned.probability
    likely = p > 0.5
    rows = [
        ["initial", count(known.initial.shape[1]), _share(_same_class(known))],
        ["expected, of the pairs saved", count(float(p.sum())), _share(within, p)],
        ["probability above 0.5", count(int(likely.sum())), _share(within[likely])],
        ["… of these initial", count(int((likely & initial).sum())), _share(within[likely & initial])],
        ["… of these new", count(int((likely & ~initial).sum())), _share(within[likely & ~initial])],
    ]
    return Table("Initial and learned edges", ["edges", "number", "within classes"], rows, _SHARES)


def _same_class(known: Known) -> Booleans:
    ends: Integers = known.labels[known.initial]
    return np.asarray(ends[0] == ends[1])


def _share(chosen: Booleans, weights: Floats | None = None) -> str:
    return percent(float(np.average(chosen, weights=weights))) if chosen.size else NONE
