"""Random numbers by place: those of splitmix64, uniform, and independent over counters and keys."""

import numpy as np
import pytest
import torch
from scipy import stats

from lds._hash import draw_key, uniform

MANY = 200_000


def test_is_splitmix64():
    """The first numbers of the generator that starts at 1234567, as the tests of other packages have them."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    expected = torch.tensor([(z >> 11) * 2.0**-53 for z in known], dtype=torch.float64)
    assert torch.equal(uniform(1234567, torch.arange(1, 6)), expected)


def test_a_subset_has_its_own_numbers():
    every = uniform(7, torch.arange(100_000).view(100, 1000))
    places = torch.randperm(100_000, generator=torch.Generator().manual_seed(0))[:40_000]
    assert every.dtype == torch.float64
    assert torch.equal(uniform(7, places), every.flatten()[places])
    assert torch.equal(uniform(7, places.int()), every.flatten()[places])
    assert uniform(7, places[:0]).shape == (0,)


@pytest.mark.parametrize("key", [0, 1, (1 << 63) - 1])
@pytest.mark.parametrize("stride", [1, 16, 1 << 31])
def test_uniform(key, stride):
    found = uniform(key, stride * torch.arange(MANY)).numpy()
    assert found.min() >= 0
    assert found.max() < 1
    assert stats.kstest(found, "uniform").pvalue > 1e-4
    # Each of the first 20 binary digits is a fair coin.
    digits = (np.floor(found * 2**20).astype(np.int64)[:, None] >> np.arange(20)) & 1
    z = (digits.sum(0) - MANY / 2) / (MANY / 4) ** 0.5
    assert abs(z).max() < 4.5


def independent(one, other, bins=16):
    """Return the p value of a chi-square test on a table of both."""
    table = np.histogram2d(one, other, bins=bins, range=[[0, 1], [0, 1]])[0]
    return stats.chisquare(table.ravel()).pvalue


@pytest.mark.parametrize("lag", [1, 2, 500, 65_536])
def test_counters_are_independent(lag):
    found = uniform(3, torch.arange(MANY + lag)).numpy()
    assert independent(found[:-lag], found[lag:]) > 1e-4


@pytest.mark.parametrize("keys", [(0, 1), (5, 1 << 40), (draw_key(), draw_key())])
def test_keys_are_independent(keys):
    counters = torch.arange(MANY)
    assert independent(*(uniform(key, counters).numpy() for key in keys)) > 1e-4


def test_steps_are_independent():
    """The same pair in steps that follow one another, with keys as a draw has them."""
    torch.manual_seed(0)
    found = torch.stack([uniform(draw_key(), torch.arange(50)) for _ in range(4000)]).numpy()
    assert independent(found[:-1].ravel(), found[1:].ravel()) > 1e-4
    assert stats.kstest(found[:, 0], "uniform").pvalue > 1e-4


def test_keys_are_those_of_the_generator():
    torch.manual_seed(1)
    first = [draw_key() for _ in range(100)]
    torch.manual_seed(1)
    assert first == [draw_key() for _ in range(100)]
    assert len(set(first)) == 100
    assert min(first) >= 0
    assert max(first) > 1 << 62
