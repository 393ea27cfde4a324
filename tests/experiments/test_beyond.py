"""Variants against the plain learner: what is compared, and what is kept."""

import importlib

import pytest

from lds.sweep import Outcome


@pytest.fixture
def beyond():
    return importlib.import_module("beyond")


def outcomes(es, test, seeds=(0, 1, 2), **fields):
    config = {"dataset": "cora", "method": "knn-lds", "k": 20, **fields}
    return [
        Outcome({**config, "seed": s}, "done", {"es_accuracy": e, "test_accuracy": t})
        for s, e, t in zip(seeds, es, test, strict=True)
    ]


def test_rows(beyond):
    plain, better, worse, noisy = beyond.make_rows(
        [
            *outcomes([0.70, 0.71, 0.72], [0.6, 0.7, 0.8]),
            *outcomes([0.72, 0.73, 0.75], [0.6, 0.6, 0.6], hidden=64),
            *outcomes([0.71, 0.60], [0.9, 0.9], (1, 3), k=30),  # Seed 3 is not one of the plain learner's.
            *outcomes([0.80, 0.70, 0.70], [0.6, 0.7, 0.8], dropout=0.7),
        ]
    )
    assert (plain["variant"], plain["seeds"]) == ("plain", 3)
    assert plain["es"] == pytest.approx(71)
    assert "kept" not in plain
    assert (better["variant"], better["kept"]) == ("hidden 64", "yes")
    assert better["es_difference"] == pytest.approx(7 / 3)
    assert better["test_difference"] == pytest.approx(-10)  # Test nodes have no say.
    assert (worse["variant"], worse["seeds"], worse["kept"]) == ("k 30", 1, "no")
    assert worse["es_difference"] == pytest.approx(0)
    assert noisy["es_difference"] == pytest.approx(7 / 3)
    assert noisy["kept"] == "no"  # A gain of 10 on one seed is no more than a standard error.
    assert "| cora | knn-lds | hidden 64 | 3 | 73.3 ± 1.5 | 2.3 ± " in beyond.markdown([plain, better])
