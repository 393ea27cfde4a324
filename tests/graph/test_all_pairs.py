"""Edge probabilities on all pairs: storage in blocks, the projected step, draws, edges, state."""

import math

import pytest
import torch
from scipy import stats

from lds.errors import InputError, NumericalError
from lds.graph import AllPairs, FactorPairs
from lds.graph._pairs import canonical_pairs
from tests.graph.oracles import dense_adjacency, structure_of, theta
from tests.oracles import DOUBLE

N = 23
NO_EDGES = torch.zeros(2, 0, dtype=torch.int64)
# One tile and a part of one, several with and without rest, and more than a band of them.
sizes = pytest.mark.parametrize("n", [23, 64, 65, 192, 257])


# Who takes the step, and the type of θ: compiled code is for single precision.
paths = pytest.mark.parametrize(
    ("kernel", "dtype"), [("torch", DOUBLE), ("torch", torch.float32), ("native", torch.float32)], indirect=["kernel"]
)
# How far θ in [0, 1] may be from the dense step in double precision.
EXACT = {DOUBLE: 1e-12, torch.float32: 2e-6}


def cast(pairs, dtype):
    return FactorPairs(tuple((u.to(dtype), v.to(dtype)) for u, v in pairs.pairs), pairs.degree.to(dtype))


def randn(*shape, seed=0, dtype=DOUBLE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(dtype)


def thin(rows, r, n=N, seed=0):
    """A side with zero rows but for a few."""
    side = torch.zeros(n, r, dtype=DOUBLE)
    side[rows] = randn(len(rows), r, seed=seed)
    return side


def gradients(n=N):
    """Factor pairs of every kind: their thin sides left or right, nested, disjoint, none, with nothing, dense."""
    few, more, others = [2, 3, 11], [2, 3, 11, 12], [0, 7, 22]
    all_rows = list(range(n))
    kinds = {
        "none": [],
        "dense": [(randn(n, 4), randn(n, 4, seed=1))],
        "thin left": [(thin(few, 3, n), randn(n, 3, seed=1))],
        "thin right": [(randn(n, 3, seed=1), thin(few, 3, n))],
        "both sides thin": [
            (thin(few, 3, n), thin(others, 3, n, seed=1)),
            (thin(more, 1, n), thin(more, 1, n, seed=1)),
        ],
        "merged": [(thin(more, 2, n), randn(n, 2, seed=1)), (randn(n, 3, seed=2), thin([*more, 13], 3, n, seed=3))],
        "nested": [(thin(few, 2, n), randn(n, 2, seed=1)), (thin([*more, 5, 6, 8], 2, n, seed=4), randn(n, 2, seed=3))],
        "disjoint": [(thin(few, 2, n), randn(n, 2, seed=1)), (thin(others, 2, n, seed=2), randn(n, 2, seed=3))],
        "just thin": [(thin(all_rows[: n // 2], 2, n), randn(n, 2, seed=1))],
        "just dense": [(thin(all_rows[: n // 2 + 1], 2, n), randn(n, 2, seed=1))],
        "zero": [(torch.zeros(n, 2, dtype=DOUBLE), randn(n, 2))],
        "last row": [(thin([n - 1], 2, n), randn(n, 2, seed=1))],
    }
    kinds["everything"] = [pair for pairs in kinds.values() for pair in pairs]
    return kinds


def pairs_of(kind, n=N, *, scale=0.1, degree=True):
    q = randn(n, seed=9) if degree else torch.zeros(n, dtype=DOUBLE)
    return FactorPairs(tuple((scale * u, v) for u, v in gradients(n)[kind]), scale * q)


def dense_gradient(pairs):
    """∂f/∂θ_ij = G_ij + G_ji from the definition, G = Σ U Vᵀ + q 1ᵀ."""
    g = pairs.degree[:, None] * torch.ones(1, pairs.degree.numel(), dtype=pairs.degree.dtype)
    for left, right in pairs.pairs:
        g = g + left @ right.T
    return (g + g.T).fill_diagonal_(0)


@paths
@sizes
@pytest.mark.usefixtures("kernel")
class TestProjection:
    @pytest.mark.parametrize("kind", gradients().keys())
    def test_equals_the_dense_step(self, n, dtype, kind):
        for degree in (True, False):
            pairs = cast(pairs_of(kind, n, degree=degree), dtype)
            structure = structure_of(theta("random", n, dtype=dtype))
            expected = structure.to_dense().double()
            for lr in (0.7, 0.2):
                structure.project_(pairs, lr)
                expected = (expected - lr * dense_gradient(cast(pairs, DOUBLE))).clamp(0, 1)
                torch.testing.assert_close(structure.to_dense().double(), expected, rtol=0, atol=EXACT[dtype])
            total = float(expected.triu(1).sum())
            assert structure.expected_edges == pytest.approx(total, rel=EXACT[dtype], abs=EXACT[dtype])

    def test_clips_at_both_ends(self, n, dtype):
        structure = structure_of(theta("random", n, dtype=dtype))
        pairs = cast(pairs_of("everything", n, scale=100.0), dtype)
        structure.project_(pairs, 1.0)
        upper = torch.triu_indices(n, n, 1)
        found = structure.to_dense()[upper[0], upper[1]]
        assert bool(((found == 0) | (found == 1)).float().mean() > 0.9)
        assert bool((found == 0).any())
        assert bool((found == 1).any())
        assert not structure.to_dense().diagonal().any()

    def test_a_step_of_size_zero(self, n, dtype):
        structure = structure_of(theta("random", n, dtype=dtype))
        before = structure.state()
        structure.project_(cast(pairs_of("everything", n), dtype), 0.0)
        assert torch.equal(structure.state(), before)

    def test_draws_follow_the_step(self, n, dtype):
        structure = structure_of(theta("random", n, dtype=dtype))
        everything = FactorPairs((), torch.full((n,), -1.0, dtype=dtype))
        structure.project_(everything, 1.0)
        assert structure.expected_edges == n * (n - 1) / 2
        assert structure.draw().num_edges == n * (n - 1) // 2
        structure.project_(everything, -1.0)
        assert structure.expected_edges == 0
        assert structure.draw().num_edges == 0


@paths
@sizes
@pytest.mark.usefixtures("kernel")
class TestStorage:
    def test_edges_start_with_probability_one(self, n, dtype):
        edge_index = torch.tensor([[1, 5, 5, n - 1, 0, 3, 7], [5, 1, 1, 0, n - 1, 3, 6]])
        structure = AllPairs(n, edge_index, dtype=dtype)
        expected = torch.zeros(n, n, dtype=dtype)
        for i, j in ((1, 5), (0, n - 1), (6, 7)):
            expected[i, j] = expected[j, i] = 1
        assert torch.equal(structure.to_dense(), expected)
        assert structure.expected_edges == 3
        assert structure.dtype == dtype
        graph = structure.draw()
        assert torch.equal(dense_adjacency(graph), expected)

    def test_edges_above_a_threshold(self, n, dtype):
        p = theta("random", n, dtype=dtype)
        structure = structure_of(p)
        for threshold in (0.0, 0.3, 0.9):
            pairs, probability = structure.edges(threshold)
            assert torch.equal(pairs, (p.triu(1) > threshold).nonzero().T)  # Sorted by row, then by column.
            assert torch.equal(probability, p[pairs[0], pairs[1]])
        assert structure.edges(1.0)[0].shape == (2, 0)
        assert torch.equal(structure.edges(-1.0)[0], torch.ones(n, n).triu(1).nonzero().T)  # All pairs, no padding.

    def test_state_goes_back(self, n, dtype):
        structure = structure_of(theta("random", n, dtype=dtype))
        dense, state = structure.to_dense(), structure.state()
        structure.project_(cast(pairs_of("everything", n), dtype), 1.0)
        structure.project_(FactorPairs((), torch.ones(n, dtype=dtype)), 1.0)
        assert structure.draw().num_edges == 0
        structure.restore_(state)
        assert torch.equal(structure.to_dense(), dense)
        assert structure.expected_edges == pytest.approx(float(dense.double().triu(1).sum()), rel=EXACT[dtype])
        assert structure.draw().num_edges > 0
        state.zero_()
        assert torch.equal(structure.to_dense(), dense)

    def test_draws_have_the_probabilities(self, n, dtype):
        p = theta("sparse", n, dtype=dtype)
        p[4, 5:] = p[5:, 4] = 1
        p[6, 7:] = p[7:, 6] = 0
        structure = structure_of(p)
        torch.manual_seed(0)
        rounds = 400
        total = torch.zeros(n, n, dtype=dtype)
        for _ in range(rounds):
            graph = structure.draw()
            assert bool((graph.row < graph.col).all())
            assert bool((graph.weight == 1).all())
            a = dense_adjacency(graph)
            assert int(a.sum()) == 2 * graph.num_edges, "an edge came twice"
            total += a
        upper = p.double().triu(1)
        certain = (upper == 0) | (upper == 1)
        assert torch.equal(total.triu(1)[certain], rounds * upper[certain])
        inside, found = upper[~certain], total.triu(1)[~certain]
        spread = float(((found - rounds * inside) ** 2 / (rounds * inside * (1 - inside))).sum())
        assert 1e-3 < stats.chi2.sf(spread, inside.numel()) < 1 - 1e-3


@pytest.mark.usefixtures("kernel")
@paths
def test_draws_are_those_of_the_seed(dtype):
    structure = structure_of(theta("random", N, dtype=dtype))

    def draw(seed):
        torch.manual_seed(seed)
        return dense_adjacency(structure.draw())

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("kernel", ["torch", "native"], indirect=True)
def test_entries_around_the_cut_are_drawn():
    """Those of 1/4 are thinned, and the next number above is drawn by itself: none is in both, and none in neither."""
    for p in (torch.tensor(0.25), torch.tensor(0.25).nextafter(torch.tensor(1.0))):
        structure = structure_of(torch.full((40, 40), float(p)))
        torch.manual_seed(0)
        edges = sum(structure.draw().num_edges for _ in range(200))
        assert stats.binomtest(edges, 200 * 780, 0.25).pvalue > 1e-3


class TestStatesOfOthers:
    def old(self, p):
        """θ as versions before the tiles stored it: blocks of 192 rows with the columns from their first row on."""
        n = p.shape[0]
        return torch.cat([p.triu(1)[k : k + 192, k:].flatten() for k in range(0, n, 192)])

    @pytest.mark.parametrize("n", [1, 5, 64, 191, 192, 193, 400])
    def test_those_of_earlier_versions_are_read(self, n):
        p = theta("random", n)
        structure = AllPairs(n, NO_EDGES, dtype=DOUBLE)
        structure.restore_(self.old(p))
        assert torch.equal(structure.to_dense(), p)
        assert structure.expected_edges == pytest.approx(float(p.triu(1).sum()))

    @pytest.mark.parametrize("shape", [(0,), (7,), (2, 2048), (4095,), (4097,)])
    def test_those_of_another_size_are_refused(self, shape):
        structure = structure_of(theta("random", N))
        before = structure.state()
        with pytest.raises(InputError, match=r"θ of 23 nodes must have 4096 numbers, got shape \("):
            structure.restore_(torch.zeros(shape))
        assert torch.equal(structure.state(), before)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.1])
    def test_those_that_are_no_probabilities_are_refused(self, bad):
        structure = structure_of(theta("random", N))
        before = structure.state()
        state = before.clone()
        state[77] = bad
        with pytest.raises(InputError, match=r"probabilities in \[0, 1\], but holds others"):
            structure.restore_(state)
        assert torch.equal(structure.state(), before)

    @pytest.mark.usefixtures("kernel")
    @pytest.mark.parametrize("kernel", ["torch", "native"], indirect=True)
    @pytest.mark.parametrize("n", [3, 64, 100, 150])
    def test_what_lies_outside_of_the_triangle_does_not_count(self, n):
        structure = AllPairs(n, NO_EDGES)
        structure.restore_(torch.ones_like(structure.state()))
        assert structure.expected_edges == n * (n - 1) / 2
        graph = structure.draw()
        assert graph.num_edges == n * (n - 1) // 2
        assert int(graph.col.max()) < n
        assert bool((graph.row < graph.col).all())


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("kernel", ["torch", "native"], indirect=True)
def test_one_node():
    structure = AllPairs(1, NO_EDGES)
    assert structure.draw().num_edges == 0
    structure.project_(FactorPairs((), torch.ones(1)), -1.0)
    assert structure.expected_edges == 0
    assert torch.equal(structure.to_dense(), torch.zeros(1, 1))
    assert torch.equal(structure.draw().propagate(torch.ones(1, 2)), torch.ones(1, 2))


@pytest.mark.parametrize(
    ("num_nodes", "edge_index", "message"),
    [
        (0, NO_EDGES, "at least one node, got num_nodes=0"),
        (3, torch.tensor([[0], [3]]), r"node numbers in 0..2, got 0 to 3"),
        (3, torch.tensor([[-1], [2]]), r"node numbers in 0..2, got -1 to 2"),
        (3, torch.tensor([0, 1]), r"shape \[2, E\], got torch.int64 of shape \(2,\)"),
        (3, torch.tensor([[0, 1, 2]]), r"of shape \(1, 3\)"),
        (3, torch.tensor([[0.0], [1.0]]), "got torch.float32"),
    ],
)
def test_bad_arguments(num_nodes, edge_index, message):
    with pytest.raises(InputError, match=message):
        AllPairs(num_nodes, edge_index)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_canonical_pairs_of_narrow_integers(dtype):
    """row·N + col must not wrap around."""
    n = {torch.uint8: 250, torch.int16: 30_000}.get(dtype, 100_000)
    row, col = canonical_pairs(torch.tensor([[n - 1, 3, 3, 7], [n - 2, 9, 3, n - 1]], dtype=dtype), n)
    assert row.tolist() == [3, 7, n - 2]
    assert col.tolist() == [9, n - 1, n - 1]


class TestGroups:
    def test_pairs_are_sorted_into_groups(self):
        def rows_of(kind):
            groups, left, right, _ = pairs_of(kind).groups()
            assert left.shape == right.shape
            return [group.rows.tolist() for group in groups], left.shape[1] - 2

        assert rows_of("none") == ([], 0)
        assert rows_of("dense") == ([], 8)
        assert rows_of("thin left") == ([[2, 3, 11]], 0)
        assert rows_of("thin right") == ([[2, 3, 11]], 0)
        assert rows_of("merged") == ([[2, 3, 11, 12, 13]], 0)
        assert rows_of("disjoint") == ([[2, 3, 11], [0, 7, 22]], 0)
        assert rows_of("zero") == ([], 0)
        assert rows_of("just thin")[1] == 0
        assert rows_of("just dense") == ([], 4)

    def test_at_of_no_pairs(self):
        grad = FactorPairs((), torch.arange(N, dtype=DOUBLE))
        row, col = torch.tensor([1, 2]), torch.tensor([5, 3])
        assert grad.at(row, col).tolist() == [6.0, 5.0]
        assert grad.at(row[:0], col[:0]).shape == (0,)

    def test_at_and_dense_are_the_definition(self):
        pairs = pairs_of("everything")
        row, col = torch.triu_indices(N, N, 1)
        torch.testing.assert_close(pairs.to_dense(), dense_gradient(pairs), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(pairs.at(row, col), dense_gradient(pairs)[row, col], rtol=1e-12, atol=1e-12)

    def test_at_goes_in_chunks(self):
        pairs = FactorPairs(((randn(400, 1), randn(400, 1, seed=1)),), randn(400, seed=2))
        row, col = torch.triu_indices(400, 400, 1)
        assert row.numel() > 1 << 16
        torch.testing.assert_close(pairs.at(row, col), dense_gradient(pairs)[row, col], rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("kernel")
@paths
def test_the_same_theta_and_seed_draw_the_same_graph_whatever_came_before(dtype):
    """What a step leaves is what `restore_` makes, to the last bit: one draws from either after a resume."""
    structure = structure_of(theta("sparse", 30, dtype=dtype))
    step = cast(FactorPairs(((randn(30, 2), randn(30, 2, seed=1)),), randn(30)), dtype)
    structure.project_(step, 0.01)
    state, edges, sums = structure.state(), structure.expected_edges, structure._sampler._ends
    torch.manual_seed(0)
    before = structure.draw()
    structure.project_(step, 0.3)
    structure.restore_(state)
    torch.manual_seed(0)
    after = structure.draw()
    assert torch.equal(before.row, after.row)
    assert torch.equal(before.col, after.col)
    assert structure.expected_edges == edges
    assert torch.equal(structure._sampler._ends, sums)


@pytest.mark.usefixtures("kernel")
@paths
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["left", "right", "degree"])
def test_a_gradient_that_is_not_finite_leaves_theta_alone(bad, where, dtype):
    structure = structure_of(theta("random", N, dtype=dtype))
    before = structure.to_dense()
    parts = {"left": thin([3, 4], 2), "right": randn(N, 2), "degree": randn(N)}
    parts[where].view(-1)[7] = bad
    gradient = cast(FactorPairs(((parts["left"], parts["right"]),), parts["degree"]), dtype)
    with pytest.raises(NumericalError, match="NaN or infinity"):
        structure.project_(gradient, 0.1)
    assert torch.equal(structure.to_dense(), before)


@pytest.mark.usefixtures("kernel")
@paths
@pytest.mark.parametrize("kind", gradients().keys())
def test_a_step_that_overflows_leaves_theta_alone(kind, dtype):
    limit = torch.finfo(dtype).max
    pairs = pairs_of(kind)
    pairs = FactorPairs(tuple((u.to(dtype), v.to(dtype)) for u, v in pairs.pairs), pairs.degree.to(dtype))
    structure = structure_of(theta("random", N).to(dtype))
    before = structure.state()
    for lr in (limit, -limit, 1e308):
        with pytest.raises(NumericalError, match=rf"a step of θ must be finite in {dtype}, .* lower the outer"):
            structure.project_(pairs, lr)
        assert torch.equal(structure.state(), before)
    structure.project_(pairs, limit * 1e-8)
    assert bool(((structure.state() == 0) | (structure.state() == 1)).any())
    assert math.isfinite(structure.expected_edges)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("kernel", ["torch", "native"], indirect=True)
def test_a_large_step_along_a_product_of_a_large_and_a_small_factor():
    """The step times the large factor overflows; the step times the product does not."""
    structure = structure_of(theta("random", N).float())
    before = structure.to_dense()
    left, right = thin([2], 1).float().sign() * 1e30, torch.full((N, 1), 1e-42)
    structure.project_(FactorPairs(((left, right),), torch.zeros(N)), 1e10)
    expected = (
        before.double() - 1e10 * dense_gradient(cast(FactorPairs(((left, right),), torch.zeros(N)), DOUBLE))
    ).clamp(0, 1)
    torch.testing.assert_close(structure.to_dense().double(), expected, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("kernel", ["torch", "native"], indirect=True)
def test_products_that_overflow_leave_theta_alone():
    """However small the step: the product is computed first."""
    structure = structure_of(theta("random", N).float())
    before = structure.state()
    with pytest.raises(NumericalError, match="must be finite"):
        structure.project_(FactorPairs(((torch.full((N, 1), 1e20), torch.full((N, 1), 1e20)),), torch.zeros(N)), 1e-30)
    assert torch.equal(structure.state(), before)


@pytest.mark.parametrize("kind", gradients().keys())
def test_the_bound(kind):
    pairs = pairs_of(kind)
    assert pairs.groups()[-1] >= dense_gradient(pairs).abs().max()
