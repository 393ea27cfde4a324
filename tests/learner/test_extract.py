"""One graph from edge probabilities, next to the same from a dense matrix."""

import numpy as np
import pytest
import torch

from lds.errors import InputError
from lds.graph import AllPairs, CandidatePairs
from lds.learner import extract

N = 30


def theta(seed=0, zeros=0.6):
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(N, N, generator=generator) ** 4  # Few large ones.
    p[torch.rand(N, N, generator=generator) < zeros] = 0
    p[:, 3] = p[3] = 0  # A node without an edge.
    return torch.triu(p, 1) + torch.triu(p, 1).T


@pytest.fixture(params=["all pairs", "candidates"])
def structure(request):
    p = theta()
    row, col = torch.triu_indices(N, N, 1)
    if request.param == "candidates":
        result = CandidatePairs(N, torch.stack([row, col])[:, :0], candidates=torch.stack([row, col]))
        result.restore_(p[row, col])
    else:
        result = AllPairs(N, torch.stack([row, col])[:, :0])
        state = result.state()
        state[result._tiles.positions(row, col)] = p[row, col]
        result.restore_(state)
    return result


def dense(graph):
    found = torch.zeros(N, N)
    found[graph.edge_index[0], graph.edge_index[1]] = graph.edge_weight
    assert graph.num_nodes == N
    assert torch.equal(found, found.T)
    assert graph.edge_index.shape[1] == int((found > 0).sum())
    return found


@pytest.mark.parametrize("k", [1, 2, 5, 29, 100])
def test_top_k(structure, k):
    p = theta()
    rank = p.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    kept = (rank < k) & (p > 0)
    assert torch.equal(dense(extract(structure, top_k=k)), torch.where(kept | kept.T, p, 0.0))


def test_of_equals_the_lower_neighbour_comes_first():
    pairs = torch.triu_indices(5, 5, 1)
    graph = extract(CandidatePairs(5, pairs), top_k=1)
    assert graph.edge_index[:, :4].tolist() == [[0, 0, 0, 0], [1, 2, 3, 4]]
    assert graph.num_edges == 8


def test_threshold(structure):
    p = theta()
    assert torch.equal(dense(extract(structure, 0.2)), torch.where(p > 0.2, p, 0.0))
    assert torch.equal(dense(extract(structure, 0.5)), torch.where(p > 0.5, p, 0.0))


def test_sample(structure):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (dense(extract(structure, sample=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    mean = sum(dense(extract(structure, sample=seed)) for seed in range(400)) / 400
    assert float((mean - theta()).abs().max()) < 0.1  # 4 standard deviations of 0.025.


def test_numbers_of_numpy(structure):
    for name, value in (("threshold", np.float32(0.25)), ("top_k", np.int64(3)), ("sample", np.int64(1))):
        found, expected = (extract(structure, **{name: number}) for number in (value, value.item()))
        assert torch.equal(dense(found), dense(expected))


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ({"threshold": 0.5, "top_k": 3}, "needs one of threshold, top_k and sample, but threshold and top_k came"),
        ({"top_k": 3, "sample": 0}, "but top_k and sample came; drop one"),
        ({"top_k": 0}, "top_k must be an integer >= 1, got 0"),
        ({"top_k": True}, "top_k must be an integer"),
        ({"sample": 0.5}, "sample must be an integer, the seed of the draw, got 0.5"),
        ({"sample": True}, "sample must be an integer"),
        ({"threshold": 1.0}, "threshold must lie in"),
        ({"threshold": "a"}, r"threshold must lie in \[0, 1\), got 'a'"),
    ],
)
def test_refused(criterion, message):
    with pytest.raises(InputError, match=message):
        extract(CandidatePairs(3, torch.tensor([[0], [1]])), **criterion)
