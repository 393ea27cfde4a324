"""The compiled step and draws: exact, by the law of θ, within their arrays; and which path is taken."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lds import _kernel
from lds.errors import InputError
from lds.graph import AllPairs, FactorPairs
from lds.graph import _native_step as native
from tests.graph.oracles import dense_adjacency, normalise, structure_of, theta
from tests.oracles import DOUBLE

ROOT = Path(__file__).resolve().parents[2]
NO_EDGES = torch.zeros(2, 0, dtype=torch.int64)
compiled = pytest.mark.skipif(
    _kernel.library() is None, reason="the compiled part of lds is not built: python setup.py build_ext --inplace"
)
# Those that this processor can run.
FORMS = range(_kernel.library().lds_form() + 1) if _kernel.library() else [0]


@pytest.fixture(autouse=True)
def native_where_there_is_one(monkeypatch):
    monkeypatch.delenv(_kernel.VARIABLE, raising=False)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some_gradient(n, widths, share, seed):
    """Factor pairs whose sides have about this share of rows that are not zero, left and right in turn."""
    pairs = []
    for k, width in enumerate(widths):
        u, v = randn(2, n, width, seed=seed + k) / 8
        u = u * (torch.rand(n, 1, generator=torch.Generator().manual_seed(seed + k)) < share)
        pairs.append((u, v) if k % 2 else (v, u))
    return FactorPairs(tuple(pairs), randn(n, seed=seed + 99) / 8)


def dense_step(p, gradient, lr):
    g = gradient.degree.double()[:, None].repeat(1, len(p))
    for u, v in gradient.pairs:
        g += u.double() @ v.double().T
    return (p.double() - lr * (g + g.T)).clamp(0, 1).fill_diagonal_(0)


@compiled
class TestStep:
    @pytest.mark.parametrize("form", FORMS)
    @settings(max_examples=40, deadline=None)
    @given(
        n=st.integers(1, 300),
        widths=st.lists(st.integers(0, 210), max_size=4),
        share=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
        lr=st.sampled_from([0.0, 0.3, -0.3, 1.0]),
        seed=st.integers(0, 1000),
    )
    def test_equals_the_dense_step(self, form, n, widths, share, lr, seed):
        structure = structure_of(theta("random", n, dtype=torch.float32, seed=seed))
        p, gradient = structure.to_dense(), some_gradient(n, widths, share, seed)
        sums = native.native_step_(structure._theta, structure._tiles, gradient, lr, form=form)
        expected = dense_step(p, gradient, lr)
        found = structure.to_dense().double()
        # Hundreds of products of two numbers of 1/8 a pair, of single precision.
        torch.testing.assert_close(found, expected, rtol=0, atol=3e-6)
        upper = found.triu(1)
        assert sums.total == pytest.approx(float(upper.sum()), rel=1e-6, abs=1e-6)
        row, col = structure._tiles.pairs(sums.large)
        assert torch.equal(torch.stack([row, col]).unique(dim=1), (upper > 0.25).nonzero().T)
        assert float(sums.small.sum()) == pytest.approx(float(upper[upper <= 0.25].sum()), rel=1e-5, abs=1e-5)

    @pytest.mark.skipif(len(FORMS) < 3, reason="the processor has no AVX-512")
    def test_wider_vectors_leave_the_bits(self):
        n, found = 300, []
        for form in (1, 2):
            structure = structure_of(theta("random", n, dtype=torch.float32))
            gradient = some_gradient(n, [16, 7, 300], 0.6, 0)
            found.append(
                (structure._theta, native.native_step_(structure._theta, structure._tiles, gradient, 0.3, form=form))
            )
        (one, sums), (other, again) = found
        assert torch.equal(one, other)
        assert torch.equal(sums.small, again.small)
        assert torch.equal(sums.large, again.large)
        assert sums.total == again.total

    def test_threads_leave_the_bits(self, monkeypatch):
        n, states = 1500, []
        gradient = some_gradient(n, [16, 7, 16], 0.2, 0)
        for threads in (1, 2, 3):
            monkeypatch.setattr(native, "_threads", lambda tiles, threads=threads: threads)
            structure = AllPairs(n, torch.randint(n, (2, 3 * n), generator=torch.Generator().manual_seed(0)))
            structure.project_(gradient, 1.0)
            states.append((structure.state(), structure.expected_edges))
        assert all(torch.equal(state, states[0][0]) and edges == states[0][1] for state, edges in states)

    @pytest.mark.parametrize("shapes", [((22, 2), (23, 2)), ((23, 2), (23, 3)), ((24, 2), (24, 2)), ((23,), (23,))])
    def test_factors_of_another_shape(self, shapes):
        structure = structure_of(theta("random", 23, dtype=torch.float32))
        before = structure.state()
        with pytest.raises(InputError, match=r"must both be of shape \[23, r\], got .*; give one row per node"):
            structure.project_(FactorPairs((tuple(map(torch.ones, shapes)),), torch.zeros(23)), 1.0)
        assert torch.equal(structure.state(), before)

    def test_what_autograd_and_views_hand_over(self):
        structure = structure_of(theta("random", 70, dtype=torch.float32))
        p = structure.to_dense()
        u, v = randn(3, 70).T.requires_grad_(), randn(70, 6)[:, ::2]
        structure.project_(FactorPairs(((u, v), (u.detach()[:, :1].expand(70, 3), v)), randn(70)), 0.1)
        expected = dense_step(p, FactorPairs(((u.detach(), v), (u.detach()[:, :1].expand(70, 3), v)), randn(70)), 0.1)
        torch.testing.assert_close(structure.to_dense().double(), expected, rtol=0, atol=1e-6)


# Many of a kind in one tile, and some in others; 1e-45 is the smallest number that there is.
VALUES = (0.0, 1e-45, 1e-7, 1e-3, 0.02, 0.2, 0.25 - 1e-6, 0.25, 0.25 + 1e-6, 0.5, 0.97, 1.0)
ROUNDS = 3000


@pytest.fixture(scope="module")
def sampled():
    n = 70
    upper = torch.triu_indices(n, n, 1)
    p = torch.zeros(n, n)
    p[upper[0], upper[1]] = torch.tensor(VALUES)[torch.arange(upper.shape[1]) % len(VALUES)]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(_kernel.VARIABLE, raising=False)
        structure = structure_of(p + p.T)
    assert structure.kernel == "native"
    hits = torch.zeros(ROUNDS, upper.shape[1], dtype=torch.bool)
    torch.manual_seed(0)
    for k in range(ROUNDS):
        hits[k] = dense_adjacency(structure.draw())[upper[0], upper[1]] == 1
    return p[upper[0], upper[1]].double(), hits


@compiled
class TestDraws:
    def test_marginals(self, sampled):
        p, hits = sampled
        for value in p.unique().tolist():
            group = hits[:, p == value]
            if value in (0.0, 1.0) or value < 1e-40:
                assert float(group.float().mean()) == round(value)
                continue
            assert stats.binomtest(int(group.sum()), group.numel(), value).pvalue > 1e-3
            if value > 1e-4:
                counts, mean = group.sum(0).double(), ROUNDS * value
                spread = float(((counts - mean) ** 2 / (mean * (1 - value))).sum())
                assert 1e-3 < stats.chi2.sf(spread, group.shape[1]) < 1 - 1e-3

    def test_independence_of_pairs(self, sampled):
        p, hits = sampled
        inside = ((p > 0.01) & (p < 1)).nonzero().flatten()[:400]
        z = (hits[:, inside].double() - p[inside]) / (p[inside] * (1 - p[inside])).sqrt()
        row, col = torch.triu_indices(400, 400, 1)
        correlations = (z.T @ z / ROUNDS**0.5)[row, col].numpy()
        # Of small ones the products are far from normal one by one, so only their sum of squares is looked at.
        assert abs((correlations**2).mean() - 1) < 0.03

    def test_totals(self, sampled):
        p, hits = sampled
        totals = hits.sum(1).double()
        mean, variance = float(p.sum()), float((p * (1 - p)).sum())
        assert abs(float(totals.mean()) - mean) < 4 * (variance / ROUNDS) ** 0.5
        assert abs(float(totals.var()) / variance - 1) < 4 * (2 / ROUNDS) ** 0.5

    def test_few_entries_jointly(self):
        """Three pairs at the cut, which are hit more than once each in most draws."""
        structure = structure_of(torch.full((3, 3), 0.25))
        torch.manual_seed(0)
        counts = [0] * 8
        for _ in range(4000):
            graph = structure.draw()
            assert graph.num_edges == len(set(zip(graph.row.tolist(), graph.col.tolist(), strict=True)))
            counts[int((2 ** (graph.row + graph.col - 1)).sum())] += 1
        expected = [4000 * 0.25 ** bin(k).count("1") * 0.75 ** (3 - bin(k).count("1")) for k in range(8)]
        assert stats.chisquare(counts, expected).pvalue > 1e-3

    @pytest.mark.parametrize("n", [1, 2, 64, 65, 200])
    @pytest.mark.parametrize("kind", ["sparse", "isolated", "complete", "empty"])
    def test_the_graph_is_normalised(self, n, kind):
        torch.manual_seed(0)
        graph = structure_of(theta(kind, n, dtype=torch.float32)).draw()
        a = dense_adjacency(graph).double()
        torch.testing.assert_close(graph.normalised.to_dense().double(), normalise(a), rtol=1e-6, atol=1e-7)
        assert torch.equal(graph.degree.double(), a.sum(1) + 1)
        torch.testing.assert_close(graph.scale.double(), graph.degree.double().rsqrt(), rtol=1e-6, atol=0)
        x = randn(n, 3)
        torch.testing.assert_close(graph.propagate(x).double(), normalise(a) @ x.double(), rtol=1e-5, atol=1e-6)
        assert bool((graph.weight == 1).all())


def guarded(*args):
    command = [sys.executable, "-m", "tests.graph.guarded", *args]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )


@compiled
@pytest.mark.skipif(sys.platform == "win32", reason="pages are guarded by mprotect")
class TestArrays:
    @pytest.mark.parametrize("place", ["high", "low"])
    def test_nothing_outside_is_touched(self, place):
        done = guarded(place, "0")
        assert done.returncode == 0, done.stderr[-2000:]

    def test_a_touch_would_be_noticed(self):
        done = guarded("beyond", "0")
        assert done.returncode in (-signal.SIGSEGV, -signal.SIGBUS)


class TestPath:
    def test_the_variable_decides(self, monkeypatch):
        monkeypatch.setenv(_kernel.VARIABLE, "torch")
        assert AllPairs(3, NO_EDGES).kernel == "torch"
        monkeypatch.setenv(_kernel.VARIABLE, "fast")
        with pytest.raises(InputError, match="LDS_KERNEL must be native or torch, got 'fast'; unset it"):
            AllPairs(3, NO_EDGES)

    def test_there_may_be_no_compiled_code(self, monkeypatch):
        monkeypatch.setattr(_kernel, "library", lambda: None)
        assert AllPairs(3, NO_EDGES).kernel == "torch"
        monkeypatch.setenv(_kernel.VARIABLE, "native")
        with pytest.raises(InputError, match="needs the compiled part of lds, but there is none; install lds where"):
            AllPairs(3, NO_EDGES)

    @compiled
    def test_double_precision_takes_that_of_torch(self):
        assert AllPairs(3, NO_EDGES).kernel == "native"
        assert AllPairs(3, NO_EDGES, dtype=DOUBLE).kernel == "torch"

    @pytest.mark.parametrize("content", ["", "no library"])
    def test_code_that_cannot_be_opened_is_none(self, monkeypatch, tmp_path, content):
        path = tmp_path / "code.so"
        path.write_text(content)

        class Spec:
            origin = str(path)

        monkeypatch.setattr(_kernel, "find_spec", lambda name: Spec)
        assert _kernel.library.__wrapped__() is None
