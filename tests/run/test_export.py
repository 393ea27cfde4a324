"""The learned graph of a run folder, in other formats."""

import csv
import shutil
from types import SimpleNamespace

import networkx
import numpy as np
import pytest
import torch
import yaml

from lds.cli import main
from lds.errors import DataError
from lds.learner import StructureLearner
from lds.run import TrainConfig, load_data, read_structure, train
from lds.run._learner import initial_pairs, make_learner

CONFIG = TrainConfig("iris", "knn-lds", k=3, tau=20, max_epochs=1, samples=2, hidden=4)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for method in ("knn-lds", "knn-gcn", "ffnn"):
        config = TrainConfig("iris", method, k=3, tau=20, max_epochs=1, samples=2, hidden=4)
        train(config, root / method, progress=False)
    data = load_data(CONFIG)
    learner = make_learner(CONFIG, data)
    assert isinstance(learner, StructureLearner)
    return SimpleNamespace(root=root, fit=learner.fit(data, seed=0))


def run(*argv):
    try:
        return main([str(arg) for arg in argv])
    except SystemExit as stop:
        return stop.code


def entries(graph):
    pairs = graph.edge_index.T.tolist()
    return {tuple(pair): float(weight) for pair, weight in zip(pairs, graph.edge_weight, strict=True)}


CRITERIA = [
    ([], {}),
    (["--threshold", 0.001], {"threshold": 0.001}),
    (["--top-k", 2], {"top_k": 2}),
    (["--sample"], {"sample": 0}),
    (["--sample", "--seed", 3], {"sample": 3}),
]


@pytest.mark.parametrize(("options", "criterion"), CRITERIA)
def test_equals_that_of_the_fit(runs, tmp_path, options, criterion, capsys):
    """All of θ counts, also what graph.npz leaves out."""
    expected = runs.fit.graph(**criterion)
    assert run("export", runs.root / "knn-lds", "--out", tmp_path / "g", *options) == 0
    found = torch.load(tmp_path / "g", weights_only=False)
    assert found.num_nodes == 150
    assert entries(found) == entries(expected)
    initial = {(i, j) for i, j in initial_pairs(CONFIG, load_data(CONFIG)).T.tolist()}
    edges = {(i, j) for i, j in entries(expected) if i < j}
    assert capsys.readouterr().out == (
        f"{len(edges):,} edges of 150 nodes: {len(edges & initial):,} of the initial {len(initial):,}, "
        f"{len(edges - initial):,} new; file {tmp_path / 'g'}\n"
    )


def test_without_its_data(runs, tmp_path, monkeypatch, capsys):
    """The graph comes all the same."""

    def missing(config):
        raise DataError("the file is gone")

    monkeypatch.setattr("lds.run.load_data", missing)
    assert run("export", runs.root / "knn-lds", "--out", tmp_path / "g") == 0
    assert "edges of 150 nodes (which are new is not known: the file is gone); file" in capsys.readouterr().out


def read_npz(path):
    with np.load(path, allow_pickle=False) as found:
        assert found["num_nodes"] == 150
        return dict(zip(map(tuple, found["edge_index"].T.tolist()), found["edge_weight"].tolist(), strict=True))


def read_graphml(path):
    graph = networkx.read_graphml(path, node_type=int)
    assert sorted(graph) == list(range(150))
    assert not graph.is_directed()
    return {edge: weight for i, j, weight in graph.edges(data="weight") for edge in ((i, j), (j, i))}


def read_csv(path):
    with path.open(newline="") as file:
        rows = [(int(row["source"]), int(row["target"]), float(row["weight"])) for row in csv.DictReader(file)]
    assert all(i < j for i, j, _ in rows)
    return {edge: weight for i, j, weight in rows for edge in ((i, j), (j, i))}


@pytest.mark.parametrize(("name", "read"), [("npz", read_npz), ("graphml", read_graphml), ("csv", read_csv)])
def test_formats(runs, tmp_path, name, read):
    folder = shutil.copytree(runs.root / "knn-lds", tmp_path / "run")
    assert run("export", folder, "--format", name, "--threshold", 0.3) == 0
    expected = entries(runs.fit.graph(0.3))
    found = read(folder / f"learned_graph.{name}")
    assert found.keys() == expected.keys()
    assert all(np.float32(found[edge]) == np.float32(expected[edge]) for edge in found)


def test_a_fixed_graph(runs, tmp_path):
    assert run("export", runs.root / "knn-gcn", "--out", tmp_path / "g") == 0
    graph = torch.load(tmp_path / "g", weights_only=False)
    assert graph.edge_weight.unique().tolist() == [1.0]
    assert graph.num_edges == int(2 * read_structure(runs.root / "knn-gcn").expected_edges) > 0


def test_replaces_a_file_only_by_force(runs, tmp_path, capsys):
    out = tmp_path / "g.csv"
    out.write_text("mine")
    argv = ["export", runs.root / "knn-lds", "--format", "csv", "--out", out]
    assert run(*argv) == 2
    assert "must not be there yet, but is; choose another file, or force to replace it" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert run(*argv, "--force") == 0
    assert out.read_text().startswith("source,target,weight\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold", 0.5, "--top-k", 3], "needs one of threshold, top_k and sample"),
        (["--top-k", 3, "--sample"], "needs one of threshold, top_k and sample"),
        (["--seed", 3], "--seed belongs to --sample"),
        (["--top-k", 0], "top_k must be an integer >= 1, got 0"),
        (["--threshold", 1], "threshold must lie in [0, 1)"),
        (["--format", "gml"], "format"),
        (["--out", "no/such/folder/g.pt"], "cannot be written: No such file or directory"),
    ],
)
def test_options(runs, options, message, capsys):
    assert run("export", runs.root / "knn-lds", *options) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (runs.root / "knn-lds" / "learned_graph.pt").exists()


def test_runs_without_a_graph(runs, tmp_path, capsys):
    assert run("export", runs.root / "ffnn") == 2
    assert "must be a run with a graph, but ffnn has none" in capsys.readouterr().err
    assert run("export", tmp_path) == 2
    assert "must be the folder of a run" in capsys.readouterr().err


def test_a_run_that_has_not_ended(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG.as_dict()))
    assert run("export", tmp_path) == 2
    assert "must be a run that has ended, but has no result.json; lds train --resume" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["graph.npz", "checkpoint.pt"])
@pytest.mark.parametrize("content", [None, b"", b"hello", "cut"])
def test_damaged_files(runs, tmp_path, name, content, capsys):
    folder = shutil.copytree(runs.root / "knn-lds", tmp_path / "run")
    file = folder / name
    if content is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-200] if content == "cut" else content)
    assert run("export", folder) == 2
    assert "must be what a run saved, but" in capsys.readouterr().err


def test_theta_of_another_size(runs, tmp_path, capsys):
    folder = shutil.copytree(runs.root / "knn-lds", tmp_path / "run")
    torch.save({"theta": torch.ones(7)}, folder / "checkpoint.pt")
    assert run("export", folder) == 2
    assert "must be what a run saved, but" in capsys.readouterr().err


def test_a_fault_of_our_own_is_no_damage(runs, monkeypatch):
    monkeypatch.setattr("lds.graph.AllPairs.restore_", lambda self, state: self._flt.copy_(state))
    with pytest.raises(AttributeError, match="_flt"):
        read_structure(runs.root / "knn-lds")
