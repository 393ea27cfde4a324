"""Edge probabilities on given pairs: the same gradient as on all pairs, through products and through edge weights."""

import pytest
import torch
from scipy import stats

from lds.errors import InputError, NumericalError
from lds.graph import CandidatePairs, SampledGraph, random_pairs
from lds.graph._candidate_pairs import CandidateGradient
from lds.hypergrad import OuterVariable, hypergradient
from lds.updaters import SGD, Adam
from tests.graph.oracles import MODELS, DenseGraph, dense_adjacency, dense_hypergradient, node_classification
from tests.oracles import DOUBLE, Problem, relative_error

N = 40
EDGES = torch.randint(N, (2, 60), generator=torch.Generator().manual_seed(0))
FURTHER = torch.randint(N, (2, 80), generator=torch.Generator().manual_seed(1))


def structure_of(dtype=DOUBLE, *, seed=0):
    """Candidates with probabilities 0, 1 and in between."""
    structure = CandidatePairs(N, EDGES, candidates=FURTHER, dtype=dtype)
    theta = torch.rand(structure.state().shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    theta[::5], theta[1::5] = 0, 1
    structure.restore_(theta.to(dtype))
    return structure


def candidates_of(structure):
    (row, col), _ = structure.edges(-1.0)
    return row, col


def check(problem, updater, steps):
    structure = problem.outer["structure"]
    row, col = candidates_of(structure)
    found = hypergradient(*problem, updater=updater, steps=steps, seed=3)
    expected = dense_hypergradient(problem, updater, steps, seed=3).grad["structure"][row, col]
    assert expected.any()
    assert relative_error(found.grad["structure"].at(row, col), expected) <= 1e-10
    return found.grad["structure"], expected


@pytest.mark.parametrize("model", MODELS.keys())
def test_products_equal_the_dense_oracle(model):
    check(node_classification(structure_of(), model), Adam(0.05), steps=3)


def through_weights(graph, m):
    """A M by messages along the edge index."""
    if isinstance(graph, DenseGraph):
        return graph.matmul(m)
    source, target = graph.edge_index
    return torch.zeros_like(m).index_add(0, target, graph.edge_weight[:, None] * m[source])


@pytest.mark.parametrize("mixed", [False, True])
def test_edge_weights_equal_the_dense_oracle(mixed):
    x = torch.randn(N, 4, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)

    def objective(w, outer):
        graph = outer["structure"]
        h = torch.tanh(through_weights(graph, x @ w) / (1 + through_weights(graph, torch.ones_like(x[:, :1]))))
        h = through_weights(graph, h)
        # Products and messages in one model: both parts count, each once.
        return (h + graph.propagate(h) - 1).square().mean() if mixed else (h - 1).square().mean()

    problem = Problem(objective, objective, torch.ones(4, 2, dtype=DOUBLE), {"structure": structure_of()})
    check(problem, SGD(0.1, momentum=0.5), steps=3)


def test_step():
    structure = structure_of()
    gradient, expected = check(node_classification(structure), Adam(0.05), steps=2)
    before = structure.state()
    structure.project_(gradient, 20.0)
    torch.testing.assert_close(structure.state(), (before - 20 * expected).clamp(0, 1), rtol=1e-12, atol=1e-12)
    assert bool((structure.state() == 0).any())
    assert bool((structure.state() == 1).any())
    assert structure.expected_edges == pytest.approx(float(structure.state().sum()))


@pytest.mark.parametrize("lr", [1e38, 1e39, 1e308])
@pytest.mark.parametrize("bad", [4.0, float("nan"), float("inf")])
def test_a_step_that_is_not_finite_leaves_theta_alone(bad, lr):
    structure = structure_of(torch.float32)
    before = structure.state()
    weights = torch.ones_like(before)
    weights[3] = bad
    gradient = CandidateGradient(structure._index, weights=weights)
    with pytest.raises(NumericalError, match=r"a step of θ must be finite in torch.float32, .* lower the outer"):
        structure.project_(gradient, lr)
    assert torch.equal(structure.state(), before)


def test_no_memory_of_all_pairs(no_large_tensors):
    n = 3000
    structure = CandidatePairs(n, torch.randint(n, (2, n), generator=torch.Generator().manual_seed(0)))
    problem = node_classification(structure)
    with no_large_tensors(n * n // 20):
        grad = hypergradient(*problem, updater=SGD(0.1), steps=2).grad["structure"]
        structure.project_(grad, 1.0)
        structure.draw()


class TestDraws:
    def test_distribution(self):
        structure = structure_of(torch.float32)
        torch.manual_seed(0)
        rounds = 600
        total = torch.zeros(N, N)
        for _ in range(rounds):
            total += dense_adjacency(structure.draw())
        row, col = candidates_of(structure)
        p, counts = structure.state().double(), total[row, col].double()
        assert float(total.sum()) == 2 * float(counts.sum())
        inside = (p > 0) & (p < 1)
        assert torch.equal(counts[~inside], rounds * p[~inside])
        spread = ((counts - rounds * p) ** 2 / (rounds * p * (1 - p)))[inside]
        assert 1e-3 < stats.chi2.sf(float(spread.sum()), spread.numel()) < 1 - 1e-3

    def test_the_two_views_agree(self):
        torch.manual_seed(0)
        graph = structure_of().draw()
        assert isinstance(graph, SampledGraph)
        dense = torch.zeros(N, N, dtype=DOUBLE)
        dense[graph.edge_index[0], graph.edge_index[1]] = graph.edge_weight
        assert torch.equal(dense, dense_adjacency(graph))
        assert graph.edge_index.shape[1] == 2 * structure_of().state().numel()
        assert 0 < graph.num_edges < structure_of().state().numel()


class TestStorage:
    def test_candidates(self):
        structure = CandidatePairs(5, torch.tensor([[1, 0, 1], [0, 1, 1]]), candidates=torch.tensor([[4, 1], [2, 0]]))
        assert isinstance(structure, OuterVariable)
        assert [x.tolist() for x in structure.edges(-1.0)] == [[[0, 2], [1, 4]], [1.0, 0.0]]
        assert [x.tolist() for x in structure.edges()] == [[[0], [1]], [1.0]]
        assert structure.expected_edges == 1

    def test_state_goes_back(self):
        structure = structure_of()
        state = structure.state()
        structure.restore_(torch.zeros_like(state))
        assert structure.draw().num_edges == 0
        structure.restore_(state)
        assert torch.equal(structure.state(), state)

    @pytest.mark.parametrize(
        ("edges", "candidates", "message"),
        [
            ([[], []], None, "needs at least one pair, got none"),
            ([[2], [2]], [[1], [1]], "needs at least one pair, got none"),
            ([[0], [5]], None, r"node numbers in 0..4, got 0 to 5"),
            ([[0], [1]], [[-1], [2]], r"node numbers in 0..4, got -1 to 2"),
        ],
    )
    def test_bad_arguments(self, edges, candidates, message):
        further = None if candidates is None else torch.tensor(candidates)
        with pytest.raises(InputError, match=message):
            CandidatePairs(5, torch.tensor(edges, dtype=torch.int64), candidates=further)


class TestRandomPairs:
    def test_are_distinct_and_seeded(self):
        pairs = random_pairs(100, 500, seed=1)
        assert bool((pairs[0] < pairs[1]).all())
        assert len(set(map(tuple, pairs.T.tolist()))) == pairs.shape[1]
        assert 420 < pairs.shape[1] <= 500
        assert torch.equal(pairs, random_pairs(100, 500, seed=1))
        assert not torch.equal(pairs, random_pairs(100, 500, seed=2))
        assert random_pairs(100, 0, seed=1).shape == (2, 0)

    @pytest.mark.parametrize("count", [-1, 2476])
    def test_count_out_of_range(self, count):
        with pytest.raises(InputError, match=f"half of all pairs, 2475, got {count}"):
            random_pairs(100, count, seed=0)
