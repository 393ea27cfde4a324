"""The edges that structure learning starts from."""

import pytest
import torch
from torch_geometric.data import Data

from lds.errors import InputError
from lds.graph import GivenGraph, KNNGraph


def features(n=30, f=6, *, zeros=0.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, f, generator=generator, dtype=torch.float64)
    return torch.where(torch.rand(n, f, generator=generator) < zeros, 0.0, x)


def brute_force(x, k, metric):
    """The union of the k nearest of every node, by a full sort of all distances."""
    if metric == "cosine":
        unit = x / x.norm(dim=1, keepdim=True).clamp(min=1e-300)
        distance = 1 - unit @ unit.T
    else:
        distance = (x[:, None] - x[None]).square().sum(-1)
    distance.fill_diagonal_(float("inf"))
    nearest = distance.argsort(1)[:, :k]
    return {(min(i, j), max(i, j)) for i in range(len(x)) for j in nearest[i].tolist()}


def as_set(pairs):
    found = [tuple(pair) for pair in pairs.T.tolist()]
    assert len(found) == len(set(found))
    assert found == sorted(found)
    assert all(i < j for i, j in found)
    assert pairs.dtype == torch.int64
    return set(found)


@pytest.mark.parametrize("metric", ["cosine", "minkowski"])
@pytest.mark.parametrize("k", [1, 5, 29])
class TestKNN:
    def test_is_the_union_of_nearest_neighbours(self, metric, k):
        x = features()
        assert as_set(KNNGraph(k, metric)(Data(x=x))) == brute_force(x, k, metric)

    @pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
    def test_of_sparse_features(self, metric, k, layout):
        x = features(f=100, zeros=0.93)
        x[:, 0] = 0.1 + 0.01 * torch.arange(30)  # No ties.
        sparse = Data(x=x.to_sparse(layout=layout), num_nodes=30)
        assert as_set(KNNGraph(k, metric)(sparse)) == brute_force(x, k, metric)
        assert as_set(KNNGraph(k, metric)(Data(x=x))) == brute_force(x, k, metric)


@pytest.mark.parametrize("metric", ["cosine", "minkowski"])
def test_zero_rows_have_neighbours_like_all(metric):
    for x in (features(), features(f=40, zeros=0.95)):
        x[3], x[17] = 0, 0
        pairs = KNNGraph(4, metric)(Data(x=x))
        degree = torch.bincount(pairs.flatten(), minlength=30)
        assert bool((degree >= 4).all())
        as_set(pairs)


@pytest.mark.parametrize("metric", ["cosine", "minkowski"])
def test_no_node_is_its_own_neighbour_among_equals(metric):
    x = features(8)[:1].repeat(8, 1)
    degree = torch.bincount(KNNGraph(3, metric)(Data(x=x)).flatten(), minlength=8)
    assert bool((degree >= 3).all())


@pytest.mark.parametrize("k", [0, -1, 2.5, True, "3"])
def test_k_is_a_positive_integer(k):
    with pytest.raises(InputError, match="k must be"):
        KNNGraph(k)


@pytest.mark.parametrize("k", [30, 31])
def test_k_is_smaller_than_the_number_of_nodes(k):
    with pytest.raises(InputError, match=f"smaller than the number of nodes, 30, got {k}"):
        KNNGraph(k)(Data(x=features()))


def test_unknown_metric():
    with pytest.raises(InputError, match=r'"cosine", "minkowski" or "tfidf", got \'manhattan\''):
        KNNGraph(3, "manhattan")


class TestTfidf:
    def words(self):
        """Counts of 12 words, each in about a third of 30 texts; a word of all texts and one of none."""
        x = features(f=12).abs() * (features(f=12, zeros=0.67) != 0)
        x[:, 0] = 0.3
        x[:, 1] = 0
        return x

    @pytest.mark.parametrize("layout", [torch.strided, torch.sparse_csr])
    def test_rare_words_weigh_more(self, layout):
        x = self.words()
        seen = (x != 0).sum(0).double()
        weighted = x * (1 + ((1 + 30) / (1 + seen)).log())
        data = Data(x=x.to_sparse_csr() if layout == torch.sparse_csr else x, num_nodes=30)
        pairs = as_set(KNNGraph(4, "tfidf")(data))
        assert pairs == brute_force(weighted, 4, "cosine")
        assert pairs != brute_force(x, 4, "cosine")

    def test_the_length_of_a_text_does_not_matter(self):
        x = self.words()
        scaled = x * torch.linspace(0.1, 10, 30, dtype=x.dtype)[:, None]
        assert torch.equal(KNNGraph(4, "tfidf")(Data(x=x)), KNNGraph(4, "tfidf")(Data(x=scaled)))

    def test_words_are_not_counted_less_than_never(self):
        x = self.words()
        x[3, 4] = -0.5
        with pytest.raises(InputError, match=r"none of them negative, but a feature is -0\.5"):
            KNNGraph(4, "tfidf")(Data(x=x))


class TestGiven:
    def test_pairs_of_the_data(self):
        edges = torch.tensor([[4, 1, 2, 2, 3], [1, 4, 3, 3, 3]])
        pairs = GivenGraph()(Data(x=features(5), edge_index=edges))
        assert as_set(pairs) == {(1, 4), (2, 3)}

    @pytest.mark.parametrize("edges", [None, torch.zeros(2, 0, dtype=torch.int64)])
    def test_no_edges(self, edges):
        with pytest.raises(InputError, match=r"no edges to start from; use a kNN graph.* or .* --method knn-lds"):
            GivenGraph()(Data(x=features(5), edge_index=edges))
