"""The choice beside the fixed choices: what the tables say, and that auto is what the command line does."""

import importlib
import math

import numpy as np
import pytest

from lds.learner import FixedGraphLearner
from lds.run import TrainConfig, train


@pytest.fixture
def auto():
    return importlib.import_module("auto")


@pytest.fixture
def rules():
    return importlib.import_module("auto_rules")


def run_of(seed, test, chosen, dataset="wine"):
    scores = {name: {"loss": 0.1 * place} for place, name in enumerate(test, 1)}
    return {"dataset": dataset, "seed": seed, "test": test, "chosen": chosen, "scores": scores}


def test_rows(auto):
    runs = [
        run_of(0, {"ffnn": 0.90, "knn-gcn": 0.96}, "ffnn"),
        run_of(1, {"ffnn": 0.92, "knn-gcn": 0.94}, "knn-gcn"),
        run_of(2, {"ffnn": 0.94, "knn-gcn": 0.95}, "knn-gcn"),
    ]
    ffnn, gcn, chosen = auto.make_rows(runs)
    assert (ffnn["mean"], gcn["mean"], chosen["mean"]) == pytest.approx((92, 95, (90 + 94 + 95) / 3))
    assert (ffnn["chosen"], gcn["chosen"]) == (1, 2)
    assert (ffnn["loss"], gcn["loss"]) == pytest.approx((0.1, 0.2))
    assert ffnn["auto_less"] == pytest.approx(1.0)
    # To the best fixed choice, split by split: -6, 0 and 0.
    assert chosen["auto_less"] == gcn["auto_less"] == pytest.approx(-2)
    assert chosen["auto_less_error"] == pytest.approx(np.std([-6, 0, 0], ddof=1) / math.sqrt(3))
    assert chosen["verdict"] == "not worse than knn-gcn"
    always = [run_of(seed, {"ffnn": 0.9, "knn-gcn": 0.95 + 0.001 * seed}, "ffnn") for seed in range(4)]
    assert auto.make_rows(always)[-1]["verdict"] == "worse than knn-gcn"
    assert "| wine | auto | 3 |" in auto.markdown(auto.make_rows(runs))


def test_auto_is_what_the_command_line_does(auto, monkeypatch, tmp_path):
    monkeypatch.setattr("lds.learner._alternatives._FOLDS", 2)
    monkeypatch.setattr("lds.learner._alternatives._REPEATS", 1)
    monkeypatch.setattr(auto, "OUTER_EPOCHS", 1)
    ours = auto.run("wine", 1)
    result = train(TrainConfig("wine", "auto", max_epochs=1, seed=1), tmp_path / "run", progress=False)
    assert {name: ours[name] for name in ("chosen", "reason", "scores")} == {
        name: result[name] for name in ("chosen", "reason", "scores")
    }
    assert ours["test"][ours["chosen"]] == result["test_accuracy"]


def test_rules(rules, monkeypatch):
    # Node by node as close as can be, but for the third.
    losses = {"simple": np.array([1.0, 2.0, 3.0, 2.1]), "better": np.array([1.2, 1.7, 3.1, 1.8])}
    assert [rules.pick(losses, list(losses), tolerance) for tolerance in (0.0, 0.5, 1.0)] == ["better"] * 2 + ["simple"]
    assert rules.pick(losses, ["better", "simple"], 1.0) == "better"


def test_the_rule_that_was_kept_is_that_of_the_library(rules):
    from lds.learner import StructureLearner, alternatives
    from lds.learner._alternatives import _FOLDS, _REPEATS

    fixed = alternatives(StructureLearner(), {"knn": None}).items()
    assert (
        tuple(name for name, learner in fixed if isinstance(learner, FixedGraphLearner))
        == (rules.ORDERS["more labels first"])
    )
    assert (_FOLDS, _REPEATS) == (rules.FOLDS, rules.REPEATS)


def test_regrets_are_counted_on_other_splits(rules):
    names = rules.ORDERS["more labels first"]

    def line(name, fold, loss, right):
        return {"learner": name, "fold": fold, "nodes": [1, 2], "losses": loss, "right": right}

    splits = []
    for seed in (100, 101):
        folds = []
        for fold in range(1, 11):
            for name in names:
                # The last one has the lowest loss on the first split alone, and the fewest right on the second.
                low = name == names[-1] and seed == 100
                right = [0, 0] if name == names[-1] and seed == 101 else [1, 0]
                folds.append(line(name, fold, [0.1, 0.2] if low else [0.3, 0.6], right))
        splits.append({"dataset": "wine", "seed": seed, "folds": folds})
    rows = list(rules.regrets(splits))
    assert len(rows) == 12
    # Chosen on the first split, it gives away a half on the second; there the first in order gives nothing away.
    assert [row["wine"] for row in rows if row["standard errors"] == 0.0] == pytest.approx([25.0] * 4)
