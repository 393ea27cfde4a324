"""Edge probabilities on candidate pairs, of which every process holds some rows."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from lds._hash import uniform
from lds.distributed._ranks import Ranks
from lds.errors import InputError
from lds.graph import CandidateGraph, CandidatePairs
from lds.graph._candidate_graph import DrawnGraph, Found
from lds.graph._candidate_index import CandidateIndex
from lds.graph._candidate_pairs import CandidateAccumulator
from lds.graph._pairs import canonical_pairs, weighted_pairs

# Pairs that a rank tells the others of at once.
_BLOCK = 1 << 20


class ShardedGraph(DrawnGraph):
    """A graph drawn from the candidates of all ranks: each looks up its own, and all have what was found.

    Args:
        index: the own candidates.
        theta: their probabilities.
        offset: how many candidates the ranks before this one hold.
        ranks: the processes.
    """

    def __init__(self, index: CandidateIndex, theta: Tensor, offset: int, ranks: Ranks) -> None:
        super().__init__(index, theta)
        self._offset, self._ranks = offset, ranks
        ranks.agree("the key of a drawn graph", self._key)

    @cached_property
    def _edges(self) -> Tensor:
        every = torch.arange(len(self._index), device=self._unchanged().device)
        there = every[torch.cat([self._are_drawn(part) for part in torch.split(every, 1 << 22)])]
        return self._ranks.gather(torch.stack([self._index.row[there], self._index.col[there]], 1).long())

    @cached_property
    def row(self) -> Tensor:  # type: ignore[override]
        """One end of every edge."""
        return self._edges[:, 0].contiguous()

    @cached_property
    def col(self) -> Tensor:  # type: ignore[override]
        """The other end."""
        return self._edges[:, 1].contiguous()

    @cached_property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Weights 1."""
        return self._theta.new_ones(len(self._edges))

    @property
    def all_drawn(self) -> bool:
        """True: nobody can ask for candidates that were not drawn."""
        return True

    @property
    def candidates(self) -> tuple[Tensor, Tensor]:
        """No rank has all candidates.

        Raises:
            InputError: always.
        """
        raise self._no_list()

    @property
    def drawn(self) -> Tensor:
        """No rank has all candidates.

        Raises:
            InputError: always.
        """
        raise self._no_list()

    @property
    def edge_index(self) -> Tensor:
        """No rank has all candidates.

        Raises:
            InputError: always.
        """
        raise self._no_list()

    @staticmethod
    def _no_list() -> InputError:
        return InputError(
            "a model over several ranks must use the graph by graph.propagate and graph.matmul, or say its hops, for "
            "no rank has the list of all candidates, but it was asked for; give the model an attribute hops, or take a "
            "backbone of lds.nn"
        )

    def _at(self, nodes: Tensor) -> Found:
        own = super()._at(nodes)
        found = torch.stack([own.owner, own.other, own.place + self._offset, own.drawn.long()], 1)
        owner, other, place, drawn = self._ranks.gather(found).T
        return Found(owner.contiguous(), other.contiguous(), place.contiguous(), drawn.bool())

    def _drawn_ends(self, nodes: Tensor) -> Tensor:
        return self._ranks.gather(super()._drawn_ends(nodes))

    def _are_drawn(self, places: Tensor) -> Tensor:
        return uniform(self._key, places + self._offset) < self._theta[places]


class _OwnAccumulator(CandidateAccumulator):
    """G_t at the own candidates."""

    def __init__(self, index: CandidateIndex, like: Tensor, offset: int) -> None:
        super().__init__(index, like)
        self._offset = offset

    def _own(self, touched: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        place, gradient = touched
        place = place - self._offset
        mine = (place >= 0) & (place < len(self._index))
        return place[mine], gradient[mine]


class ShardedCandidatePairs(CandidatePairs):
    """`CandidatePairs` over several processes: each holds the candidates of some rows and their probabilities.

    Graphs, losses and θ are those of `CandidatePairs` on one machine, to rounding.

    Args:
        num_nodes: number of nodes N ≥ 1.
        edge_index: edges that start with probability 1, int64 of shape [2, E]; every rank may give all, or a share.
        ranks: the processes.
        candidates: further pairs, which start with probability 0, int64 of shape [2, ·]; all, or a share.
        probability: what the edges start with in place of 1, in [0, 1], of shape [E].
        dtype: type of θ.

    Raises:
        InputError: an index is out of range, or a rank is left without candidates.

    Example:
        One process, where `torchrun` starts several:

        >>> import torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> edges = torch.tensor([[0, 1], [1, 2]])
        >>> ShardedCandidatePairs(3, edges, ranks=Ranks(), candidates=torch.tensor([[0], [2]])).pairs.tolist()
        [[0, 0, 1], [1, 2, 2]]
        >>> dist.destroy_process_group()
    """

    def __init__(
        self,
        num_nodes: int,
        edge_index: Tensor,
        *,
        ranks: Ranks,
        candidates: Tensor | None = None,
        probability: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._ranks = ranks
        row, col, start = weighted_pairs(edge_index, num_nodes, probability, dtype)
        further = edge_index.new_empty(2, 0) if candidates is None else candidates
        further = torch.stack(canonical_pairs(further, num_nodes))
        weights = ranks.sum(torch.bincount(torch.cat([row, further[0]]), minlength=num_nodes))
        ends = weights.cumsum(0)
        cuts = torch.searchsorted(ends, ends[-1] * torch.arange(ranks.size + 1) // ranks.size, right=True)
        cuts[-1] = num_nodes
        low, high = int(cuts[ranks.rank]), int(cuts[ranks.rank + 1])
        edges = self._routed(torch.stack([row, col]), low, high)
        own = torch.cat([edges, self._routed(further, low, high)], 1)
        counts = ranks.gather(torch.tensor([torch.unique(own[0] * num_nodes + own[1]).numel()])).tolist()
        if min(counts) < 1:
            raise InputError(
                f"every rank needs some candidates, but they have {', '.join(map(str, counts))}; start fewer ranks"
            )
        self._offset = sum(counts[: ranks.rank])
        values = self._routed(torch.stack([row, start.double()]), low, high)[1]
        super().__init__(num_nodes, edges, candidates=own, probability=values.to(dtype), dtype=dtype)

    def _routed(self, pairs: Tensor, low: int, high: int) -> Tensor:
        """Return what all ranks have of the rows [low, high), shape [2, ·]; told in blocks of bounded memory."""
        found = []
        for k in range(int(max(self._ranks.numbers(-(-pairs.shape[1] // _BLOCK))))):
            block = self._ranks.gather(pairs[:, k * _BLOCK : (k + 1) * _BLOCK].T)
            found.append(block[(block[:, 0] >= low) & (block[:, 0] < high)])
        return torch.cat(found).T.contiguous() if found else pairs[:, :0]

    @property
    def pairs(self) -> Tensor:
        """The candidates i < j of all ranks, int64 of shape [2, C]."""
        return self._ranks.gather(super().pairs.T).T.contiguous()

    @property
    def expected_edges(self) -> float:
        """Sum of all probabilities, the expected number of undirected edges."""
        return sum(self._ranks.numbers(super().expected_edges))

    def draw(self) -> CandidateGraph:
        """Return a graph A ~ Bernoulli(θ): the draw that `CandidatePairs` would make, on every rank."""
        return ShardedGraph(self._index, self._theta, self._offset, self._ranks)

    def accumulator(self) -> CandidateAccumulator:
        """Return a zero accumulator."""
        return _OwnAccumulator(self._index, self._theta, self._offset)

    def edges(self, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the pairs i < j with θ_ij > threshold, of all ranks, and their probabilities."""
        pairs, probability = super().edges(threshold)
        return self._ranks.gather(pairs.T).T.contiguous(), self._ranks.gather(probability)

    def _largest(self, step: Tensor) -> float:
        return max(self._ranks.numbers(super()._largest(step)))
