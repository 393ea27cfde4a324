"""The upper triangle of a matrix in square tiles: a row of a tile is one line of memory after the other."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

# Rows and columns of a tile: of single precision, 16 KiB, so that it stays in the fastest cache while it changes.
SIDE = 64
_BITS = SIDE.bit_length() - 1
_AREA = SIDE * SIDE
# Rows of a block of the layout that files of earlier versions have.
_OLD_ROWS = 192


class Strip(NamedTuple):
    """All tiles of the rows [start, start + SIDE): those on and right of the diagonal."""

    start: int
    segments: slice  # Of the rows of tiles, as the whole matrix numbers them.


class Tiles:
    """Where the entries i < j of an N×N matrix lie in a flat vector of tiles.

    Tile (I, J) with I ≤ J holds the rows from I·SIDE and the columns from J·SIDE on, row by row; tiles come in the
    order of I, then of J. A *segment* is one row of a tile, SIDE entries that lie one after the other. Entries with
    i ≥ j, or beyond N, are zero.

    Args:
        num_nodes: N.
    """

    def __init__(self, num_nodes: int) -> None:
        self.num_nodes = num_nodes
        self.per_side = -(-num_nodes // SIDE)
        self._first: dict[torch.device, Tensor] = {}
        self._corner: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @property
    def padded(self) -> int:
        """N, rounded up to whole tiles."""
        return self.per_side * SIDE

    @property
    def numel(self) -> int:
        """Length of the flat vector."""
        return self.per_side * (self.per_side + 1) // 2 * _AREA

    def _first_on(self, device: torch.device) -> Tensor:
        """Return the number of the diagonal tile of every strip, int64."""
        if device not in self._first:
            strip = torch.arange(self.per_side, device=device)
            self._first[device] = strip * self.per_side - strip * (strip - 1) // 2
        return self._first[device]

    def _corner_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the first row, and the first column, of every tile, int64."""
        if device not in self._corner:
            tiles = self.per_side * (self.per_side + 1) // 2  # Of all strips; the host need not wait for their sum.
            strip = torch.repeat_interleave(torch.arange(self.per_side, 0, -1, device=device), output_size=tiles)
            column = torch.arange(tiles, device=device) - self._first_on(device)[strip] + strip
            self._corner[device] = strip * SIDE, column * SIDE
        return self._corner[device]

    def strips(self) -> Iterator[Strip]:
        """Return the strips from the top on."""
        tile = 0
        for index in range(self.per_side):
            tiles = self.per_side - index
            yield Strip(index * SIDE, slice(tile * SIDE, (tile + tiles) * SIDE))
            tile += tiles

    def positions(self, row: Tensor, col: Tensor) -> Tensor:
        """Return the places of the entries row < col, int64."""
        strip, column = row // SIDE, col // SIDE
        tile = self._first_on(row.device)[strip] + column - strip
        return tile * _AREA + row % SIDE * SIDE + col % SIDE

    def pairs(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the entries row < col at these places."""
        # By bits: division of integers takes ten times as long.
        rows, cols = self._corner_on(positions.device)
        tile, inside = positions >> 2 * _BITS, positions & (_AREA - 1)
        row = rows.index_select(0, tile) + (inside >> _BITS)
        return row, cols.index_select(0, tile) + (inside & (SIDE - 1))

    def clear_outside_(self, segments: Tensor) -> None:
        """Set the entries i ≥ j, and those beyond N, to zero; segments of shape [S, SIDE]."""
        rest = self.num_nodes - (self.padded - SIDE)
        for strip in self.strips():
            lines = segments[strip.segments].view(-1, SIDE, SIDE)
            lines[0].triu_(1)
            lines[-1, :, rest:] = 0

    @cached_property
    def _old_offsets(self) -> list[int]:
        starts = range(0, self.num_nodes, _OLD_ROWS)
        sizes = [(min(k + _OLD_ROWS, self.num_nodes) - k) * (self.num_nodes - k) for k in starts]
        return [0, *accumulate(sizes)]

    @property
    def old_numel(self) -> int:
        """Length of a vector in the layout of earlier versions."""
        return self._old_offsets[-1]

    def from_old(self, flat: Tensor) -> Iterator[tuple[Strip, Tensor]]:
        """Return the tiles of each strip, [segments, SIDE], of a vector in the layout of earlier versions.

        That had blocks of rows [start, stop), each with the columns from its start to N.

        """
        n = self.num_nodes
        offsets = self._old_offsets
        for strip in self.strips():
            block, inside = divmod(strip.start, _OLD_ROWS)
            first, rows = block * _OLD_ROWS, min(SIDE, n - strip.start)
            begin, width = offsets[block] + inside * (n - block * _OLD_ROWS), n - first
            part = flat[begin : begin + rows * width].view(rows, width)[:, inside:]
            whole = flat.new_zeros(SIDE, self.padded - strip.start)
            whole[:rows, : part.shape[1]] = part
            yield strip, whole.view(SIDE, -1, SIDE).transpose(0, 1).reshape(-1, SIDE)
