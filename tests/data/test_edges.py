import pytest
import torch

from lds.data import canonical_edges, retain_edges
from lds.errors import InputError

NODES = 30


@pytest.fixture
def complete() -> torch.Tensor:
    return torch.combinations(torch.arange(NODES)).T


def pairs(edge_index: torch.Tensor) -> set[tuple[int, int]]:
    return set(map(tuple, edge_index.T.tolist()))


def test_canonical_edges_of_a_small_graph() -> None:
    # 2-1 twice in one direction, 0-1 in both directions, a self loop, node 3 isolated
    edge_index = torch.tensor([[2, 2, 0, 1, 2], [1, 1, 1, 0, 2]])
    assert canonical_edges(edge_index, num_nodes=4).tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]


def test_canonical_edges_of_no_edge() -> None:
    edges = canonical_edges(torch.tensor([[3], [3]]), num_nodes=4)
    assert edges.shape == (2, 0)
    assert edges.dtype == torch.int64


@pytest.mark.parametrize(("retain", "kept"), [(0.0, 0), (0.25, 109), (0.5, 218), (0.999, 435), (0.75, 326), (1, 435)])
def test_retain_keeps_the_rounded_share_in_both_directions(complete: torch.Tensor, retain: float, kept: int) -> None:
    edges = retain_edges(complete, NODES, retain, seed=0)
    assert edges.shape == (2, 2 * kept)
    assert len(pairs(edges)) == 2 * kept
    assert pairs(edges.flip(0)) == pairs(edges)
    assert torch.equal(edges, canonical_edges(edges, NODES))


def test_retained_edges_come_from_the_graph() -> None:
    ring = torch.stack([torch.arange(NODES), (torch.arange(NODES) + 1) % NODES])
    assert pairs(retain_edges(ring, NODES, 0.5, seed=0)) < pairs(canonical_edges(ring, NODES))


def test_retain_all_is_the_canonical_graph(complete: torch.Tensor) -> None:
    assert torch.equal(retain_edges(complete, NODES, 1.0, seed=3), canonical_edges(complete, NODES))


def test_retained_edges_follow_the_seed_alone(complete: torch.Tensor) -> None:
    first = retain_edges(complete, NODES, 0.5, seed=1)
    torch.rand(1)
    assert torch.equal(first, retain_edges(complete.flip(1), NODES, 0.5, seed=1))
    assert not torch.equal(first, retain_edges(complete, NODES, 0.5, seed=2))


def test_a_larger_share_contains_a_smaller_one(complete: torch.Tensor) -> None:
    few, many = (pairs(retain_edges(complete, NODES, retain, seed=1)) for retain in (0.25, 0.5))
    assert few < many


def test_deletion_favours_no_edge(complete: torch.Tensor) -> None:
    kept = torch.zeros(NODES, NODES)
    for seed in range(200):
        row, col = retain_edges(complete, NODES, 0.5, seed)
        kept[row, col] += 1
    counts = kept[tuple(complete)]
    # Binomial(200, ½) has mean 100 and deviation 7.07: 36 is five deviations.
    assert counts.min() > 100 - 36
    assert counts.max() < 100 + 36


@pytest.mark.parametrize("retain", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_share_outside_of_0_to_1_is_refused(complete: torch.Tensor, retain: float) -> None:
    with pytest.raises(InputError, match=r"retain must be a share .* in \[0, 1\], but .* came"):
        retain_edges(complete, NODES, retain, seed=0)
