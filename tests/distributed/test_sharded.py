"""Structures over 2 and 4 processes against one process: the same graphs, losses and θ, to rounding."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lds.distributed import Ranks, Sharded, ShardedFeatures
from lds.distributed._all_pairs import OwnTiles
from lds.errors import InputError
from lds.graph import AllPairs, CandidatePairs, random_pairs
from lds.graph._tiles import SIDE, Tiles
from lds.learner import StructureLearner
from tests.learner.problems import blocks

DOUBLE = torch.float64


def in_ranks(size, work, tmp_path, *args):
    """Return what `work(ranks, *args)` gives in each of so many processes."""
    mp.spawn(_started, (size, str(tmp_path), work, args), nprocs=size)
    return [torch.load(tmp_path / f"{rank}.pt") for rank in range(size)]


def _started(rank, size, folder, work, args):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    torch.save(work(Ranks(), *args), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def learner(edges, **options):
    return StructureLearner(edges=edges, max_epochs=2, inner_steps=15, samples=2, outer_lr=2.0, **options)


def found(fit):
    pairs, probability = fit.structure.edges()
    return {"pairs": pairs, "probability": probability, "logits": fit.logits, "state": fit.structure.state().numel()}


def data_of(nodes):
    return blocks(nodes, dtype=DOUBLE)


def learned(ranks, structure, nodes, arguments):
    fit = learner(Sharded(structure, ranks, **arguments)).fit(data_of(nodes), seed=3)
    return {**found(fit), "expected": fit.structure.expected_edges, "dense": dense(fit, nodes)}


def dense(fit, nodes):
    pairs, probability = fit.structure.edges()
    theta = torch.zeros(nodes, nodes, dtype=probability.dtype)
    theta[pairs[0], pairs[1]] = probability
    return theta


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    ("structure", "nodes", "candidates"),
    [(AllPairs, 300, None), (CandidatePairs, 100, 200), (CandidatePairs, 700, 700)],
    ids=["all pairs", "candidates, whole graph", "candidates, active part"],
)
def test_learns_what_one_process_learns(structure, nodes, candidates, size, tmp_path):
    arguments = {} if candidates is None else {"candidates": random_pairs(nodes, candidates, seed=0)}
    one = learner(partial(structure, **arguments)).fit(data_of(nodes), seed=3)
    alone = dense(one, nodes)
    assert bool(((alone > 0) & (alone < 1)).any())  # It learned something.
    parts = in_ranks(size, learned, tmp_path, structure, nodes, arguments)
    for part in parts:
        torch.testing.assert_close(part["dense"], alone, rtol=0, atol=1e-12)
        torch.testing.assert_close(part["logits"], one.logits, rtol=0, atol=1e-12)
        assert part["expected"] == pytest.approx(one.structure.expected_edges, abs=1e-6)
    held = [part["state"] for part in parts]
    assert sum(held) == one.structure.state().numel()
    assert max(held) < 0.7 * sum(held)


def products(ranks, x, weight, direction):
    features = ShardedFeatures(x, ranks)
    w = weight.clone().requires_grad_()
    y = (features @ w).tanh()
    (g,) = torch.autograd.grad(y.square().sum(), w, create_graph=True)
    (h,) = torch.autograd.grad((g * direction).sum(), w)
    nodes = torch.tensor([0, 3, 4, 9])
    return {"y": y.detach(), "g": g.detach(), "h": h, "rows": features.rows(nodes), "own": features.own.shape[0]}


def test_features_are_those_of_one_process_in_both_derivatives(tmp_path):
    x, weight, direction = (torch.randn(*shape, dtype=DOUBLE) for shape in ((11, 5), (5, 3), (5, 3)))
    w = weight.clone().requires_grad_()
    y = (x @ w).tanh()
    (g,) = torch.autograd.grad(y.square().sum(), w, create_graph=True)
    (h,) = torch.autograd.grad((g * direction).sum(), w)
    parts = in_ranks(3, products, tmp_path, x, weight, direction)
    for part in parts:
        torch.testing.assert_close(part["y"], y.detach())
        torch.testing.assert_close(part["g"], g.detach())
        torch.testing.assert_close(part["h"], h)
        torch.testing.assert_close(part["rows"], x[[0, 3, 4, 9]])
    assert sum(part["own"] for part in parts) == 11


@pytest.mark.parametrize("nodes", [1, 64, 65, 300, 1000])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_ranks_share_all_tiles(nodes, size):
    shares = [OwnTiles(nodes, rank, size) for rank in range(size)]
    assert sum(share.numel for share in shares) == Tiles(nodes).numel
    strips = [strip for share in shares for strip in share.strips()]
    assert [strip.start for strip in strips] == list(range(0, nodes, SIDE))
    if Tiles(nodes).per_side >= size:
        assert min(share.numel for share in shares) > 0


def disagree(ranks):
    try:
        ranks.agree("the seed", ranks.rank)
    except InputError as error:
        return {"message": str(error)}
    return {}


def test_ranks_that_go_apart_are_told_so(tmp_path):
    for part in in_ranks(2, disagree, tmp_path):
        assert "the seed is 0, 1" in part["message"]


def test_bad_input():
    with pytest.raises(InputError, match="torchrun"):
        Ranks()
    with pytest.raises(InputError, match="AllPairs or CandidatePairs"):
        Sharded(partial(AllPairs))
