"""The thinning sampler against the distribution that it claims; every seed is fixed, so no test is flaky."""

import numpy as np
import pytest
import torch
from scipy import stats

from lds.graph._thinning import CUT, ThinningSampler, sums_of

COUNT = 8000


def sampler_of(p, side=8):
    """A sampler of a vector, in segments of `side` entries; zeros fill up the last one."""
    segments = torch.cat([p, p.new_zeros(-p.numel() % side)]).view(-1, side)
    return ThinningSampler(segments, sums_of(segments))


def draws(sampler, count, seed=0):
    """`count` draws as a boolean matrix [count, M]."""
    torch.manual_seed(seed)
    hits = torch.zeros(count, sampler._segments.numel(), dtype=torch.bool)
    for k in range(count):
        hits[k, sampler.draw()] = True
    return hits


VALUES = (0.0, 1e-3, 0.02, CUT - 1e-6, CUT, CUT + 1e-6, 0.3, 0.5, 0.97, 1.0)


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def sampled(request):
    """Ten entries of each probability, spread over the vector."""
    p = torch.tensor(VALUES, dtype=torch.float64).repeat(10).to(request.param)
    return p.double(), draws(sampler_of(p), COUNT)[:, : p.numel()]


class TestDistribution:
    def test_marginals(self, sampled):
        p, hits = sampled
        for value in p.unique().tolist():
            group = hits[:, p == value]
            if value in (0.0, 1.0):
                assert bool(group.all()) is (value == 1.0)
                assert bool(group.any()) is (value == 1.0)
                continue
            assert stats.binomtest(int(group.sum()), group.numel(), value).pvalue > 1e-3
            counts = group.sum(0).numpy()
            spread = ((counts - COUNT * value) ** 2).sum() / (COUNT * value * (1 - value))
            assert 1e-3 < stats.chi2.sf(spread, 10) < 1 - 1e-3

    def test_independence_of_pairs(self, sampled):
        p, hits = sampled
        # For smaller ones, which hardly ever meet, the sums are not normal; the variance of the total covers them.
        inside = (p > 0.05) & (p < 1)
        p, x = p[inside].numpy(), hits[:, inside].double().numpy()
        z = (x - p) / np.sqrt(p * (1 - p))
        correlations = (z.T @ z / np.sqrt(COUNT))[np.triu_indices(p.size, 1)]
        assert abs(correlations).max() < stats.norm.isf(1e-3 / correlations.size)
        assert 1e-3 < stats.chi2.sf((correlations**2).sum(), correlations.size) < 1 - 1e-3

    def test_total(self, sampled):
        p, hits = sampled
        totals = hits.sum(1).double().numpy()
        mean, variance = float(p.sum()), float((p * (1 - p)).sum())
        assert abs(totals.mean() - mean) < 4 * np.sqrt(variance / COUNT)
        # The variance of a sum of Bernoulli's is close to normal: its estimate has relative deviation √(2/COUNT).
        assert abs(totals.var(ddof=1) / variance - 1) < 4 * np.sqrt(2 / COUNT)


def test_many_tiny_probabilities():
    """A million entries of 1e-6, with larger ones among them: a sampler of single precision would miss them."""
    m = 1_000_000
    p = torch.full((m,), 1e-6)
    p[::1000] = 1e-4
    sampler = sampler_of(p, 64)
    torch.manual_seed(0)
    tiny, small, rounds = 0, 0, 300
    for _ in range(rounds):
        positions = sampler.draw()
        at_small = int((positions % 1000 == 0).sum())
        small += at_small
        tiny += positions.numel() - at_small
    for found, count, value in ((tiny, m - 1000, 1e-6), (small, 1000, 1e-4)):
        assert stats.binomtest(found, count * rounds, float(torch.tensor(value))).pvalue > 1e-3


def test_an_entry_drawn_by_several_proposals_counts_once():
    """Few entries at the cut: most draws hold the same entry more than once."""
    hits = draws(sampler_of(torch.full((3,), CUT), 3), 4000)
    counts = torch.bincount((hits * torch.tensor([1, 2, 4])).sum(1), minlength=8).numpy()
    drawn = np.array([bin(k).count("1") for k in range(8)])
    assert stats.chisquare(counts, 4000 * CUT**drawn * (1 - CUT) ** (3 - drawn)).pvalue > 1e-3


def test_positions_are_distinct():
    p = torch.rand(500, generator=torch.Generator().manual_seed(0)) * 0.2
    sampler = sampler_of(p)
    torch.manual_seed(0)
    for _ in range(50):
        positions = sampler.draw()
        assert positions.dtype == torch.int64
        assert positions.unique().numel() == positions.numel()


def test_the_seed_decides():
    sampler = sampler_of(torch.rand(500, generator=torch.Generator().manual_seed(0)) * 0.2)
    first, again, other = draws(sampler, 5, seed=1), draws(sampler, 5, seed=1), draws(sampler, 5, seed=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_nothing_and_everything(value):
    hits = draws(sampler_of(torch.full((48,), value)), 20)
    assert bool(hits.all()) is bool(value)
    assert bool(hits.any()) is bool(value)


def test_sums():
    p = torch.tensor([[0.0, 0.25, 0.5, 0.125], [0.0] * 4, [1.0] * 4])
    sums = sums_of(p)
    assert sums.small.tolist() == [0.375, 0.0, 0.0]
    assert sums.large.tolist() == [2, 8, 9, 10, 11]
    assert sums.total == 4.875


@pytest.mark.parametrize("tiny", [1e-45, 1e-38, 1e-12])
def test_hardly_anything(tiny):
    """Sums of the smallest numbers that there are."""
    assert not draws(sampler_of(torch.full((48,), tiny)), 50).any()
