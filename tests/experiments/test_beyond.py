"""Variants against the plain learner: what is compared, and what is kept."""

import importlib

import pytest

from lds.sweep import Outcome


@pytest.fixture
def beyond():
    return importlib.import_module("beyond")


def outcomes(es, test, seeds=range(5), **fields):
    config = {"dataset": "cora", "method": "knn-lds", "k": 20, **fields}
    if config["k"] == 10:
        del config["k"]  # A ledger has no defaults.
    return [
        Outcome({**config, "seed": s}, "done", {"es_accuracy": e, "test_accuracy": t})
        for s, e, t in zip(seeds, es, test, strict=True)
    ]


def test_rows(beyond):
    plain, other, better, worse, noisy = beyond.make_rows(
        [
            *outcomes([0.70, 0.71, 0.72, 0.71, 0.71], [0.6, 0.7, 0.8, 0.7, 0.7]),
            *outcomes([0.60] * 5, [0.7] * 5, method="knn-gcn"),
            *outcomes([0.72, 0.73, 0.75, 0.73, 0.73], [0.6] * 5, hidden=64, k=10),
            *outcomes([0.71, 0.60], [0.9, 0.9], (1, 7), k=30),  # Seed 7 is not one of the plain learner's.
            *outcomes([0.80, 0.70, 0.70, 0.70, 0.70], [0.7] * 5, dropout=0.7),
        ]
    )
    assert (plain["variant"], plain["seeds"]) == ("plain", 5)
    assert (other["variant"], other["method"]) == ("plain", "knn-gcn")  # Compared within its method alone.
    assert plain["es"] == pytest.approx(71)
    assert "kept" not in plain | other
    assert (better["variant"], better["kept"]) == ("hidden 64, k 10", "yes")
    assert better["es_difference"] == pytest.approx(2.2)
    assert better["test_difference"] == pytest.approx(-10)  # Test nodes have no say.
    assert (worse["variant"], worse["seeds"]) == ("k 30", 1)
    assert "kept" not in worse  # One seed decides nothing.
    assert worse["es_difference"] == pytest.approx(0)
    assert noisy["es_difference"] == pytest.approx(1)
    assert noisy["kept"] == "no"  # A gain on one seed of five is no more than a standard error.
    assert "| cora | knn-lds | hidden 64, k 10 | 5 | 73.2 ± 1.1 | 2.2 ± " in beyond.markdown([plain, better])
