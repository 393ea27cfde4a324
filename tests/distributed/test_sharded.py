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
    return [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(size)]


def _started(rank, size, folder, work, args):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    torch.save(work(Ranks(), *args), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def learner(edges, **options):
    return StructureLearner(edges=edges, max_epochs=2, inner_steps=15, samples=2, outer_lr=2.0, **options)


def dense(fit, nodes):
    pairs, probability = fit.structure.edges()
    theta = torch.zeros(nodes, nodes, dtype=probability.dtype)
    theta[pairs[0], pairs[1]] = probability
    return theta


# Structure, number of nodes, number of candidates: all pairs, candidates with the whole graph active, and with a part.
CASES = ((AllPairs, 300, None), (CandidatePairs, 100, 200), (CandidatePairs, 700, 700))


def learned(make):
    """Return what is learned in every case."""
    results = []
    for structure, nodes, candidates in CASES:
        arguments = {} if candidates is None else {"candidates": random_pairs(nodes, candidates, seed=0)}
        fit = learner(make(structure, **arguments)).fit(blocks(nodes, dtype=DOUBLE), seed=3)
        held, expected = fit.structure.state().numel(), fit.structure.expected_edges
        results.append((dense(fit, nodes), fit.logits, expected, held))
    return results


def learned_in_ranks(ranks):
    return learned(lambda structure, **arguments: Sharded(structure, ranks, **arguments))


@pytest.mark.parametrize("size", [2, 4])
def test_learns_what_one_process_learns(size, tmp_path):
    alone = learned(partial)
    for case, parts in zip(alone, zip(*in_ranks(size, learned_in_ranks, tmp_path), strict=True), strict=True):
        theta, logits, expected, held = case
        assert bool(((theta > 0) & (theta < 1)).any())  # It learned something.
        for part in parts:
            torch.testing.assert_close(part[0], theta, rtol=0, atol=1e-12)
            torch.testing.assert_close(part[1], logits, rtol=0, atol=1e-12)
            assert part[2] == pytest.approx(expected, abs=1e-6)
        assert sum(part[3] for part in parts) == held
        assert max(part[3] for part in parts) < 0.7 * held


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
