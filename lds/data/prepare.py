"""The one door: features, labels, edges, masks and names, as people give them, become data that a learner takes.

A part that is as it must be is passed on here. Any other goes to its converter, which returns it so or says what is
wrong: `features`, `labels`, `edges` and `masks`, a file each. Files (`lds.data.own`), a `Data` in memory and
scikit-learn estimators all come this way, so that one rule holds at every door.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lds._frames import frames_of_ours
from lds._keywords import explained
from lds.data.edges import Weights, as_edges, retain_edges, retain_weights
from lds.data.features import Features, Scale, as_features, check_features, check_finite, made_features, scaled
from lds.data.labels import encode
from lds.data.mapped import pieces
from lds.data.masks import INDICES, as_masks, masks_for, num_splits
from lds.data.splits import MASKS, check_seed
from lds.errors import DataError, InputError, MissingMaskWarning

if TYPE_CHECKING:
    from torch_geometric.data import Data

_FLOATS = (torch.float32, torch.float64)
_LAYOUTS = (torch.strided, torch.sparse_coo, torch.sparse_csr)
# What the result holds in another form, or under another name.
_REPLACED = ("adj_t", "adj", "edge_weight", *INDICES)
# numpy gives every text of an array the room of the longest.
_LONGEST_NAME = 1000
# What XML cannot hold, and what would break a line of a table.
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


@explained
def prepare(
    data: Data | Mapping[str, Any],
    *,
    scale: Scale = "none",
    features: Features = "given",
    unlabelled: str | None = None,
    weights: Weights = "refuse",
    split: int | None = None,
    train_size: int | None = None,
    val_size: int | None = None,
    es_size: int | None = None,
    retain: float = 1.0,
    seed: int = 0,
) -> Data:
    """Return data that every learner takes, from parts in any form that people have; what came stays as it was.

    N nodes, F features, E edges, C classes. The parts are attributes of a `Data`, or entries of a mapping:

    * x: numbers [N, F], dense or sparse, of any type; they become float32 without gradient, scaled before that.
    * y: labels [N], numbers or texts, -1 or missing where a node has none, or [N, C] with a single 1 a row; the whole
      rule is in the guide *Own data*. They become numbers 0 … C−1, and -1; `class_names` names them.
    * edge_index [2, E], or an adjacency adj_t or adj; edges lose direction, duplicates and self loops. edge_weight, or
      the entries of the adjacency, must be 1, but for `weights`.
    * train_mask, val_mask, es_mask, test_mask, true or false, 0 or 1, of shape [N], or with a column a split; or node
      numbers train_idx, val_idx (valid_idx), es_idx, test_idx. Those that are missing are made, see
      `lds.data.complete_masks`.
    * node_names and class_names, texts; num_classes.

    Args:
        data: one graph with nodes of one kind.
        scale: "standard" brings columns to mean 0 and deviation 1, "row" the absolute values of a row to sum 1, "unit"
            its squares.
        features: "identity" (a column a node), "degree" (a column for each number of neighbours) or "tfidf" (rare words
            weighted more) in place of the given ones.
        unlabelled: a text, or a number as text, that marks unlabelled nodes, beside -1 and what is missing.
        weights: "initial" keeps edge weights in [0, 1], for `GivenGraph(weights="initial")` to start from as
            probabilities; "drop" takes the edges alone, without those of weight 0.
        split: which of several splits to take, where masks have a column for each; the first when None.
        train_size: see `lds.data.complete_masks`, as for `val_size` and `es_size`.
        val_size: nodes for the outer objective.
        es_size: nodes to stop early on.
        retain: share of the edges to keep, in [0, 1].
        seed: seed of the split and of the edges kept.

    Raises:
        DataError: a part is missing, or not what it must be; the message names it.
        InputError: an argument is out of range.

    Example:
        >>> import torch
        >>> x, y = torch.randn(40, 3).half(), ["cat", "dog"] * 20
        >>> data = prepare({"x": x, "y": y, "edge_index": torch.tensor([[0, 1], [1, 2]])})
        >>> data.class_names, data.x.dtype, int(data.train_mask.sum())
        (['cat', 'dog'], torch.float32, 4)
    """
    seed = check_seed(seed)
    check_features(features)
    data = _one_graph(data)
    x = data.get("x")
    if x is not None or features in ("given", "tfidf"):
        x = as_features(x, others=torch.float32 if scale == "none" else torch.float64)
    nodes = _count_nodes(data, x)
    found = _labels(data, nodes, unlabelled)
    edge_index, weight = as_edges(data, nodes, weights)
    kept = retain_edges(edge_index, nodes, retain, seed)
    if retain != 1.0 and edge_index.numel() == 0:
        raise InputError(f"the data has no edges to delete, but retain={retain} came; leave it at 1.0")
    if weight is not None:
        weight = retain_weights(edge_index, weight, kept, nodes)
    if features != "given":
        x = made_features(features, x, kept, nodes)
    assert x is not None
    if scale != "none":
        x = scaled(x, scale)
    x = x.float()
    check_finite(x)
    sizes = {"train_size": train_size, "val_size": val_size, "es_size": es_size}
    masks = masks_for(data, found["y"], sizes, split, seed)
    found["class_names"] = found.get("class_names") or [str(number) for number in range(found["num_classes"])]
    found.pop("class_values", None)
    return _assembled(data, {"x": x, "edge_index": kept, "edge_weight": weight, **found, **masks})


def ready(data: Data, *, weights: Weights = "refuse", seed: int | None = None) -> Data:
    """Return data as `prepare` does, with x in the precision that it has and the masks that came.

    No mask is made, but with a seed that of the early-stopping nodes, out of a half of the validation nodes; a warning
    says so.

    Raises:
        DataError: as for `prepare`, or a mask is missing.
    """
    data = _one_graph(data)
    x = data.get("x")
    if not _is_ready_x(x):
        x = as_features(x)
    nodes = _count_nodes(data, x)
    found = _labels(data, nodes, None)
    edge_index, weight = data.get("edge_index"), None
    if not _are_ready_edges(data, nodes):
        edge_index, weight = as_edges(data, nodes, weights)
    masks = {name: data.get(name) for name in MASKS}
    if not all(_is_ready_mask(mask, nodes) for mask in masks.values()):
        masks = as_masks(data, nodes)
        if seed is not None and set(MASKS) - masks.keys() == {"es_mask"}:
            masks = masks_for(data, found["y"], {}, None, check_seed(seed))
            warnings.warn(
                f"data has no es_mask to stop early on, so {int(masks['es_mask'].sum())} nodes of its val_mask became "
                f"it, drawn by seed {seed}; set es_mask, or data.update(lds.data.complete_masks(data)), to choose",
                MissingMaskWarning,
                stacklevel=frames_of_ours(),
            )
        if missing := [name for name in MASKS if name not in masks]:
            raise DataError(
                f"data.{missing[0]} must select nodes, but it is missing; set {', '.join(MASKS)}, "
                "or have them made by data.update(lds.data.complete_masks(data))"
            )
    return _assembled(data, {"x": x, "edge_index": edge_index, "edge_weight": weight, **found, **masks})


def validate(data: Data) -> None:
    """Check that a learner can work with `data`.

    N nodes, F features, C classes. ``x``, ``y`` and edges as for `lds.data.prepare`; ``train_mask``, ``val_mask``,
    ``es_mask``, ``test_mask`` of shape [N], disjoint, not empty, and of labelled nodes. Weights of edges in [0, 1] are
    there to be started from.

    Args:
        data: what to check.

    Raises:
        DataError: any of this does not hold; the message names the first fault.

    Example:
        >>> from lds.data import load, validate
        >>> validate(load("wine"))  # raises a DataError where something is missing
    """
    ready(data, weights="initial")


def num_classes(data: Data) -> int:
    """Return the number of classes C: ``data.num_classes`` where it is set, else that of the names or labels.

    Raises:
        DataError: ``data.num_classes`` is no positive integer, or larger than the number of nodes.

    Example:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> from lds.data import num_classes
        >>> num_classes(Data(y=torch.tensor([0, 1, -1])))  # -1: not labelled
        2
    """
    count: int = _labels(data, None, None)["num_classes"]
    return count


def name_fault(name: str) -> str | None:
    """Return what keeps a text from being the name of a node; None where nothing does."""
    if not name:
        return "is empty"
    if len(name) > _LONGEST_NAME:
        return f"has {len(name)} characters, more than {_LONGEST_NAME}"
    return "holds a control character" if _CONTROL.search(name) else None


def describe(data: Data, *, split: int | None = None, source: Data | Mapping[str, Any] | None = None) -> str:
    """Return in a line what there is in data that `prepare` returned.

    Args:
        data: the data.
        split: the split that was asked for.
        source: what it was made of, to tell of how many splits it has.
    """
    names = [f"{name:.20}" for name in data.class_names]
    shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
    parts = [
        f"{data.num_nodes} nodes",
        f"{data.edge_index.shape[1] // 2} edges" + (" with weights" if data.get("edge_weight") is not None else ""),
        f"{data.x.shape[1]} features",
        f"{data.num_classes} classes ({shown})",
        f"{int((data.y < 0).sum())} unlabelled",
    ]
    if source is not None and (splits := num_splits(source, data.num_nodes)) > 1:
        parts.append(f"split {split or 0} of {splits}")
    return ", ".join(parts)


def _one_graph(data: Any) -> Data:
    """Return the parts as a `Data` of one graph with nodes of one kind.

    Raises:
        DataError: it is none.
    """
    from torch_geometric.data import Batch, Data, HeteroData

    if isinstance(data, HeteroData):
        raise DataError(
            "data must be one graph with nodes of one kind, a Data, but a HeteroData came; take data.to_homogeneous(), "
            "or the nodes and edges of one kind"
        )
    if isinstance(data, Mapping):
        try:
            data = Data(**data)
        except (TypeError, ValueError) as error:
            raise DataError(f"data must be parts by their names, such as x and y, but {error}; rename them") from error
    if not isinstance(data, Data):
        raise DataError(f"data must be a torch_geometric Data or a dict of parts, but {type(data).__name__} came")
    batch = data.get("batch")
    graphs = data.num_graphs if isinstance(data, Batch) else 1
    if isinstance(batch, Tensor) and batch.numel():
        graphs = max(graphs, int(batch.max()) + 1)
    if graphs > 1:
        raise DataError(
            f"data must be one graph, but a Batch of {graphs} came; learn each of batch.to_data_list(), or make one "
            "graph of them with Data(x=…, y=…, edge_index=…)"
        )
    return data


def _count_nodes(data: Data, x: Tensor | None) -> int:
    said = data.get("num_nodes")
    if x is not None:
        if said is not None and said != x.size(0):
            raise DataError(
                f"num_nodes must be the number of rows of x, {x.size(0)}, but {said!r:.80} came; drop or correct it"
            )
        return x.size(0)
    for name in ("y", "node_names", "adj", "adj_t"):
        if (part := data.get(name)) is not None and hasattr(part, "__len__"):
            return len(part)
    return int(said or 0)


def _labels(data: Data, nodes: int | None, unlabelled: str | None) -> dict[str, Any]:
    """Return y, num_classes and, where they are known, class_names, and class_values where integers were renumbered."""
    y, names = data.get("y"), data.get("class_names")
    count: Any = data.get("num_classes")
    if names is not None:
        names = _names(names, "class_names", None)
    if isinstance(count, Tensor) and count.numel() == 1 and not count.is_floating_point():
        count = int(count)
    whole = isinstance(count, int | np.integer) and count is not True and 1 <= int(count) < 1 << 31
    if count is not None and not whole:
        raise DataError(f"num_classes must be a positive integer, but {count!r:.80} came; label some nodes or set it")
    if count is not None and nodes is not None and int(count) > max(nodes, 2):
        raise DataError(
            f"num_classes must be at most the number of nodes, {nodes}, but {count} came; renumber the labels from 0"
        )
    known = len(names) if names is not None else None if count is None else int(count)
    if unlabelled is None and _is_ready_y(y, nodes, known) and count in (None, known):
        found = {"y": y, "num_classes": int(y.max()) + 1 if known is None else known}
        return found if names is None else found | {"class_names": names}
    labels = encode(
        y, unlabelled=unlabelled, names=names, num_classes=None if count is None else int(count), nodes=nodes
    )
    if int(labels.numbers.max()) < 0:
        raise DataError("labels must be of at least 2 classes, but every node is unlabelled, -1; label some nodes")
    found = {"y": labels.numbers, "num_classes": len(labels.names), "class_names": labels.names}
    return found if labels.values is None else found | {"class_values": labels.values}


def _is_ready_x(x: Any) -> bool:
    return (
        isinstance(x, Tensor)
        and x.layout in _LAYOUTS
        and x.dtype in _FLOATS
        and x.dim() == 2
        and x.numel() > 0
        and not (x.requires_grad or x.is_meta or x.is_nested)
        and (x.layout != torch.sparse_coo or x.is_coalesced())
        and all(bool(part.isfinite().all()) for part in pieces(x if x.layout == torch.strided else x.values()))
    )


def _is_ready_y(y: Any, nodes: int | None, classes: int | None) -> bool:
    if not isinstance(y, Tensor) or y.layout != torch.strided or y.dtype != torch.int64 or y.dim() != 1 or y.is_meta:
        return False
    if y.numel() != (y.numel() if nodes is None else nodes) or not y.numel():
        return False
    low, high = int(y.min()), int(y.max())
    if low < -1 or high < 0:
        return False
    if classes is not None:
        return high < classes
    return high < y.numel() and bool(torch.bincount(y + 1)[1:].all())


def _are_ready_edges(data: Data, nodes: int) -> bool:
    edges = data.get("edge_index")
    if not isinstance(edges, Tensor) or edges.dtype != torch.int64 or edges.layout != torch.strided or edges.is_meta:
        return False
    if edges.dim() != 2 or edges.size(0) != 2 or data.get("edge_weight") is not None:
        return False
    return not edges.numel() or bool(edges.min() >= 0 and edges.max() < nodes)


def _is_ready_mask(mask: Any, nodes: int) -> bool:
    return isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == (nodes,) and bool(mask.any())


def _assembled(data: Data, parts: dict[str, Any]) -> Data:
    """Return a copy of the data with these parts, once they go together."""
    nodes = parts["x"].size(0)
    classes = parts["y"][parts["y"] >= 0].unique().numel()
    if classes < 2:
        raise DataError(
            f"labels must be of at least 2 classes, but {classes} came (-1 marks unlabelled nodes); label nodes"
        )
    masks = {name: parts[name] for name in MASKS}
    for (one, first), (other, second) in combinations(masks.items(), 2):
        if shared := int((first & second).sum()):
            raise DataError(
                f"masks must be disjoint, but {one} and {other} share {shared} node{'s' * (shared > 1)}; "
                "keep each node in one of them"
            )
    for name, mask in masks.items():
        bad = (mask & (parts["y"] == -1)).nonzero().flatten()
        if bad.numel():
            raise DataError(
                f"{name} must select labelled nodes, but y = -1 came in {bad.numel()} row{'s' * (bad.numel() > 1)}, "
                f"the first at node {int(bad[0])}; take them out of the mask"
            )
    result = copy(data)
    for name in _REPLACED:
        if result.get(name) is not None:
            del result[name]
    if (names := data.get("node_names")) is not None:
        parts["node_names"] = _names(names, "node_names", nodes)
    result.update({name: part for name, part in parts.items() if part is not None} | {"num_nodes": nodes})
    return result


def _names(names: Any, what: str, count: int | None) -> list[str]:
    """Return names as texts, each its own and, where a count is given, that many.

    Raises:
        DataError: they are not.
    """
    if not isinstance(names, Sequence) and not hasattr(names, "__array__"):
        raise DataError(f"{what} must be a list of texts, but {type(names).__name__} came; give a list")
    texts = [str(name) for name in (names.tolist() if hasattr(names, "tolist") else names)]
    if count is not None and len(texts) != count:
        raise DataError(f"{what} must name {count} nodes, one a row of x, but {len(texts)} came; drop or correct them")
    if len(set(texts)) != len(texts):
        repeated = Counter(texts).most_common(1)[0][0]
        raise DataError(f"{what} must differ from one another, but {repeated!r:.80} came twice; rename it")
    if fault := next((f"{name!r:.80} {why}" for name in texts if (why := name_fault(name)) is not None), None):
        raise DataError(f"{what} must be texts, but {fault}; rename it")
    return texts
