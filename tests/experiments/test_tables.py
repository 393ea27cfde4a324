"""Tables from outcomes: what is chosen, what is compared, what is published."""

import csv
import importlib
import math
import sys

import pytest
from scipy import stats

from lds.sweep import Outcome
from tests.experiments.conftest import EXPERIMENTS


def outcome(method, seed, test, es, **fields):
    config = {"dataset": "wine", "method": method, **fields, "seed": seed}
    return Outcome(config, "done", {"test_accuracy": test, "es_accuracy": es, "es_loss": 0.5})


@pytest.fixture
def tables():
    return importlib.import_module("tables")


OUTCOMES = [
    *[outcome("knn-gcn", s, t, 0.8) for s, t in ((0, 0.90), (1, 0.92), (2, 0.88))],
    *[outcome("knn-lds", s, 1.0, 0.7, k=20) for s in range(3)],
    *[outcome("knn-lds", s, t, 0.9, tau=16) for s, t in ((0, 0.93), (1, 0.96), (2, 0.9))],
]
PUBLISHED = [
    {
        "dataset": "wine",
        "retain": 1.0,
        "method": m,
        "published_mean": v,
        "published_std": s,
        "source": "paper",
        "labels": "train",
    }
    for m, v, s in (("knn-lds", 97.3, 0.4), ("knn-lds", 96.0, math.nan), ("SUBLIME", 98.2, math.nan))
]


def test_rows(tables):
    gcn, lds, second, other = tables.make_rows(OUTCOMES, PUBLISHED, "knn-gcn")
    assert (lds["settings"], lds["chosen"], lds["seeds"]) == (2, "tau 16", 3)  # Not the best on the test nodes.
    assert lds["mean"] == pytest.approx(93.0)
    assert lds["std"] == pytest.approx(3.0)
    assert lds["half_width"] == pytest.approx(stats.t.ppf(0.975, 2) * 3 / math.sqrt(3))
    assert lds["difference"] == pytest.approx(3.0)
    assert lds["p_value"] == pytest.approx(stats.ttest_rel([93, 96, 90], [90, 92, 88]).pvalue)
    assert (lds["published_mean"], lds["source"]) == (97.3, "paper")
    assert "difference" not in gcn
    assert "published_mean" not in gcn
    assert (second["method"], second["published_mean"]) == ("knn-lds", 96.0)
    assert "mean" not in second
    assert other["method"] == "SUBLIME"
    assert "mean" not in other


def test_differences_are_over_common_seeds(tables):
    outcomes = [outcome("gcn", 1, 0.5, 0.5), outcome("gcn", 2, 0.7, 0.5), outcome("lds", 1, 0.6, 0.5)]
    _, lds = tables.make_rows(outcomes, [], "gcn")
    assert lds["difference"] == pytest.approx(10.0)
    assert math.isnan(lds["p_value"])


def test_shares_of_edges_are_apart_or_together(tables):
    outcomes = [outcome("lds", 0, 0.5, 0.5, retain=0.5), outcome("lds", 0, 0.7, 0.6)]
    published = [{**PUBLISHED[0], "method": "lds"}]
    half, whole = tables.make_rows(outcomes, published, "gcn", ("dataset", "retain", "method"))
    assert (half["retain"], half["mean"], whole["retain"], whole["mean"]) == (0.5, 50.0, 1.0, 70.0)
    assert "published_mean" not in half
    assert whole["published_mean"] == 97.3
    (row,) = tables.make_rows(outcomes, published, "gcn")
    assert (row["settings"], row["mean"]) == (2, 70.0)


def test_the_same_labels_are_another_method(tables):
    """A network trained on the validation nodes too is chosen, compared and named apart."""
    control = [outcome("knn-gcn", s, 0.95, 0.99, train_on="train+val") for s in range(3)]
    rows = tables.make_rows([*OUTCOMES, *control], [], "knn-gcn (train+val)")
    assert [(row["method"], row["labels"]) for row in rows] == [
        ("knn-gcn", "train"), ("knn-lds", "train, and val for θ"), ("knn-gcn (train+val)", "train+val"),
    ]  # fmt: skip
    plain, lds, same = rows
    assert (plain["mean"], same["mean"]) == (pytest.approx(90.0), pytest.approx(95.0))
    assert (same["chosen"], lds["difference"]) == ("", pytest.approx(-2.0))


def test_markdown(tables):
    rows = tables.make_rows(OUTCOMES, PUBLISHED, "knn-gcn")
    lines = tables.markdown(rows, "knn-gcn").splitlines()
    assert "less knn-gcn" in lines[0]
    assert "edges kept" not in lines[0]
    cells = (
        "| wine | knn-lds | train, and val for θ | 2 | tau 16 | 3 | 93.0 ± 3.0 | 85.5 to 100.5 | 3.0 ± 2.5 | 0.035 | "
        "97.3 ± 0.4 | paper |"
    )
    assert lines[3] == cells
    assert lines[5] == "| wine | SUBLIME | train |  |  |  |  |  |  |  | 98.2 | paper |"
    assert {line.count("|") for line in lines} == {13}


def test_published_figures_say_where_they_come_from(tables):
    for setting, method, dataset, value in (
        ("no-graph", "knn-lds", "wine", 97.3),
        ("graph-given", "gcn", "cora", 79.76),
    ):
        rows = tables.read_published(EXPERIMENTS / "published.csv", setting)
        assert all(row["source"] for row in rows)
        assert any((row["method"], row["dataset"], row["published_mean"]) == (method, dataset, value) for row in rows)


def test_from_sweep_to_table(tables, tmp_path, monkeypatch, capsys):
    (tmp_path / "small.yaml").write_text(
        "name: small\nruns: [{dataset: nope, method: svm}]\n"
        "quick: [{dataset: wine, method: [knn-gcn, ffnn], seed: [0, 1]}, {dataset: wine, method: svm, seed: [0, 1]}]\n"
    )
    (tmp_path / "published.csv").write_bytes((EXPERIMENTS / "published.csv").read_bytes())
    monkeypatch.setattr(tables, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["small.py", "--quick", "--jobs", "1"])
    tables.sweep_and_tabulate("small", "", setting="no-graph", reference="knn-gcn")
    out = tmp_path / "results" / "small-quick"
    with (out / "table.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["mean"]]
    assert [row["method"] for row in rows] == ["knn-gcn", "ffnn", "svm"]
    assert all(70 < float(row["mean"]) <= 100 for row in rows)
    text = (out / "table.md").read_text()
    assert text in capsys.readouterr().out
    assert "`python experiments/small.py --quick`, seeds 0, 1; lds " in text
    assert "torch 2." in text


def test_runs_that_failed_are_told_of(tables, tmp_path):
    tables.end(OUTCOMES, tmp_path)
    with pytest.raises(SystemExit, match="1 of 10 runs failed"):
        tables.end([*OUTCOMES, Outcome({}, "failed", None, {})], tmp_path)
