"""Edge probabilities on all pairs of nodes, of which every process holds some rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate

import torch
from torch import Tensor

from lds.distributed._ranks import Ranks
from lds.errors import InputError
from lds.graph import AllPairs, SampledGraph
from lds.graph._pairs import weighted_pairs
from lds.graph._step import all_sums
from lds.graph._thinning import Sums, ThinningSampler, draw_numbers
from lds.graph._tiles import SIDE, Strip, Tiles


class OwnTiles(Tiles):
    """The strips of tiles that one rank holds, about as many entries as every other.

    Args:
        num_nodes: N.
        rank: which share.
        size: of how many.
    """

    def __init__(self, num_nodes: int, rank: int, size: int) -> None:
        super().__init__(num_nodes)
        strips = torch.arange(self.per_side, 0, -1).cumsum(0)  # Tiles down to the end of every strip.
        cuts = torch.searchsorted(strips, strips[-1] * torch.arange(size + 1) // size, right=True)
        # At least one strip for each, if there are as many.
        ranks = torch.arange(size + 1)
        cuts = cuts.clamp(min=ranks).minimum(self.per_side - size + ranks).clamp(min=0)
        self.first, self.last = int(cuts[rank]), int(cuts[rank + 1])
        self._before = 0 if self.first == 0 else int(strips[self.first - 1])
        self._own = (0 if self.last == 0 else int(strips[self.last - 1])) - self._before

    @property
    def numel(self) -> int:
        """Length of the flat vector of the own tiles."""
        return self._own * SIDE * SIDE

    def strips(self) -> Iterator[Strip]:
        """Return the own strips from the top on."""
        for strip in list(super().strips())[self.first : self.last]:
            start, stop = (edge - self._before * SIDE for edge in (strip.segments.start, strip.segments.stop))
            yield Strip(strip.start, slice(start, stop))

    def holds(self, row: Tensor) -> Tensor:
        """Return which rows lie in the own strips."""
        return (row >= self.first * SIDE) & (row < self.last * SIDE)

    def positions(self, row: Tensor, col: Tensor) -> Tensor:
        """Return the places of own entries row < col."""
        return super().positions(row, col) - self._before * SIDE * SIDE

    def pairs(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the own entries at these places."""
        return super().pairs(positions + self._before * SIDE * SIDE)


class ShardedAllPairs(AllPairs):
    """`AllPairs` over several processes: θ of N²/2 numbers lies in strips of rows, one share on every rank.

    Every rank draws the edges of its rows, and all are told of them; all train the same weights, so that each has the
    thin factors of the gradient and takes the step of its own rows. Graphs, losses and θ are those of `AllPairs` on
    one machine, to rounding.

    Args:
        num_nodes: number of nodes N ≥ 1.
        edge_index: edges that start with probability 1, the same on every rank, int64 of shape [2, E].
        ranks: the processes.
        probability: what the edges start with in place of 1, in [0, 1], of shape [E].
        dtype: type of θ.

    Raises:
        InputError: an index is out of range, or there are more ranks than strips of 64 rows.

    Example:
        One process, where `torchrun` starts several:

        >>> import torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> edges = torch.tensor([[0, 1], [1, 2]])
        >>> ShardedAllPairs(3, edges, ranks=Ranks()).expected_edges
        2.0
        >>> dist.destroy_process_group()
    """

    def __init__(
        self,
        num_nodes: int,
        edge_index: Tensor,
        *,
        ranks: Ranks,
        probability: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.num_nodes, self._ranks = num_nodes, ranks
        own = OwnTiles(num_nodes, ranks.rank, ranks.size)
        if min(ranks.numbers(own.last - own.first)) < 1:
            raise InputError(
                f"every rank needs some rows, in strips of {SIDE}, but {num_nodes} nodes have {own.per_side} strips "
                f"for {ranks.size} ranks; start fewer"
            )
        row, col, start = weighted_pairs(edge_index, num_nodes, probability, dtype)
        mine = own.holds(row)
        self.kernel = "torch"
        self._tiles = own
        self._theta = torch.zeros(own.numel // SIDE, SIDE, dtype=dtype)
        self._theta.view(-1)[own.positions(row[mine], col[mine])] = start[mine]
        self._refresh(all_sums(self._theta, own))

    def draw(self) -> SampledGraph:
        """Return a graph A ~ Bernoulli(θ): the draw that `AllPairs` would make, on every rank."""
        ends = [0.0, *accumulate(self._means)]
        numbers = draw_numbers(sum(self._large), ends[-1], self._theta.device)
        self._ranks.agree("the number of random points", numbers.where.numel())
        rank, own = self._ranks.rank, self._own_sampler
        large = sum(self._large[:rank])
        high = math.inf if rank == self._ranks.size - 1 else ends[rank + 1]
        mine = (numbers.where >= ends[rank]) & (numbers.where < high)
        places = own.drawn(
            numbers.one_by_one[large : large + own.num_large],
            numbers.where[mine] - ends[rank],
            numbers.entry[mine],
            numbers.accept[mine],
        )
        row, col = self._ranks.gather(torch.stack(self._tiles.pairs(places), 1)).T.contiguous()
        return SampledGraph(self.num_nodes, row, col, self._theta.new_ones(row.shape))

    def edges(self, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the pairs i < j with θ_ij > threshold, of all ranks, and their probabilities."""
        pairs, probability = super().edges(threshold)
        return self._ranks.gather(pairs.T).T.contiguous(), self._ranks.gather(probability)

    def to_dense(self) -> Tensor:
        """Return θ of all ranks as a symmetric matrix, shape [N, N]; for small graphs."""
        pairs, probability = self.edges()
        dense = self._theta.new_zeros(self.num_nodes, self.num_nodes)
        dense[pairs[0], pairs[1]] = probability
        return dense + dense.T

    def _refresh(self, sums: Sums) -> None:
        self._own_sampler = ThinningSampler(self._theta, sums)
        self._expected_edges = sum(self._ranks.numbers(sums.total))
        self._means = self._ranks.numbers(self._own_sampler.mean)
        self._large = [int(count) for count in self._ranks.numbers(self._own_sampler.num_large)]
