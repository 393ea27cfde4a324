"""Edge probabilities within and between classes, and of initial and new pairs."""

from __future__ import annotations

import numpy as np

from lds.report._blocks import Block, Picture, Pictures, Table, Text
from lds.report._numbers import NONE, count, percent
from lds.report._structure import Booleans, Floats, Integers, Known, Learned, is_in
from lds.report._svg import SERIES, canvas, logarithmic, render

_BINS = np.linspace(0, 1, 41)
_SHARES = "Edges within classes are those between two nodes of one class, whatever split the nodes are in."


def structure_blocks(learned: Learned, known: Known, name: str) -> list[Block]:
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


def _histogram(learned: Learned, groups: dict[str, Booleans], title: str, name: str, series: int) -> Picture:
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
        return Picture(title, render(figure, name, f"Edge probabilities, {title[0].lower()}{title[1:]}"))


def _table(learned: Learned, known: Known, within: Booleans, initial: Booleans) -> Table:
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
