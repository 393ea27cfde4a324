"""Names of nodes, from a table to the files of a run and to what is exported of it."""

import csv
import json
import shutil

import networkx
import numpy as np
import pytest
import torch

from lds.cli import main
from lds.data import read
from lds.errors import DataError
from lds.run import BaselineConfig, TrainConfig, read_node_names, read_structure, train
from tests.data.own.test_csv import table

IDS = ["Zoë, the <1st> & last", 'say "no"', "-7", "N" * 1000, *(f"node {i}" for i in range(44))]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Runs on a table: its nodes named, and not; of a graph network, and of a baseline."""
    root = tmp_path_factory.mktemp("runs")
    for name, ids in (("named", IDS), ("numbered", None)):
        path = str(table(root / f"{name}.csv", ids=ids))
        train(TrainConfig(None, "knn-gcn", k=3, data=path), root / name, progress=False)
    train(BaselineConfig(None, "logreg", data=str(root / "named.csv")), root / "logreg", progress=False)
    return root


def exported(folder, tmp_path, name, *options):
    out = tmp_path / f"graph.{name}"
    assert main(["export", str(folder), "--format", name, "--out", str(out), *options]) == 0
    return out


def expected(root):
    return {(i, j) for i, j in read_structure(root / "named").edges(0.5)[0].T.tolist()}


@pytest.mark.parametrize("run", ["named", "logreg"])
def test_a_run_keeps_them(root, run):
    assert read_node_names(root / run, 48) == read(root / "named.csv").node_names == IDS


def test_csv(root, tmp_path):
    with exported(root / "named", tmp_path, "csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(row["source"], row["target"]) for row in rows} == {(IDS[i], IDS[j]) for i, j in expected(root)}
    assert {float(row["weight"]) for row in rows} == {1.0}


def test_graphml(root, tmp_path):
    graph = networkx.read_graphml(exported(root / "named", tmp_path, "graphml"), node_type=int)
    assert [graph.nodes[node]["name"] for node in range(48)] == IDS
    assert {tuple(sorted(edge)) for edge in graph.edges} == expected(root)


def test_npz_and_pt(root, tmp_path):
    with np.load(exported(root / "named", tmp_path, "npz"), allow_pickle=False) as arrays:
        assert arrays["node_names"].tolist() == IDS
    assert torch.load(exported(root / "named", tmp_path, "pt"), weights_only=False).node_names == IDS


def test_without_names_nodes_have_numbers(root, tmp_path):
    folder = root / "numbered"
    assert read_node_names(folder, 48) is None
    assert not (folder / "node_names.json").exists()
    with exported(folder, tmp_path, "csv").open() as file:
        assert {(int(row["source"]), int(row["target"])) for row in csv.DictReader(file)} == expected(root)
    graph = networkx.read_graphml(exported(folder, tmp_path, "graphml"), node_type=int)
    assert all(attributes == {} for _, attributes in graph.nodes(data=True))
    with np.load(exported(folder, tmp_path, "npz")) as arrays:
        assert set(arrays) == {"edge_index", "edge_weight", "num_nodes"}
    assert "node_names" not in torch.load(exported(folder, tmp_path, "pt"), weights_only=False)


def test_a_sample_may_be_started_from(root, tmp_path):
    edges = exported(root / "named", tmp_path, "csv", "--sample")
    data = read(root / "named.csv", edges=edges)
    assert {(i, j) for i, j in data.edge_index.T.tolist() if i < j} == expected(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Expecting value"),
        ("{}", "it is no list of texts"),
        (json.dumps([*IDS[:-1], 7]), "it is no list of texts"),
        (json.dumps(IDS[:-1]), "it holds 47 different ones for 48 nodes"),
        (json.dumps([*IDS[:-1], IDS[0]]), "it holds 47 different ones for 48 nodes"),
        (json.dumps([*IDS, IDS[0]]), "it holds 48 different ones for 48 nodes"),
        (json.dumps([*IDS[:-1], ""]), "one is empty"),
        (json.dumps([*IDS[:-1], "x" * 1001]), "one has 1001 characters, more than 1000"),
        (json.dumps([*IDS[:-1], "\ud800"]), "one holds a control character"),
    ],
)
def test_damage(root, tmp_path, content, message, capsys):
    folder = shutil.copytree(root / "named", tmp_path / "run")
    (folder / "node_names.json").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_node_names(folder, 48)
    assert str(caught.value).endswith("; run again, or remove it to have numbers")
    assert main(["export", str(folder)]) == 2
    assert str(caught.value) in capsys.readouterr().err
    assert not (folder / "learned_graph.pt").exists()
