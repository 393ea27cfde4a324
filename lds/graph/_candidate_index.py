"""The candidate pairs of every node, in memory of their number."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from lds._sparse import row_places


class CandidateIndex:
    """Sorted pairs i < j, and where those of a node lie.

    Both ends, and the places of the pairs sorted by their larger end, are int32 where they fit: 12 bytes per candidate
    and 16 bytes per node, of which 4 and 8 are made when they are first asked for.

    Args:
        num_nodes: number of nodes N.
        row: the smaller end of every pair, sorted by (row, col), int64 of shape [C].
        col: the larger end.
    """

    def __init__(self, num_nodes: int, row: Tensor, col: Tensor) -> None:
        self.num_nodes = num_nodes
        self._short = torch.int32 if max(num_nodes, row.numel()) < 1 << 31 else torch.int64
        self.row, self.col = row.to(self._short), col.to(self._short)

    def __len__(self) -> int:
        """Return the number of candidates C."""
        return self.row.numel()

    def places(self, row: Tensor, col: Tensor) -> Tensor:
        """Return the places of candidates row < col, int64."""
        n = self.num_nodes
        return torch.searchsorted(self.row.long().mul_(n).add_(self.col), row.long() * n + col)

    def of(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the candidates that some distinct nodes are an end of, in time of their number.

        Returns:
            The node and the place of the candidate, int64 of shape [M]: an entry for each node and candidate.
        """
        place, larger = row_places(self._upper_starts, nodes)
        positions, smaller = row_places(self._lower_starts, nodes)
        owner = torch.cat([torch.repeat_interleave(nodes, larger), torch.repeat_interleave(nodes, smaller)])
        return owner, torch.cat([place, self._lower[positions].long()])

    def other(self, owner: Tensor, place: Tensor) -> Tensor:
        """Return the other ends of candidates of which one is known, int64."""
        return (self.row[place].long() - owner).add_(self.col[place])

    @cached_property
    def _upper_starts(self) -> Tensor:
        return _starts(self.row, self.num_nodes)

    @cached_property
    def _lower_starts(self) -> Tensor:
        return _starts(self.col, self.num_nodes)

    @cached_property
    def _lower(self) -> Tensor:
        return torch.argsort(self.col, stable=True).to(self._short)


def _starts(ends: Tensor, num_nodes: int) -> Tensor:
    """Return where the pairs of each node begin, among all sorted by these ends; int64 of shape [N + 1]."""
    starts = torch.zeros(num_nodes + 1, dtype=torch.int64, device=ends.device)
    torch.cumsum(torch.bincount(ends, minlength=num_nodes), 0, out=starts[1:])
    return starts
