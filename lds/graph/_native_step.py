"""The projected step of θ on all pairs, and draws of graphs, by compiled code: `lds/_native.c` says what it computes.

All arrays are made here, of the sizes that are stated there.
"""

from __future__ import annotations

import ctypes
import math
import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lds._kernel import library
from lds._threads import threads
from lds.errors import InputError
from lds.graph._factors import FactorPairs, check_step, not_finite
from lds.graph._sampled import SampledGraph
from lds.graph._thinning import CUT, INTENSITY, Sums
from lds.graph._tiles import SIDE, Tiles

# Columns of one chunk: few enough that what a row of it uses of a panel stays in the fastest cache; measured.
_CHUNK = 192
# Tiles from which on a second thread gains more than it costs to start it.
_MANY_TILES = 200

_C_TYPES: dict[torch.dtype, Any] = {
    torch.float32: ctypes.c_float,
    torch.float64: ctypes.c_double,
    torch.int64: ctypes.c_int64,
    torch.int32: ctypes.c_int32,
    torch.uint8: ctypes.c_uint8,
}


def _pointer(x: Tensor) -> Any:
    assert x.is_contiguous()
    assert x.is_cpu
    return ctypes.cast(x.data_ptr(), ctypes.POINTER(_C_TYPES[x.dtype]))


def _pointers(tensors: list[Tensor]) -> Any:
    kind = ctypes.POINTER(ctypes.c_float)
    return (kind * len(tensors))(*map(_pointer, tensors))


def _code() -> ctypes.CDLL:
    found = library()
    assert found is not None
    return found


def native_step_(theta: Tensor, tiles: Tiles, gradient: FactorPairs, lr: float, *, form: int | None = None) -> Sums:
    """Take the step that `lds.graph._step.step_` takes; θ of single precision.

    Args:
        theta: as there.
        tiles: as there.
        gradient: as there.
        lr: as there.
        form: of `lds_step`; that of this processor when None.

    Raises:
        InputError: a factor is not of N rows, or two of a pair are of different widths.
        NumericalError: the gradient or the step is not finite; θ is left as it was.
    """
    n = tiles.num_nodes
    degree = torch.zeros(tiles.padded)
    degree[:n] = gradient.degree
    thin, full, cap, largest = _sides(gradient, n)
    check_step(largest, lr, theta.dtype)
    widths = torch.tensor([side.shape[1] for side in thin], dtype=torch.int64)
    columns = int(widths.sum())
    start = torch.empty(-(-columns // _CHUNK) * n + 1, dtype=torch.int64)
    column, value = torch.empty(cap, dtype=torch.int32), torch.empty(cap)
    panels = torch.empty(tiles.padded * columns)
    packed = [_pointer(x) for x in (start, column, value, panels)]
    written = _code().lds_pack(
        len(thin), _pointers(thin), _pointers(full), _pointer(widths), n, tiles.per_side, columns, _CHUNK, cap, *packed
    )
    assert written == cap
    return _pass(theta, tiles, degree, columns, packed, lr, form)


def native_sums(theta: Tensor, tiles: Tiles) -> Sums:
    """Return the sums of θ, to the bits that a step returns."""
    packed = [_pointer(torch.empty(0, dtype=dtype)) for dtype in (torch.int64, torch.int32, *[torch.float32] * 2)]
    return _pass(theta, tiles, torch.zeros(tiles.padded), 0, packed, 0.0)


def _pass(
    theta: Tensor, tiles: Tiles, degree: Tensor, columns: int, packed: list[Any], lr: float, form: int | None = None
) -> Sums:
    """Take the step along the degree term and packed factor pairs, and sum the result up."""
    code, n = _code(), tiles.num_nodes
    assert theta.shape == (tiles.numel // SIDE, SIDE)
    form = code.lds_form() if form is None else form
    sums, large = torch.empty(len(theta)), torch.empty(len(theta), dtype=torch.uint8)
    totals, counter = torch.empty(tiles.per_side, dtype=torch.float64), torch.zeros((), dtype=torch.int64)

    def work() -> None:
        code.lds_step(
            form, n, tiles.per_side, _pointer(theta), _pointer(degree), columns, -(-columns // _CHUNK), *packed,
            lr, CUT, *(_pointer(x) for x in (sums, large, totals, counter)),
        )  # fmt: skip

    # Each takes the next strip where it is done with one, so that one that has to wait holds up nobody.
    helpers = [threading.Thread(target=work) for _ in range(_threads(len(theta) // SIDE) - 1)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    count = int(large.numpy().sum(dtype=np.int64))  # torch would make a copy of another type first.
    places, chances = torch.empty(count, dtype=torch.int64), torch.empty(count)
    listed = code.lds_large(
        _pointer(theta), len(theta), CUT, _pointer(large), count, _pointer(places), _pointer(chances)
    )
    assert listed == count
    return Sums(sums, places, chances, float(totals.sum()))


def _threads(tiles: int) -> int:
    return threads() if tiles >= _MANY_TILES else 1


def _sides(gradient: FactorPairs, n: int) -> tuple[list[Tensor], list[Tensor], int, float]:
    """Return the sides with the fewer numbers that are not zero, the others, how many these are, and a bound.

    The bound is that of `FactorPairs.groups`, from the largest numbers of the sides.
    """
    code, thin, full, total = _code(), [], [], 0
    bound = 2 * float(gradient.degree.abs().max())
    count = ctypes.c_int64()
    for pair in gradient.pairs:
        left, right = (side.detach().float().contiguous() for side in pair)
        if left.ndim != 2 or left.shape != right.shape or len(left) != n:
            raise InputError(
                f"the sides of a factor pair must both be of shape [{n}, r], got {tuple(left.shape)} and "
                f"{tuple(right.shape)}; give one row per node"
            )
        largest, counts = [], []
        for side in (left, right):
            largest.append(code.lds_largest(_pointer(side), side.numel(), ctypes.byref(count)))
            counts.append(count.value)
        bound += 2 * left.shape[1] * largest[0] * largest[1]
        if least := min(counts):
            total += least
            thin.append(left if counts[0] <= counts[1] else right)
            full.append(right if counts[0] <= counts[1] else left)
    if not math.isfinite(bound):
        raise not_finite()
    return thin, full, total, bound


class NativeSampler:
    """Draws graphs with the law of `ThinningSampler`.

    Args:
        theta: θ in segments, single precision, shape [S, SIDE]; read at every draw.
        tiles: their layout.
        sums: their sums.
    """

    def __init__(self, theta: Tensor, tiles: Tiles, sums: Sums) -> None:
        self._theta, self._tiles, self._sums = theta, tiles, sums
        self._ends = torch.empty(len(theta) // SIDE, dtype=torch.float64)
        _code().lds_ends(_pointer(sums.small), len(self._ends), _pointer(self._ends))

    def draw(self) -> SampledGraph:
        """Return a graph, its normalised adjacency with it; the seed comes from torch's default generator."""
        tiles, places = self._tiles, self._draw()
        n, count = tiles.num_nodes, places.numel()
        size = 2 * count + n
        if size >= 1 << 31:  # More than the indices of CSR hold.
            row, col = tiles.pairs(places)
            return SampledGraph(n, row, col, torch.ones(count))
        row, col = torch.empty(2, count, dtype=torch.int64)
        degree, scale, value = torch.empty(n), torch.empty(n), torch.empty(size)
        start, index = torch.empty(n + 1, dtype=torch.int32), torch.empty(size, dtype=torch.int32)
        arrays = (places, row, col, degree, scale, start, index, value)
        outside = _code().lds_graph(n, tiles.per_side, count, *map(_pointer, arrays))
        assert not outside
        graph = SampledGraph(n, row, col, torch.ones(count))
        graph.degree, graph.scale = degree, scale
        graph.normalised = torch.sparse_csr_tensor(start, index, value, (n, n), check_invariants=False)
        return graph

    def _draw(self) -> Tensor:
        mean, listed = float(self._ends[-1]) * INTENSITY, self._sums.large.numel()
        cap = listed + int(mean + 8 * math.sqrt(mean)) + 64
        seed = int(torch.randint(1 << 62, ()))
        arrays = (self._theta, self._sums.small, self._ends, self._sums.large, self._sums.chances)
        theta, small, ends, large, chances = map(_pointer, arrays)
        while True:
            places = torch.empty(cap, dtype=torch.int64)
            count = _code().lds_draw(
                seed, theta, self._ends.numel(), small, ends, CUT, large, chances, listed, cap, _pointer(places)
            )
            if count >= 0:
                return places[:count]
            cap *= 2  # Once in 10^15 draws.
