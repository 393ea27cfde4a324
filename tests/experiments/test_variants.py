"""Variants of the learner that are put together from its parts."""

import importlib
from functools import partial

import pytest
import torch

from lds.data import load
from lds.graph import KNNGraph
from lds.hypergrad import hypergradient
from lds.learner import StructureLearner
from lds.nn import GCN
from lds.sweep import Reply
from lds.sweep._ledger import read_ledger


@pytest.fixture
def variants():
    return importlib.import_module("variants")


def short(**options):
    return StructureLearner(graph=KNNGraph(5), inner_steps=10, samples=2, **options)


def test_two_equal_graphs_are_one(variants):
    """While θ is 0 or 1 both graphs are the same, and so are the hypergradients."""
    data = load("wine", seed=0)
    single = short(model=partial(GCN, dropout=0.0))
    double = short(model=partial(variants.MeanOverGraphs, dropout=0.0), edges=variants.Pair)
    problems = [learner.problem(data, steps=4) for learner in (single, double)]
    one, two = (
        hypergradient(p.inner, p.outer_objective, p.params, p.outer, updater=p.updater, steps=p.steps, seed=p.seed)
        for p in problems
    )
    dense = one.grad["structure"].to_dense()
    assert dense.abs().max() > 0
    torch.testing.assert_close(two.grad["structure"].to_dense(), dense, rtol=1e-4, atol=1e-6 * float(dense.abs().max()))


def test_all_run_and_are_not_repeated(variants, monkeypatch, tmp_path):
    monkeypatch.setattr(variants, "StructureLearner", lambda graph, max_epochs: short(max_epochs=max_epochs))

    class HereAndNow:
        """Runs jobs in this process."""

        def __init__(self, jobs):
            pass

        def run(self, jobs):
            for job in jobs:
                dataset, *rest = job.arguments
                assert dataset == "cora"
                yield job, Reply(job.function("wine", *rest))

    monkeypatch.setattr(variants, "ProcessEngine", HereAndNow)
    path = tmp_path / "variants.jsonl"
    found = variants.run_variants(path, [0], 1, max_epochs=2)
    assert [set(o.config) - {"dataset", "method", "seed"} for o in found] == [
        set(),
        {"θ"},
        {"validation"},
        {"θ₀"},
        {"graphs an inner step"},
    ]
    assert all(0 < o.result["test_accuracy"] <= 1 for o in found)
    before = path.read_bytes()
    assert len(read_ledger(path)) == 5
    assert variants.run_variants(path, [0], 1, max_epochs=2) == found
    assert path.read_bytes() == before
