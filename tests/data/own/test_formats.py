"""Formats that public data sets come in, and files of edges."""

import logging

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch

from lds.data import MASKS, read
from lds.errors import DataError, InputError
from tests.data.own.problems import DATA, same
from tests.data.own.test_csv import table

networkx = pytest.importorskip("networkx")
X, Y, EDGES = DATA.x.numpy(), DATA.y.numpy(), DATA.edge_index.numpy()
ADJ = scipy.sparse.csr_array((np.ones(EDGES.shape[1]), (EDGES[0], EDGES[1])), shape=(48, 48))


def csr(name, matrix):
    matrix = scipy.sparse.csr_array(matrix)
    return {f"{name}_{part}": getattr(matrix, part) for part in ("data", "indices", "indptr", "shape")}


SPLITS = {f"{name}s": np.stack([DATA[name].roll(1).numpy(), DATA[name].numpy()]) for name in MASKS}
NPZ = {
    "gnn-benchmark": csr("adj", ADJ) | csr("attr", X) | {"labels": Y.astype(np.int8)},
    "heterophilous": {"node_features": X, "node_labels": Y, "edges": EDGES.T, **SPLITS},
    "ogb": {"node_feat": X, "node_label": Y[:, None], "edge_index": EDGES},
    "adjacency and one-hot": {"adj": ADJ.toarray(), "features": X, "labels": np.eye(3)[Y]},
}


@pytest.mark.parametrize("kind", NPZ)
def test_arrays_under_other_names(tmp_path, kind):
    np.savez(tmp_path / "a.npz", **NPZ[kind])
    data = read(tmp_path / "a.npz", split=1 if kind == "heterophilous" else None)
    data.x = data.x.to_dense() if data.x.layout != torch.strided else data.x
    assert same(data)
    if kind == "heterophilous":
        assert all(torch.equal(data[name], DATA[name]) for name in MASKS)


def test_other_arrays_are_told_of(tmp_path, caplog):
    np.savez(tmp_path / "a.npz", **NPZ["gnn-benchmark"], attr_names=np.array(["a"] * 8), more=np.array([{}]))
    with caplog.at_level(logging.INFO, "lds.data"):
        read(tmp_path / "a.npz")
    assert "not used: attr_names, more" in caplog.text


def test_nettack_has_no_features(tmp_path):
    np.savez(tmp_path / "a.npz", **csr("adj", ADJ * 2), labels=Y)
    with pytest.raises(DataError, match=r"data\.x must hold the features"):
        read(tmp_path / "a.npz", weights="drop")
    data = read(tmp_path / "a.npz", features="identity", weights="drop")
    assert torch.equal(data.edge_index, DATA.edge_index)


@pytest.mark.parametrize("spelling", ["linkx", "facebook100"])
def test_matlab(tmp_path, spelling):
    if spelling == "facebook100":
        facts = np.stack([Y, (Y + 1) % 3, Y, Y], 1)
        scipy.io.savemat(tmp_path / "a.mat", {"A": ADJ.tocsc(), "local_info": facts})
        data = read(tmp_path / "a.mat")
        assert data.y.tolist() == [(y + 1) % 3 - 1 for y in Y.tolist()]
        assert torch.equal(data.edge_index, DATA.edge_index)
        return
    scipy.io.savemat(tmp_path / "a.mat", {"node_feat": X, "label": Y[:, None], "edge_index": EDGES, "num_nodes": 48})
    assert same(read(tmp_path / "a.mat"))
    (tmp_path / "b.mat").write_bytes(b"no file of matlab" * 20)
    with pytest.raises(DataError, match=r"must be a \.mat file, but"):
        read(tmp_path / "b.mat")


@pytest.mark.parametrize("suffix", [".gml", ".graphml"])
def test_graphs(tmp_path, suffix):
    graph = networkx.Graph()
    for node in range(48):
        features = {f"f{i}": float(value) for i, value in enumerate(DATA.x[node])}
        graph.add_node(f"n{node}", kind="abc"[Y[node]], **features)
    graph.add_edges_from((f"n{a}", f"n{b}") for a, b in EDGES.T.tolist())
    {".gml": networkx.write_gml, ".graphml": networkx.write_graphml}[suffix](graph, tmp_path / f"a{suffix}")
    data = read(tmp_path / f"a{suffix}", label="kind")
    assert same(data)
    assert (data.node_names[:2], data.class_names) == (["n0", "n1"], ["a", "b", "c"])
    assert read(tmp_path / f"a{suffix}", label="kind", drop="f0,f1").x.shape == (48, 6)


def test_words_without_quotes_in_gml(tmp_path):
    nodes = "".join(f'node [ \n id {i}\n label "n{i}"\n value {"abc"[Y[i]]}\n ]\n' for i in range(48))
    edges = "".join(f"edge [ source {a} target {b} ]\n" for a, b in EDGES.T.tolist())
    (tmp_path / "a.gml").write_text(f"graph [\n multigraph 1\n{nodes}{edges}]\n")
    data = read(tmp_path / "a.gml", label="value", features="degree")
    assert torch.equal(data.edge_index, DATA.edge_index)
    with pytest.raises(DataError, match=r"must have columns of features, but has none; .* features=identity or degree"):
        read(tmp_path / "a.gml", label="value")


def test_linqs(tmp_path):
    words = (DATA.x > 0).int()
    names = [f"p{(7 * i) % 48}" for i in range(48)]
    rows = ["\t".join([name, *map(str, row), f"c{y}"]) for name, row, y in zip(names, words.tolist(), Y, strict=True)]
    (tmp_path / "a.content").write_text("\n".join(rows) + "\n")
    cites = [f"{names[a]}\t{names[b]}" for a, b in EDGES.T.tolist()]
    (tmp_path / "a.cites").write_text("\n".join([*cites, "p0\tunknown"]))
    data = read(tmp_path / "a.content")
    assert torch.equal(data.edge_index, DATA.edge_index)
    assert torch.equal(data.x.to_dense(), words.float())
    assert (data.class_names, data.node_names) == (["c0", "c1", "c2"], names)


@pytest.mark.parametrize("listed", [True, False])
def test_geom_gcn(tmp_path, listed):
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0)).tolist()
    words = (DATA.x > 0).int()
    cells = [",".join(map(str, row.nonzero().flatten().tolist() if listed else row.tolist())) for row in words]
    rows = [f"{node}\t{cells[node]}\t{Y[node]}" for node in order]
    head = "node_id\tfeature(feature_amount:8)\tlabel" if listed else "node_id\tfeature\tlabel"
    (tmp_path / "out1_node_feature_label.txt").write_text("\n".join([head, *rows]) + "\n")
    edges = [f"{a}\t{b}" for a, b in EDGES.T.tolist()]
    (tmp_path / "out1_graph_edges.txt").write_text("\n".join(["node_id\tnode_id", *edges]))
    np.savez(tmp_path / "a_split_0.6_0.2_3.npz", **{name: DATA[name].numpy().astype(np.uint8) for name in MASKS})
    data = read(tmp_path, split=3)
    assert torch.equal(data.y, DATA.y[order])
    assert torch.equal(data.train_mask, DATA.train_mask[order])
    pairs = {(order[a], order[b]) for a, b in data.edge_index.T.tolist()}
    assert pairs == set(map(tuple, EDGES.T.tolist()))
    with pytest.raises(InputError, match=r"split must be one of \[3\], .* got 4"):
        read(tmp_path, split=4)


PAIRS = [(a, b) for a, b in EDGES.T.tolist() if a < b]
EDGE_FILES = {
    "e.csv": "\n".join(f"{a},{b}" for a, b in PAIRS),
    "e.tsv": "from\tto\n" + "\n".join(f"{a}\t{b}" for a, b in PAIRS),
    "semicolons.csv": "\n".join(f"{a};{b};1" for a, b in PAIRS),
    "snap.txt": "# FromNodeId ToNodeId\n% more\n" + "\n".join(f"{a} {b}" for a, b in PAIRS),
    "a.edgelist": "\n".join(f"{a} {b} {{'weight': 1}}" for a, b in PAIRS),
    "b.edgelist": "\n".join(f"{a} {b}" for a, b in PAIRS),
}


@pytest.mark.parametrize("name", EDGE_FILES)
def test_edges_as_text(tmp_path, name):
    (tmp_path / name).write_text(EDGE_FILES[name] + "\n")
    assert same(read(table(tmp_path / "nodes.csv"), edges=tmp_path / name))


@pytest.mark.parametrize("name", ["a.mtx", "a.npz", "a.gml", "a.graphml"])
def test_edges_as_matrices_and_graphs(tmp_path, name):
    path = tmp_path / name
    if name == "a.mtx":
        scipy.io.mmwrite(path, ADJ)
    elif name == "a.npz":
        scipy.sparse.save_npz(path, ADJ.astype(float))
    else:
        graph = networkx.Graph(PAIRS)
        {"a.gml": networkx.write_gml, "a.graphml": networkx.write_graphml}[name](graph, path)
    assert same(read(table(tmp_path / "nodes.csv"), edges=path))
    path.write_bytes(b"hello" * 9)
    with pytest.raises(DataError, match=rf"{name} must"):
        read(table(tmp_path / "nodes.csv"), edges=path)


def test_separators(tmp_path):
    path = table(tmp_path / "a.csv")
    for sep, given in ((";", None), ("\t", None), ("|", "|"), ("\t", "tab")):
        path.write_text(table(tmp_path / "b.csv").read_text().replace(",", sep))
        assert torch.equal(read(path, sep=given).x, DATA.x)
    with pytest.raises(InputError, match='sep must be one character, or "tab" or "space"'):
        read(path, sep="ab")


class TestNamesOfNodes:
    def files(self, tmp_path, column="node_id", shift=1):
        """Rows in another order than their ids."""
        ids = [(7 * i + 3) % 48 * shift for i in range(48)]
        path = table(tmp_path / "a.csv", ids=ids)
        path.write_text(path.read_text().replace(",id", f",{column}", 1))
        (tmp_path / "e.csv").write_text("s,t\n" + "".join(f"{ids[a]},{ids[b]}\n" for a, b in PAIRS))
        return path, tmp_path / "e.csv", ids

    @pytest.mark.parametrize("shift", [1, 10])
    def test_a_column_that_the_edges_fit_must_be_named(self, tmp_path, shift):
        path, edges, ids = self.files(tmp_path, shift=shift)
        with pytest.raises(DataError, match=r"node_id holds distinct integers .* \(--id node_id\), or id=''"):
            read(path, edges=edges)
        data = read(path, edges=edges, id="node_id")
        assert same(data)
        assert data.node_names == [str(number) for number in ids]

    def test_the_lines_may_be_asked_for(self, tmp_path):
        path, edges, _ = self.files(tmp_path)
        assert read(path, edges=edges, id="").x.shape == (48, 9)

    def test_a_measurement_that_the_edges_do_not_fit_is_one(self, tmp_path):
        path, _, _ = self.files(tmp_path, shift=10)
        (tmp_path / "e.csv").write_text("s,t\n1,2\n3,4\n")
        assert read(path, edges=tmp_path / "e.csv").x.shape == (48, 9)

    def test_it_is_said_how_nodes_are_matched(self, tmp_path, caplog):
        path, edges, _ = self.files(tmp_path, column="key")
        with caplog.at_level(logging.INFO, "lds.data"):
            read(path, edges=edges, id="key")
            read(path, edges=edges, id="")
        first, second = caplog.messages
        assert "48 nodes" in first
        assert first.endswith("nodes are named by the column key")
        assert second.endswith("nodes are numbered from 0 by their lines")


def test_truth_values_are_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,label\n" + "".join(f"{i},{i % 2 == 0},{i % 2}\n" for i in range(20)))
    assert read(tmp_path / "a.csv").x[:2].tolist() == [[0, 1], [1, 0]]


def test_parquet(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcdefgh")).assign(label=pandas.Series(list("abc"))[Y].to_numpy())
    frame["label"] = frame["label"].astype("str")
    monkeypatch.setattr(pandas, "read_parquet", lambda path: frame)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    assert torch.equal(read(tmp_path / "a.parquet").x, DATA.x)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"must be a parquet file, and pandas have pyarrow to read it, but"):
        read(tmp_path / "a.parquet")
