"""The learned neighbourhood of one node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lds.errors import InputError
from lds.report._learned_graph import Floats, Integers, Known, is_in
from lds.report._numbers import NONE
from lds.report._page import Block, Picture, Pictures, Table, Text
from lds.report._svg import INK, MARKERS, PAPER, SERIES, canvas, picture, short
from lds.run._reader import SavedGraph

_STRONGEST = 20
_COLOURS = 7


@dataclass(frozen=True)
class _Edge:
    node: int
    probability: float
    initial: bool | None


@dataclass(frozen=True)
class Names:
    """What nodes and classes are called; by their numbers where the data named none."""

    nodes: Sequence[str] | None = None
    classes: Sequence[str] | None = None

    def node(self, number: int) -> str:
        """Return what to call a node."""
        return str(number) if self.nodes is None else self.nodes[number]

    def label(self, number: int) -> str:
        """Return what to call a class; "none" where a node has none."""
        if number < 0:
            return "none"
        return str(number) if self.classes is None or number >= len(self.classes) else self.classes[number]

    def find(self, node: int | str, count: int) -> int:
        """Return the number of a node that is given by name or number.

        Raises:
            InputError: there is no such node.
        """
        if self.nodes is not None and str(node) in self.nodes:
            return list(self.nodes).index(str(node))
        if not str(node).isdecimal() or not int(node) < count:
            named = "" if self.nodes is None else f", or be one of {self.nodes[0]:.40} … {self.nodes[-1]:.40}"
            raise InputError(f"node must lie in 0..{count - 1}{named}, got {node}")
        return int(node)


def neighbourhood(
    learned: SavedGraph, known: Known | None, node: int | str | None, name: str, names: Names | None = None
) -> tuple[int, list[Block]]:
    """Return the number of a node, and drawing and table of its strongest learned edges.

    Raises:
        InputError: there is no such node.
    """
    names = Names() if names is None else names
    if node is not None:
        node, why = names.find(node, learned.num_nodes), "the node that was asked for"
    else:
        node, why = _choose(learned, known)
    edges = _edges(learned, known, node)
    shown = edges[:_STRONGEST]
    about = (
        "" if known is None else f" (class {names.label(int(known.labels[node]))}, {known.split[node] or 'no'} split)"
    )
    text = [f"Node {names.node(node)}{about}: {why}."]
    if not edges:
        return node, [Text(f"{text[0]} It has no edge of probability above 0.01.")]
    text.append(
        f"{len(shown)} of its {len(edges)} edges of probability above 0.01 are shown, the strongest."
        if len(shown) < len(edges)
        else f"All of its {len(edges)} edges of probability above 0.01 are shown."
    )
    if known is not None:
        before = int((known.initial == node).sum())
        lost = before - sum(edge.initial is True for edge in edges)
        text.append(
            f"It started with {before} edges, of which {lost} fell to 0.01 or below."
            if before
            else "It started with no edge."
        )
    drawing = _draw(
        node,
        shown,
        known,
        name,
        names,
        "A line is the wider, the more probable the edge"
        + (
            "; lines are full where the edge was there at the start, and dashed where it is new. Colour and shape "
            "tell the class."
            if known is not None
            else "."
        ),
    )
    return node, [Text(" ".join(text)), Pictures([drawing]), _table(node, shown, known, names)]


def _choose(learned: SavedGraph, known: Known | None) -> tuple[int, str]:
    """Return the test node whose edges changed most, and the reason in words."""
    degree = _sums(learned.pairs, learned.probability, learned.num_nodes)
    if known is None:
        return int(degree.argmax()), "chosen because it has the most expected edges"
    initial = is_in(learned.pairs, known.initial, learned.num_nodes)
    moved = _sums(learned.pairs, np.abs(learned.probability - initial), learned.num_nodes)
    saved = is_in(known.initial, learned.pairs, learned.num_nodes)
    moved += _sums(known.initial, (~saved).astype(np.float64), learned.num_nodes)
    test = np.array([split == "test" for split in known.split])
    if not test.any():
        test = np.ones(learned.num_nodes, dtype=bool)
    if moved[test].max() == 0:
        node = int(np.where(test, degree, -1).argmax())
        return node, "no edge of a test node has changed, so the test node with the most edges was chosen"
    node = int(np.where(test, moved, -1).argmax())
    return node, f"the test node whose edges changed most, by {moved[node]:.1f} in the sum of |θ − initial|"


def _sums(pairs: Integers, values: Floats, num_nodes: int) -> Floats:
    ends = np.concatenate([pairs[0], pairs[1]])
    return np.asarray(np.bincount(ends, np.concatenate([values, values]), num_nodes), dtype=np.float64)


def _edges(learned: SavedGraph, known: Known | None, node: int) -> list[_Edge]:
    mine = (learned.pairs == node).any(0)
    pairs, probability = learned.pairs[:, mine], learned.probability[mine]
    others = np.where(pairs[0] == node, pairs[1], pairs[0])
    initial = None if known is None else is_in(pairs, known.initial, learned.num_nodes)
    order = np.lexsort((others, -probability))
    return [_Edge(int(others[i]), float(probability[i]), None if initial is None else bool(initial[i])) for i in order]


def _draw(node: int, edges: list[_Edge], known: Known | None, name: str, names: Names, note: str) -> Picture:
    def look(other: int) -> tuple[str, str]:
        label = 0 if known is None else int(known.labels[other])
        return SERIES[label % _COLOURS], MARKERS[label % len(MARKERS)]

    # Nodes of one class side by side.
    ring = sorted(edges, key=lambda edge: (0 if known is None else int(known.labels[edge.node]), -edge.probability))
    points = [(0.0, 0.0, _about(node, known, names))]
    with canvas("", "", (4.6, 4.6)) as (figure, axes):
        axes.set_axis_off()
        axes.set_aspect("equal")
        axes.set(xlim=(-1.35, 1.35), ylim=(-1.25, 1.25))
        for number, edge in enumerate(ring):
            angle = math.pi / 2 - 2 * math.pi * number / len(ring)
            x, y = math.cos(angle), math.sin(angle)
            style = "--" if edge.initial is False else "-"
            axes.plot([0, x], [0, y], style, color=INK, alpha=0.55, linewidth=0.8 + 4 * edge.probability, zorder=1)
            points.append((x, y, f"{_about(edge.node, known, names)}, probability {edge.probability:.3f}"))
            colour, marker = look(edge.node)
            axes.plot(x, y, marker, color=colour, ms=11, mec=PAPER, mew=1, zorder=2)
            axes.text(1.17 * x, 1.13 * y, short(names.node(edge.node)), ha="center", va="center", fontsize=8)
        colour, marker = look(node)
        axes.plot(0, 0, marker, color=colour, ms=17, mec=INK, mew=1.5, zorder=3)
        if known is not None:
            for label in sorted({int(known.labels[n]) for n in (node, *(edge.node for edge in edges))}):
                axes.plot(
                    [],
                    [],
                    MARKERS[label % len(MARKERS)],
                    color=SERIES[label % _COLOURS],
                    ms=7,
                    mec=PAPER,
                    label=short(f"class {names.label(label)}", 30),
                )
            figure.legend(loc="outside lower center", ncols=4)
        called = names.node(node)
        alt = f"Node {called} and its {len(edges)} strongest learned edges"
        return picture(figure, name, f"Neighbourhood of node {called}", alt, note, points=points)


def _about(node: int, known: Known | None, names: Names) -> str:
    return f"node {names.node(node)}" + ("" if known is None else f", class {names.label(int(known.labels[node]))}")


def _table(node: int, edges: list[_Edge], known: Known | None, names: Names) -> Table:
    rows = []
    for edge in edges:
        label, split = (
            (NONE, NONE)
            if known is None
            else (names.label(int(known.labels[edge.node])), known.split[edge.node] or NONE)
        )
        origin = NONE if edge.initial is None else "initial" if edge.initial else "new"
        rows.append([names.node(edge.node), f"{edge.probability:.3f}", origin, label, split])
    return Table(
        f"Strongest edges of node {names.node(node)}",
        ["neighbour", "probability", "edge", "class", "split"],
        rows,
        folded=True,
    )
