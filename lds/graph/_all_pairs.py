"""Edge probabilities on all pairs of nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lds._memory import ROOM, too_large
from lds.errors import InputError
from lds.graph._factors import FactorAccumulator, FactorPairs, check_step
from lds.graph._pairs import canonical_pairs
from lds.graph._sampled import GraphTracer, SampledGraph
from lds.graph._thinning import ThinningSampler, positions_above

# Rows of one block: few enough that it stays in the cache through all passes of an update, and many enough for
# efficient products; measured at 2,708 and 19,717 nodes.
_BLOCK_ROWS = 192
# Proposals a sample for each expected edge, from which the bound between listed and thinned entries follows.
_PROPOSALS = 2.0


class _Block(NamedTuple):
    """Rows [start, stop) of θ, columns [start, N): a contiguous matrix in the flat storage."""

    start: int
    stop: int
    offset: int
    theta: Tensor


class AllPairs:
    r"""Edge probabilities θ_ij for all i < j: an outer variable of the engine.

    A ~ Bernoulli(θ), symmetric and without self loops, is drawn as a `SampledGraph`; the hypergradient is
    straight-through (∂A/∂θ := identity) and comes as `FactorPairs`. Only the upper triangle is stored, in row blocks.
    Franceschi et al., `Learning Discrete Structures for Graph Neural Networks <https://arxiv.org/abs/1903.11960>`_.

    Args:
        num_nodes: number of nodes N ≥ 1.
        edge_index: edges that start with probability 1, int64 of shape [2, E]; direction, duplicates and self loops
            do not matter.
        dtype: type of θ.
        device: device of θ; that of `edge_index` when None.

    Raises:
        InputError: an index is out of range, or θ does not fit into memory.
    """

    def __init__(
        self,
        num_nodes: int,
        edge_index: Tensor,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        if num_nodes < 1:
            raise InputError(f"a structure needs at least one node, got num_nodes={num_nodes}")
        self.require_room(num_nodes, dtype)
        row, col = canonical_pairs(edge_index, num_nodes)
        device = edge_index.device if device is None else torch.device(device)
        rows = min(_BLOCK_ROWS, num_nodes)
        starts = torch.arange(0, num_nodes, rows)
        stops = (starts + rows).clamp(max=num_nodes)
        sizes = (stops - starts) * (num_nodes - starts)
        self.num_nodes = num_nodes
        self._rows = rows
        self._offsets = (sizes.cumsum(0) - sizes).to(device)
        self._flat = torch.zeros(int(sizes.sum()), dtype=dtype, device=device)
        self._flat[self._positions(row.to(device), col.to(device))] = 1.0
        self._refresh(float(row.numel()))

    @staticmethod
    def require_room(num_nodes: int, dtype: torch.dtype) -> None:
        """Refuse so many nodes if their θ does not fit into memory.

        Raises:
            InputError: it does not; the message has the sum.
        """
        pairs = num_nodes * (num_nodes - 1) // 2
        if pairs * dtype.itemsize > ROOM:
            raise too_large(
                f"{pairs} edge probabilities of {dtype.itemsize} bytes, on all pairs of {num_nodes} nodes",
                pairs * dtype.itemsize,
                "take CandidatePairs, or fewer nodes",
            )

    @property
    def dtype(self) -> torch.dtype:
        """Type of θ."""
        return self._flat.dtype

    @property
    def expected_edges(self) -> float:
        """Sum of all probabilities, the expected number of undirected edges."""
        return self._expected_edges

    def draw(self) -> SampledGraph:
        """Return a graph A ~ Bernoulli(θ), drawn with torch's default generator in time of its number of edges."""
        row, col = self._pairs(self._sampler.draw())
        return SampledGraph(self.num_nodes, row, col, self._flat.new_ones(row.shape))

    def trace(self, draw: SampledGraph) -> GraphTracer:
        """Return a tracer around a drawn graph."""
        return GraphTracer(draw)

    def accumulator(self) -> FactorAccumulator:
        """Return an empty accumulator of factor pairs."""
        return FactorAccumulator(self.num_nodes, self._flat)

    def gram(self, gradients: Sequence[FactorPairs]) -> Tensor:
        """Return the inner products of gradients, float64 of shape [n, n]."""
        return FactorPairs.gram(gradients)

    def project_(self, gradient: FactorPairs, lr: float) -> None:
        r"""Take a projected gradient step in place.

        .. math:: \theta_{ij} \leftarrow \mathrm{clip}_{[0,1]}(\theta_{ij} - \eta\, (G_{ij} + G_{ji}))

        Args:
            gradient: G as factor pairs.
            lr: step size η.

        Raises:
            NumericalError: the gradient or the step is not finite; θ is left as it was.
        """
        groups, left, right, largest = gradient.groups()
        check_step(largest, lr, self.dtype)
        # In a block the rows of a thin side are a slice of the sorted rows.
        bounds = [torch.searchsorted(group.rows, self._bounds(group.rows.device)).tolist() for group in groups]
        right = right.T.contiguous()
        total = 0.0
        for index, block in enumerate(self._blocks()):
            theta, start, stop = block.theta, block.start, block.stop
            theta.addmm_(left[start:stop], right[:, start:], alpha=-lr)
            for group, bound in zip(groups, bounds, strict=True):
                low, high = bound[index], bound[index + 1]
                # T Fᵀ adds to rows of the block, so only thin rows inside it count, [low:high]. F Tᵀ adds to columns,
                # and those of a block run from its start to N: all thin rows from there on, [low:].
                if low < high:
                    update = group.thin[low:high] @ group.full[start:].T
                    theta.index_add_(0, group.rows[low:high] - start, update, alpha=-lr)
                if low < group.rows.numel():
                    update = group.full[start:stop] @ group.thin[low:].T
                    theta.index_add_(1, group.rows[low:] - start, update, alpha=-lr)
            theta.clamp_(0, 1)
            theta[:, : stop - start].triu_(1)
            total += float(theta.sum())
        self._refresh(total)

    def edges(self, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the pairs i < j with θ_ij > threshold, int64 of shape [2, E], and their probabilities."""
        found = [block.offset + positions_above(block.theta, threshold) for block in self._blocks()]
        positions = torch.cat(found)
        return torch.stack(self._pairs(positions)), self._flat[positions]

    def to_dense(self) -> Tensor:
        """Return θ as a symmetric matrix with a zero diagonal, shape [N, N]; for small graphs."""
        dense = self._flat.new_zeros(self.num_nodes, self.num_nodes)
        for block in self._blocks():
            dense[block.start : block.stop, block.start :] = block.theta
        return dense + dense.T

    def state(self) -> Tensor:
        """Return a copy of θ as it is stored; `restore_` takes it back."""
        return self._flat.clone()

    def restore_(self, state: Tensor) -> None:
        """Set θ to what `state` returned."""
        self._flat.copy_(state)
        self._refresh(sum(float(block.theta.sum()) for block in self._blocks()))

    def _blocks(self) -> Iterator[_Block]:
        n = self.num_nodes
        for start, offset in zip(range(0, n, self._rows), self._offsets.tolist(), strict=True):
            stop = min(start + self._rows, n)
            size = (stop - start) * (n - start)
            yield _Block(start, stop, offset, self._flat[offset : offset + size].view(stop - start, n - start))

    def _bounds(self, device: torch.device) -> Tensor:
        starts = torch.arange(0, self.num_nodes, self._rows, device=device)
        return torch.cat([starts, starts.new_tensor([self.num_nodes])])

    def _positions(self, row: Tensor, col: Tensor) -> Tensor:
        """Return the flat positions of the pairs row < col."""
        block = row // self._rows
        start = block * self._rows
        return self._offsets[block] + (row - start) * (self.num_nodes - start) + col - start

    def _pairs(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pairs at flat positions."""
        block = torch.searchsorted(self._offsets, positions, right=True) - 1
        start = block * self._rows
        inner, width = positions - self._offsets[block], self.num_nodes - start
        return start + inner // width, start + inner % width

    def _refresh(self, expected_edges: float) -> None:
        """Rebuild what the sampler keeps, a function of θ alone: the same θ and seed draw the same graph."""
        self._expected_edges = expected_edges
        bound = min(max(_PROPOSALS * expected_edges / self._flat.numel(), 1e-9), 0.5)
        # A number that θ can hold: else one that rounds to the bound is above it for the sampler but not for the list.
        bound = float(torch.tensor(bound, dtype=self.dtype))
        listed = [block.offset + positions_above(block.theta, bound) for block in self._blocks()]
        self._sampler = ThinningSampler(self._flat, bound, torch.cat(listed))
