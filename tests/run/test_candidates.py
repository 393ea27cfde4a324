"""Candidate pairs, names and notes of a run by the command line."""

import csv
import json

import numpy as np
import pytest
import torch

from lds.cli import main
from lds.errors import InputError
from lds.graph import AllPairs, CandidatePairs, KNNGraph
from lds.graph import _all_pairs as all_pairs
from lds.run import TrainConfig, read_structure, resume
from lds.run._config import parse_candidates
from lds.run._learner import candidate_pairs
from tests.data.own.problems import DATA
from tests.data.own.test_csv import edges, table

SHORT = ["--max-epochs", "1", "--samples", "2", "--tau", "100", "--k", "3", "--progress", "false"]


def train(*argv):
    try:
        return main(["train", *(str(arg) for arg in argv), *SHORT])
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def files(tmp_path):
    ids = [f"person {i}" for i in range(48)]
    nodes = table(tmp_path / "a.csv", ids=ids)
    return nodes, edges(tmp_path / "e.csv", ids), tmp_path / "run"


def test_kinds():
    assert parse_candidates("knn:20, random:5,given") == [("knn", 20), ("random", 5), ("given", 0)]


@pytest.mark.parametrize(
    "text", ["knn", "knn:0", "knn:-1", "given:3", "random:x", "knn:1,knn:2", "all", ",", "knn:1.5"]
)
def test_no_kinds(text):
    with pytest.raises(InputError, match="candidates must"):
        TrainConfig("wine", candidates=text)


def test_pairs():
    config = TrainConfig("wine", candidates="knn:2,random:3,given", seed=4)
    pairs = set(map(tuple, candidate_pairs(config, DATA).T.tolist()))
    assert set(map(tuple, KNNGraph(2)(DATA).T.tolist())) <= pairs
    assert set(map(tuple, DATA.edge_index.T.tolist())) <= pairs
    assert candidate_pairs(TrainConfig("wine"), DATA) is None


@pytest.mark.parametrize("method", ["lds", "knn-lds"])
def test_a_run_on_candidates(files, method, capsys):
    nodes, links, out = files
    assert (
        train(
            "--data", nodes, "--edges", links, "--method", method, "--candidates", "knn:4,random:2,given", "--out", out
        )
        == 0
    )
    captured = capsys.readouterr()
    assert captured.err.startswith(f"lds: {nodes}: 48 nodes, ")
    assert captured.err.splitlines()[0].endswith("nodes are named by the column id")
    structure = read_structure(out)
    assert isinstance(structure, CandidatePairs)
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    assert saved["theta"].numel() == saved["pairs"].shape[1] < 48 * 47 // 2
    assert torch.equal(structure.state(), saved["theta"])
    assert main(["export", str(out), "--format", "csv", "--top-k", "2"]) == 0
    assert "person 0" in (out / "learned_graph.csv").read_text()
    assert resume(out)["outer_epochs"] == 1


def test_names_everywhere(files):
    nodes, links, out = files
    assert train("--data", nodes, "--edges", links, "--out", out) == 0
    assert json.loads((out / "class_names.json").read_text()) == ["setosa", "versicolor", "virginica"]
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["node"] for row in rows[:2]] == ["person 0", "person 1"]
    assert {row["split"] for row in rows} <= {"train", "val", "es", "test", ""}
    names = ["setosa", "versicolor", "virginica"]
    assert [row["label"] for row in rows] == [names[y] for y in DATA.y.tolist()]
    logits = torch.load(out / "checkpoint.pt", weights_only=True)["logits"]
    assert [row["predicted"] for row in rows] == [names[c] for c in logits.argmax(1).tolist()]
    shares = [[float(row[f"probability of {name}"]) for name in names] for row in rows]
    np.testing.assert_allclose(shares, logits.softmax(1), atol=1e-5)
    test = [row["label"] == row["predicted"] for row in rows if row["split"] == "test"]
    assert np.mean(test) == pytest.approx(json.loads((out / "result.json").read_text())["test_accuracy"])
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    assert main(["report", str(out), "--node", "person 7"]) == 0
    page = (out / "report.html").read_text()
    assert "Node person 7 (class" in page
    assert "versicolor" in page


def test_options_without_effect_are_said(files, capsys):
    nodes, links, out = files
    argv = ["--data", nodes, "--edges", links, "--retain", "0.5", "--method", "knn-lds", "--out", out]
    assert train(*argv) == 0
    found = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert found == [f"lds: warning: {name} has no effect with method knn-lds" for name in ("edges", "retain")]
    config = TrainConfig("cora", method="knn-lds", retain=0.5, candidates="given,knn:3", k=4)
    assert config.without_effect(has_edges=True) == []
    config = TrainConfig("cora", method="gcn", k=3, max_epochs=2, outer_lr=0.1, candidates="knn:3")
    assert config.without_effect(has_edges=True) == ["k", "candidates", "outer_lr", "max_epochs"]


def test_an_exported_graph_is_gone_on_from(files, tmp_path):
    nodes, links, out = files
    assert train("--data", nodes, "--edges", links, "--out", out) == 0
    assert main(["export", str(out), "--format", "csv", "--threshold", "0.01"]) == 0
    argv = ["--data", nodes, "--edges", out / "learned_graph.csv", "--weights", "initial", "--method", "frozen"]
    assert train(*argv, "--out", tmp_path / "next") == 0
    first, again = read_structure(out), read_structure(tmp_path / "next")
    pairs, probability = first.edges(0.01)
    found, other = again.edges()
    assert torch.equal(pairs, found)
    torch.testing.assert_close(probability, other)


def test_a_graph_too_large_for_the_memory(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(all_pairs, "ROOM", 8 * 10**9)
    with pytest.raises(InputError, match=r"on all pairs of 200000 nodes must fit .* need 79\.99 GB .*CandidatePairs"):
        AllPairs(200_000, torch.tensor([[0], [1]]))
    monkeypatch.setattr(all_pairs, "ROOM", 100)
    assert train("--dataset", "wine", "--method", "knn-lds", "--out", tmp_path / "run") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lds: error: 15753 edge probabilities of 4 bytes, on all pairs of 178 nodes")
    assert captured.err.count("\n") == 1
    assert "--candidates knn:20,random:5,given" in captured.err


@pytest.mark.parametrize("pairs", [torch.zeros(2, 0, dtype=torch.int64), torch.tensor([[0], [48]]), torch.ones(2, 3)])
def test_damaged_pairs(files, pairs):
    nodes, links, out = files
    assert train("--data", nodes, "--edges", links, "--candidates", "given", "--out", out) == 0
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    torch.save(saved | {"pairs": pairs}, out / "checkpoint.pt")
    with pytest.raises(InputError, match="must be what a run saved"):
        read_structure(out)
