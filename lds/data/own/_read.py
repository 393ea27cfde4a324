"""From a user's file to data that a learner takes."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lds._keywords import explained
from lds.data.edges import Weights
from lds.data.features import Features, Scale
from lds.data.own._benchmarks import GEOM_GCN, read_content, read_geom_gcn
from lds.data.own._cells import Impute
from lds.data.own._csv import read_parquet, read_text
from lds.data.own._edges import read_edges
from lds.data.own._mat import read_mat
from lds.data.own._networkx import nodes_of, read_networkx
from lds.data.own._npz import read_npz
from lds.data.own._pt import read_pt
from lds.data.own._table import Columns, check_has_features
from lds.data.own._text import check_sep
from lds.data.prepare import describe, prepare
from lds.data.splits import check_seed
from lds.errors import DataError, InputError

if TYPE_CHECKING:
    from torch_geometric.data import Data

_log = logging.getLogger("lds.data")

_ARRAYS = (".pt", ".npz", ".mat")
_TEXTS = (".csv", ".tsv", ".txt", ".data")
_TABLES = (*_TEXTS, ".parquet")
_GRAPHS = (".gml", ".graphml")
_CITATIONS = (".content",)
_SUFFIXES = (*_ARRAYS, *_TABLES, *_GRAPHS, *_CITATIONS)
# The options that only some formats have.
_OWNERS = {
    "label": (*_TABLES, *_GRAPHS),
    "id": _TABLES,
    "edges": _TABLES,
    "sep": _TEXTS,
    "drop": (*_TABLES, *_GRAPHS),
    "one_hot": (*_TABLES, *_GRAPHS),
    "impute": (*_TABLES, *_GRAPHS),
}


@explained
def read(
    path: str | os.PathLike[str],
    *,
    label: str | None = None,
    id: str | None = None,
    edges: str | os.PathLike[str] | None = None,
    sep: str | None = None,
    drop: str | Sequence[str] | None = None,
    one_hot: str | Sequence[str] | None = None,
    impute: Impute = "none",
    unlabelled: str | None = None,
    features: Features = "given",
    scale: Scale = "none",
    weights: Weights = "refuse",
    split: int | None = None,
    train_size: int | None = None,
    val_size: int | None = None,
    es_size: int | None = None,
    retain: float = 1.0,
    seed: int = 0,
) -> Data:
    """Read a user's own data set, with the masks that it lacks made; the result is as that of `lds.data.load`.

    The reader of a format only takes the parts out of the file; what they may be, and become, is said in
    `lds.data.prepare`, whatever the format. No code in a file is ever run.

    * .csv, .tsv, .txt, .parquet: a line of column names, then one line per node: the label, features that are numbers,
      False or True, and masks under their names, if there are any. Names of nodes become `data.node_names`.
    * .npz, .mat: x [N, F], or x_data, x_indices, x_indptr and x_shape, the parts of a scipy CSR matrix; y; edge_index
      [2, E], or an adjacency adj; and the other parts by their names. Also under the names of gnn-benchmark (attr_*,
      adj_*, labels), nettack, the heterophilous graphs (node_features, edges, train_masks), OGB (node_feat, train_idx),
      and LINKX (A, local_info).
    * .pt: `torch.save` of a `Data`, or of a dict, with these parts.
    * .gml, .graphml: a graph of networkx, attributes of nodes as the columns of a table.
    * .content: papers of LINQS, with .cites beside it; out1_node_feature_label.txt of geom-gcn, or its folder, with
      edges and splits beside it.

    The logger "lds.data" gets a line, level INFO, that says what was read and how nodes are matched.

    Args:
        path: the file.
        label: tables and graphs: column of the labels, "label" when None.
        id: tables: column of the nodes' names, for `edges`; "id" where there is such a column when None. Without one,
            or with "", the nodes are numbered from 0, in the order of their lines.
        edges: tables: file of edges, two nodes a line, or an adjacency (.mtx, or .npz of scipy), or a graph of networkx
            (.gml, .graphml, .edgelist); no edges when None. A third column is a weight.
        sep: texts: what separates cells, one character, or "tab" or "space"; found out when None.
        drop: tables and graphs: columns to leave out; in one text, separated by commas.
        one_hot: tables and graphs: columns of categories, in one text separated by commas, or "all" for those that hold
            a text. Each becomes a column a category, 1 where a row has it; a gap is in none.
        impute: tables and graphs: "mean" puts the mean of a column into its gaps, empty cells, NaN, NA and "?".
        unlabelled: see `lds.data.prepare`, as for `features`, `scale`, `weights` and `split`.
        features: which features.
        scale: how to scale them.
        weights: what to do with weights of edges.
        split: which of several splits.
        train_size: see `lds.data.complete_masks`, as for `val_size` and `es_size`.
        val_size: nodes for the outer objective.
        es_size: nodes to stop early on.
        retain: share of the edges to keep, in [0, 1].
        seed: seed of the split and of the edges kept.

    Raises:
        DataError: a file is missing, malformed or inconsistent; the message names it.
        InputError: an argument is out of range, or belongs to another format.

    Example:
        >>> import tempfile
        >>> import pandas
        >>> from lds.data import read
        >>> path = f"{tempfile.mkdtemp()}/my.csv"
        >>> pandas.DataFrame({"kind": list("ab") * 20, "size": range(40)}).to_csv(path, index_label="id")
        >>> read(path, label="kind", seed=0).class_names
        ['a', 'b']
    """
    path = Path(path)
    if path.is_dir() and (path / GEOM_GCN).exists():
        path = path / GEOM_GCN
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(
            f"data must be a {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]} file, got {path}; convert or rename it"
        )
    geom_gcn = path.name == GEOM_GCN
    if impute not in ("none", "mean"):
        raise InputError(f'impute must be "none" or "mean", got {impute!r}')
    given = {"label": label, "id": id, "edges": edges, "sep": sep, "drop": drop, "one_hot": one_hot}
    given |= {"impute": None if impute == "none" else impute}
    for name, value in given.items():
        if value is not None and (suffix not in _OWNERS[name] or geom_gcn):
            owner = ", ".join(_OWNERS[name])
            raise InputError(f"{name} belongs to a {owner} file, but {path} came with {name}={str(value)!r}; drop it")
    seed, sep = check_seed(seed), check_sep(sep)
    wanted = Columns("label" if label is None else label, id, _columns(drop), _columns(one_hot), impute)
    try:
        if geom_gcn:
            parts, matched, split = read_geom_gcn(path, split), "named by the column node_id", None
        elif suffix in _TABLES:
            parts, matched = _table(path, suffix, wanted, sep, None if edges is None else Path(edges))
        elif suffix in _GRAPHS:
            nodes, found = nodes_of(read_networkx(path), path, wanted)
            parts, matched = nodes.parts | found, "named by the file"
        elif suffix in _CITATIONS:
            parts, matched = read_content(path), "named by the first column"
        else:
            parts = {".pt": read_pt, ".npz": read_npz, ".mat": read_mat}[suffix](path)
            matched = "numbered from 0 by their rows"
        others = parts.pop("others", [])
        if suffix not in _ARRAYS:
            check_has_features(path, parts, features)
        data = prepare(
            parts,
            scale=scale,
            features=features,
            unlabelled=unlabelled,
            weights=weights,
            split=split,
            train_size=train_size,
            val_size=val_size,
            es_size=es_size,
            retain=retain,
            seed=seed,
        )
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; check the path and its rights") from error
    except InputError as error:
        if str(path) in str(error) or (edges is not None and str(edges) in str(error)):
            raise
        raise type(error)(f"{path}: {error}") from error
    left_out = f"; not used: {', '.join(others)}" if others else ""
    _log.info("%s: %s; nodes are %s%s", path, describe(data, split=split, source=parts), matched, left_out)
    return data


def _columns(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return names of columns, in one text separated by commas."""
    return tuple(part.strip() for part in names.split(",")) if isinstance(names, str) else tuple(names or ())


def _table(path: Path, suffix: str, wanted: Columns, sep: str | None, edges: Path | None) -> tuple[dict[str, Any], str]:
    nodes = read_parquet(path, wanted) if suffix == ".parquet" else read_text(path, wanted, sep)
    parts = nodes.parts if edges is None else nodes.parts | read_edges(edges, nodes, sep, path)
    return parts, nodes.matched
