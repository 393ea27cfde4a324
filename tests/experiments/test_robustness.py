"""Damaged graphs: what the damage is."""

import importlib

import pytest
import torch

from lds.data import load


@pytest.fixture
def script():
    return importlib.import_module("robustness")


def test_damage(script):
    whole = load("cora", seed=1)
    edges = whole.edge_index.shape[1]
    assert script.damaged("deleted", 0.25, 1).edge_index.shape[1] == pytest.approx(0.75 * edges, abs=2)
    added = script.damaged("added", 0.5, 1)
    assert added.edge_index.shape[1] == pytest.approx(1.5 * edges, rel=0.01)
    assert torch.equal(added.edge_index[:, :edges], whole.edge_index)
    noised = script.damaged("noised", 0.5, 1)
    assert float((noised.x - whole.x).std() / whole.x.std()) == pytest.approx(0.5, rel=0.01)
    assert torch.equal(noised.x, script.damaged("noised", 0.5, 1).x)


def test_every_piece_once(script):
    found = [piece.name for piece in script.pieces(script.PARTS, quick=False)]
    assert len(set(found)) == len(found) == 5 * (3 * 3 + 4) * len(script.METHODS)
    assert len(script.pieces(["added"], quick=True)) == 2 * len(script.METHODS)


def test_a_piece(script):
    found = script.run("deleted", 0.75, "gcn", 0, 1)
    assert found["part"] == "deleted"
    assert 30 < found["es"] <= 100
