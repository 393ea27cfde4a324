"""`lds ablate` on a data set, through the command line."""

import csv
import json

import pytest
import torch
import yaml

from lds.ablate import fidelity
from lds.cli import main
from lds.data import load
from lds.graph import KNNGraph
from lds.hypergrad import sweep
from lds.learner import StructureLearner

SHORT = ["ablate", "--dataset", "wine", "--method", "knn-lds", "--max-epochs", "1", "--samples", "2", "--k", "3"]
SHORT += ["--hidden", "4", "--interval", "5", "--fidelity-steps", "8", "--progress", "false"]


def run(*argv):
    try:
        return main([str(arg) for arg in argv])
    except SystemExit as stop:
        return stop.code


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation") / "wine"
    assert run(*SHORT, "--horizons", 0, 7, "--seeds", 1, 2, "--out", folder) == 0
    return folder


def test_rows(folder):
    rows = table(folder / "ablation.csv")
    assert [(row["horizon"], row["seed"]) for row in rows] == [("0", "1"), ("0", "2"), ("7", "1"), ("7", "2")]
    assert all(0.3 < float(row["test_accuracy"]) <= 1 and float(row["seconds"]) > 0 for row in rows)
    assert yaml.safe_load((folder / "ablation.yaml").read_text())["interval"] == 5


def test_fidelity(folder):
    rows = table(folder / "fidelity.csv")
    assert [int(row["depth"]) for row in rows] == list(range(9))
    assert float(rows[-1]["relative_error"]) == 0
    assert float(rows[-1]["cosine"]) == pytest.approx(1)
    assert float(rows[0]["relative_error"]) > 0.01


def test_recommendation_and_report(folder):
    assert json.loads((folder / "recommendation.json").read_text())["horizon"] in (0, 7)
    page = (folder / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "recommend" in page.lower()


def test_goes_on_and_grows(folder, capsys):
    before = {row["seed"] + row["horizon"]: row for row in table(folder / "ablation.csv")}
    assert run(*SHORT, "--horizons", 0, 2, 7, "--seeds", 1, 2, "--out", folder) == 0
    after = {row["seed"] + row["horizon"]: row for row in table(folder / "ablation.csv")}
    assert {name: after[name] for name in before} == before
    assert len(after) == 6
    printed = capsys.readouterr().out
    assert "recommended horizon: " in printed
    assert printed.splitlines()[0].split()[:3] == ["horizon", "test", "accuracy,"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--horizons", 0, "--k", 4], "holds an ablation of another configuration; choose another --out"),
        (["--horizons", 1, 1], "horizons must be one or more different integers, got [1, 1]"),
        (["--horizons", -1], "horizons must be >= 0, got -1"),
        (["--horizons", 1, "--seeds", 2, 2], "seeds must be one or more different integers, got [2, 2]"),
        (["--horizons", 1, "--method", "knn-gcn"], "method must be lds or knn-lds to have a horizon, got 'knn-gcn'"),
        (["--horizons", 1, "--fidelity-steps", 0], "fidelity_steps must be at least 1, got 0"),
    ],
)
def test_bad_input(folder, options, message, capsys):
    assert run(*SHORT, *options, "--out", folder) == 2
    assert message in capsys.readouterr().err


def test_a_folder_of_something_else(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("...")
    assert run(*SHORT, "--horizons", 1, "--out", tmp_path) == 2
    assert "must be new, empty or the folder of an ablation" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_fidelity_is_that_of_the_sweep():
    data = load("wine", seed=0)
    learner = StructureLearner(graph=KNNGraph(3))
    curve = fidelity(learner, data, steps=5, seed=4)
    problem = learner.problem(data, steps=5, seed=4)
    steps = list(sweep(problem.record(horizon=None), problem.outer_objective))
    grads = [step.grad["structure"].to_dense().triu(1) for step in steps]
    for k, grad in enumerate(grads):
        expected = float((grad - grads[-1]).norm() / grads[-1].norm())
        assert curve.relative_error[k] == pytest.approx(expected, abs=1e-4)


def test_fidelity_at_a_learned_graph():
    data = load("wine", seed=0)
    learner = StructureLearner(graph=KNNGraph(3), max_epochs=1)
    theta = learner.fit(data).structure.state()
    first, second = (fidelity(learner, data, steps=3, theta=t) for t in (None, theta))
    assert first.relative_error != second.relative_error
    problem = learner.problem(data, steps=3, theta=theta)
    assert torch.equal(problem.outer["structure"].state(), theta)
