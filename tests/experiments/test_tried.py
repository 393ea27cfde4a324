"""What was tried: the self-supervised term, its gradient in θ and where it reaches; and every variant once."""

import importlib
from functools import partial

import pytest
import torch

from lds.graph import AllPairs, CandidatePairs, KNNGraph
from lds.hypergrad import Reverse
from lds.learner import StructureLearner
from tests.learner.problems import blocks
from tests.oracles import relative_error

PAIRS = torch.triu_indices(24, 24, 1)


@pytest.fixture
def tried():
    return importlib.import_module("tried")


def directions(x, width):
    """As the docstring says, with the signs that the class draws."""
    z = x - x.mean(0)
    if z.shape[1] > width:
        signs = torch.randint(2, (z.shape[1], width), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
        z = z @ signs.to(z)
    return z / z.norm(dim=1, keepdim=True)


def by_definition(a, z, coefficient):
    u = a @ z
    return coefficient * sum(1 - (z[i] @ u[i]) / (1 + u[i] @ u[i]).sqrt() for i in range(len(z))) / len(z)


@pytest.mark.parametrize("width", [3, 64])
@pytest.mark.parametrize("edges", [AllPairs, partial(CandidatePairs, candidates=PAIRS)])
def test_the_gradient_of_a_problem_has_that_of_the_term(tried, edges, width):
    """The hypergradient with the term, less that without it, is the term's gradient in the entries of A."""
    data = blocks(24, dtype=torch.float64)
    plain = StructureLearner(edges=edges)
    learner = StructureLearner(edges=edges, outer_term=tried.Denoising(0.7, width))
    found = {}
    for name, one in (("plain", plain), ("with", learner)):
        result = Reverse().solve(one.problem(data, steps=2, seed=1))
        found[name] = result.outer_loss, result.grad["structure"].at(*PAIRS)
    # All probabilities are 0 or 1: every draw is the initial graph.
    a = torch.zeros(24, 24, dtype=torch.float64)
    a[tuple(data.edge_index)] = 1
    a.requires_grad_()
    value = by_definition(a, directions(data.x, width), 0.7)
    (gradient,) = torch.autograd.grad(value, a)
    expected = (gradient + gradient.T)[tuple(PAIRS)]
    assert found["with"][0] - found["plain"][0] == pytest.approx(float(value.detach()), rel=1e-12)
    assert relative_error(found["with"][1] - found["plain"][1], expected) < 1e-10


def test_pairs_far_from_every_label_get_a_gradient(tried):
    data = blocks(24, dtype=torch.float64)
    alone = torch.arange(24) >= 20  # Without edges, and none of them labelled.
    for split in ("train", "val", "es", "test"):
        data[f"{split}_mask"] &= ~alone
    data.test_mask |= alone
    data.edge_index = data.edge_index[:, ~(alone[data.edge_index[0]] | alone[data.edge_index[1]])]
    pair = torch.tensor([20]), torch.tensor([22])
    for term in (None, tried.Denoising(1.0)):
        result = Reverse().solve(StructureLearner(outer_term=term).problem(data, steps=1))
        assert bool(result.grad["structure"].at(*pair) != 0) == (term is not None)


def test_features_that_are_all_the_same_ask_for_nothing(tried):
    data = blocks(24)
    data.x = torch.ones(24, 3)
    graph = AllPairs(24, data.edge_index).draw()
    assert float(tried.Denoising(0.5)(data)(graph)) == 0.5


@pytest.mark.parametrize("plain", ["APPNP (train+val)", "LDS", "LDS on candidates"])
def test_every_variant_runs(tried, monkeypatch, plain):
    """On a small problem in place of Cora."""
    data = blocks(96, classes=3)
    data.x = data.x.abs()
    monkeypatch.setattr(tried, "load", lambda *_, **__: data)
    monkeypatch.setattr(tried, "KNNGraph", lambda *_: KNNGraph(2))
    for variant in tried.VARIANTS[plain]:
        found = tried.run(plain, variant, 0, 1)
        assert 30 < found["test"] <= 100, variant


def test_rows(tried):
    runs = [
        {"plain": "LDS", "variant": variant, "seed": seed, "es": 70 + es + 0.1 * seed, "test": 70}
        for variant, es in (("plain", 0.0), ("denoising 0.1", 1.0), ("denoising 1", -1.0))
        for seed in range(5)
    ]
    rows = {row["variant"]: row for row in tried.make_rows(runs)}
    assert "kept" not in rows["plain"]
    assert rows["denoising 0.1"]["kept"] == "yes"
    assert rows["denoising 0.1"]["es_difference"] == pytest.approx(1)
    assert rows["denoising 1"]["kept"] == "no"
