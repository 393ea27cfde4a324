"""A plain GCN on graphs that were learned."""

import importlib

import pytest


@pytest.fixture
def retrain():
    return importlib.import_module("retrain")


def test_every_graph_is_trained_on(retrain, tmp_path, monkeypatch):
    monkeypatch.setattr(retrain, "WEIGHTS", 1)
    config = retrain.TrainConfig("wine", "knn-lds", max_epochs=1)
    found = retrain.accuracies(config, tmp_path / "run")
    assert list(found) == ["LDS", "GCN on kept edges", *(f"GCN on {name}" for name in retrain.GRAPHS)]
    assert all(80 < value <= 100 for value in found.values())
    assert retrain.accuracies(config, tmp_path / "run") == found  # The run is there, and is not repeated.


def test_rows(retrain):
    found = [
        {"LDS": 74.0, "GCN on kept edges": 66.0, "GCN on top 5": 72.0},
        {"LDS": 75.0, "GCN on kept edges": 68.0, "GCN on top 5": 70.0},
    ]
    lds, kept, top = retrain.make_rows(found)
    assert lds["mean"] == pytest.approx(74.5)
    assert lds["difference"] == pytest.approx(7.5)
    assert "difference" not in kept
    assert (top["difference"], top["seeds"]) == (pytest.approx(4), 2)
    assert "| GCN on kept edges | 2 | 67.0 ± 1.4 |  |" in retrain.markdown([lds, kept, top])
