import numpy as np
import pytest
import torch

from lds.data.splits import MASKS, halve, stratified


@pytest.mark.parametrize(("count", "sizes"), [(500, (250, 250)), (7, (3, 4)), (0, (0, 0))])
def test_halve_parts_the_mask(count: int, sizes: tuple[int, int]) -> None:
    mask = torch.zeros(600, dtype=torch.bool)
    mask[50 : 50 + count] = True
    first, second = halve(mask, seed=0)
    assert (int(first.sum()), int(second.sum())) == sizes
    assert torch.equal(first ^ second, mask)
    assert not (first & second).any()


def test_halve_follows_the_seed_and_mixes() -> None:
    mask = torch.ones(100, dtype=torch.bool)
    first, _ = halve(mask, seed=0)
    assert torch.equal(first, halve(mask, seed=0)[0])
    assert not torch.equal(first, halve(mask, seed=1)[0])
    assert 10 < int(first[:50].sum()) < 40


def test_stratified_keeps_the_proportions() -> None:
    y = np.repeat([0, 1, 2], [100, 60, 40])
    masks = stratified(y, 10, seed=0)
    assert tuple(masks) == MASKS
    for name, counts in zip(MASKS, ([5, 3, 2], [5, 3, 2], [5, 3, 2], [85, 51, 34]), strict=True):
        assert np.bincount(y[masks[name].numpy()]).tolist() == counts
    assert torch.stack(list(masks.values())).sum(dim=0).eq(1).all()


def test_stratified_follows_the_seed() -> None:
    y = np.repeat([0, 1], 50)
    first, again, other = (stratified(y, 10, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in MASKS)
    assert not any(torch.equal(first[name], other[name]) for name in MASKS)
