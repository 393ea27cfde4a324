"""The projected step of θ on all pairs, by products of torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from lds.graph._factors import FactorPairs, check_step
from lds.graph._thinning import Scan, Sums, scan, sums_of
from lds.graph._tiles import SIDE, Strip, Tiles

# Strips that one product is for: few enough that it stays in the cache through all that is done to it, and many enough
# for efficient products; measured at 2,708 and 19,717 nodes.
_BAND = 3


def step_(theta: Tensor, tiles: Tiles, gradient: FactorPairs, lr: float) -> Sums:
    r"""Take the step θ_ij ← clip_[0,1](θ_ij − η (G_ij + G_ji)) in place, and return the sums of the result.

    Args:
        theta: θ in segments, shape [S, SIDE].
        tiles: their layout.
        gradient: G.
        lr: η.

    Raises:
        NumericalError: the gradient or the step is not finite; θ is left as it was.
    """
    groups, left, right, largest = gradient.groups()
    check_step(largest, lr, theta.dtype)
    padding = tiles.padded - tiles.num_nodes
    left, right = pad(left, (0, 0, 0, padding)), pad(right.T, (0, padding))
    full = [pad(group.full, (0, 0, 0, padding)) for group in groups]
    strips = list(tiles.strips())
    bands = [strips[k : k + _BAND] for k in range(0, len(strips), _BAND)]
    starts = torch.arange(len(bands) + 1, device=theta.device) * (_BAND * SIDE)
    starts.add_(strips[0].start).clamp_(max=strips[-1].start + SIDE)
    # In a band the rows of a thin side are a slice of the sorted rows. Read at once: a device waits for every reading.
    found = [torch.searchsorted(group.rows, starts) for group in groups]
    bounds = torch.stack(found).tolist() if found else []
    scans = []
    for index, band in enumerate(bands):
        start, stop = band[0].start, band[-1].start + SIDE
        step = left[start:stop] @ right[:, start:]
        for group, other, bound in zip(groups, full, bounds, strict=True):
            low, high = bound[index], bound[index + 1]
            # T Fᵀ adds to rows of the band, so only thin rows inside it count, [low:high]. F Tᵀ adds to columns, and
            # those of a band run from its start to N: all thin rows from there on, [low:].
            if low < high:
                step.index_add_(0, group.rows[low:high] - start, group.thin[low:high] @ other[start:].T)
            if low < group.rows.numel():
                step.index_add_(1, group.rows[low:] - start, other[start:stop] @ group.thin[low:].T)
        for strip in band:
            inside = strip.start - start
            scans.append(_subtract(theta, strip, step[inside : inside + SIDE, inside:], lr))
    return sums_of(theta, scans)


def _subtract(theta: Tensor, strip: Strip, step: Tensor, lr: float) -> Scan:
    segments = theta[strip.segments]
    segments.view(-1, SIDE, SIDE).sub_(step.reshape(SIDE, -1, SIDE).transpose(0, 1), alpha=lr).clamp_(0, 1)
    segments[:SIDE].triu_(1)
    return scan(segments)


def all_sums(theta: Tensor, tiles: Tiles) -> Sums:
    """Return the sums of θ in segments, shape [S, SIDE], strip by strip, so that nothing else is as large."""
    return sums_of(theta, [scan(theta[strip.segments]) for strip in tiles.strips()])
