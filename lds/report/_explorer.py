"""The strongest learned edges of every node, for a reader who chooses one; page.js draws them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from lds.report._learned_graph import Known, is_in
from lds.report._neighbourhood import Names
from lds.report._page import Explorer, Text
from lds.run._reader import SavedGraph

_STRONGEST = 20
# Characters that a page has for it: three megabytes are a quick page still.
_ROOM = 3_000_000
_PER_EDGE = 11


def explorer(learned: SavedGraph, known: Known | None, start: int, name: str, names: Names) -> Explorer | Text:
    """Return the strongest edges of every node, as many as a page has room for; or why there are none."""
    count = learned.num_nodes
    nodes = sum(map(len, names.nodes)) + 3 * count if names.nodes is not None else 0
    most = min(_STRONGEST, (_ROOM - nodes - 4 * count) // (_PER_EDGE * count))
    if most < 5:
        return Text(f"The page has no room for the neighbourhoods of all {count} nodes; name one with --node.")
    ends = np.concatenate([learned.pairs, learned.pairs[::-1]], axis=1)
    probability = np.concatenate([learned.probability, learned.probability])
    order = np.lexsort((ends[1], -probability, ends[0]))
    ends, probability = ends[:, order], probability[order]
    degree = np.bincount(ends[0], minlength=count)
    place = np.arange(ends.shape[1]) - np.repeat(np.cumsum(degree) - degree, degree)
    kept = place < most
    initial = None
    if known is not None:
        low, high = ends.min(0)[kept], ends.max(0)[kept]
        initial = is_in(np.stack([low, high]), known.initial, count).astype(int).tolist()
    splits = [] if known is None else sorted(set(known.split))
    data: dict[str, Any] = {
        "count": count,
        "degree": degree.tolist(),
        "most": most,
        "other": ends[1][kept].tolist(),
        # In thousandths.
        "probability": np.rint(1000 * probability[kept]).astype(int).tolist(),
        "initial": initial,
        "names": None if names.nodes is None else list(names.nodes),
        "label": None if known is None else known.labels.tolist(),
        "classes": None if known is None else [names.label(c) for c in range(int(known.labels.max(initial=-1)) + 1)],
        "splits": splits,
        "split": None if known is None else [splits.index(split) for split in known.split],
    }
    # Nothing in it may end the element that holds it.
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    return Explorer(name, start, text)
