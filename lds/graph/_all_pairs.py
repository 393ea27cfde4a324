"""Edge probabilities on all pairs of nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lds._kernel import Kernel, kernel
from lds._memory import ROOM, too_large
from lds.errors import InputError
from lds.graph._factors import FactorAccumulator, FactorPairs
from lds.graph._native_step import NativeSampler, native_step_, native_sums
from lds.graph._pairs import weighted_pairs
from lds.graph._sampled import GraphTracer, SampledGraph
from lds.graph._step import all_sums, step_
from lds.graph._thinning import Sums, ThinningSampler
from lds.graph._tiles import SIDE, Tiles


class AllPairs:
    r"""Edge probabilities θ_ij for all i < j: an outer variable of the engine.

    A ~ Bernoulli(θ), symmetric and without self loops, is drawn as a `SampledGraph`; the hypergradient is
    straight-through (∂A/∂θ := identity) and comes as `FactorPairs`. Only the upper triangle is stored, in tiles.
    Franceschi et al., `Learning Discrete Structures for Graph Neural Networks <https://arxiv.org/abs/1903.11960>`_.

    Args:
        num_nodes: number of nodes N ≥ 1.
        edge_index: edges that start with probability 1, int64 of shape [2, E]; direction, duplicates and self loops
            do not matter.
        probability: what the edges start with in place of 1, in [0, 1], of shape [E]; of two for a pair the larger.
        dtype: type of θ.
        device: device of θ; that of `edge_index` when None.

    Raises:
        InputError: an index is out of range, or θ does not fit into memory.

    Example:
        >>> import torch
        >>> from lds.graph import AllPairs
        >>> theta = AllPairs(3, torch.tensor([[0], [1]]))  # three nodes, an edge from 0 to 1
        >>> theta.edges(threshold=0.5)
        (tensor([[0],
                [1]]), tensor([1.]))
    """

    def __init__(
        self,
        num_nodes: int,
        edge_index: Tensor,
        *,
        probability: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        if num_nodes < 1:
            raise InputError(f"a structure needs at least one node, got num_nodes={num_nodes}")
        device = edge_index.device if device is None else torch.device(device)
        if device.type == "cpu":
            self.require_room(num_nodes, dtype)
        row, col, start = weighted_pairs(edge_index, num_nodes, probability, dtype)
        self.num_nodes = num_nodes
        single = dtype == torch.float32 and device.type == "cpu"
        #: Who takes steps and draws: "native", compiled code, or "torch". Their last digits differ.
        self.kernel: Kernel = kernel() if single else "torch"
        self._tiles = Tiles(num_nodes)
        # The rows of all tiles, shape [S, SIDE].
        self._theta = torch.zeros(self._tiles.numel // SIDE, SIDE, dtype=dtype, device=device)
        self.flat[self._tiles.positions(row.to(device), col.to(device))] = start.to(device)
        self._refresh(self._sums())

    @staticmethod
    def require_room(num_nodes: int, dtype: torch.dtype, *, copies: int = 1) -> None:
        """Refuse so many nodes if their θ does not fit into memory, as often as it is kept.

        Raises:
            InputError: it does not; the message has the sum.
        """
        pairs = num_nodes * (num_nodes - 1) // 2
        needed = copies * pairs * dtype.itemsize
        if needed > ROOM:
            kept = "" if copies == 1 else f", kept {copies} times,"
            raise too_large(
                f"{pairs} edge probabilities of {dtype.itemsize} bytes, on all pairs of {num_nodes} nodes{kept}",
                needed,
                "learn on candidate pairs, edges=partial(CandidatePairs, candidates=…), or on the command line "
                "--candidates knn:20,random:5,given",
            )

    @property
    def dtype(self) -> torch.dtype:
        """Type of θ."""
        return self._theta.dtype

    @property
    def expected_edges(self) -> float:
        """Sum of all probabilities, the expected number of undirected edges."""
        return self._expected_edges

    def draw(self) -> SampledGraph:
        """Return a graph A ~ Bernoulli(θ), drawn with torch's default generator in time of its number of edges."""
        if isinstance(self._sampler, NativeSampler):
            return self._sampler.draw()
        row, col = self._tiles.pairs(self._sampler.draw())
        return SampledGraph(self.num_nodes, row, col, self._theta.new_ones(row.shape))

    def trace(self, draw: SampledGraph) -> GraphTracer:
        """Return a tracer around a drawn graph."""
        return GraphTracer(draw)

    def accumulator(self) -> FactorAccumulator:
        """Return an empty accumulator of factor pairs."""
        return FactorAccumulator(self.num_nodes, self._theta)

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
        step = native_step_ if self.kernel == "native" else step_
        self._refresh(step(self._theta, self._tiles, gradient, lr))

    def edges(self, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the pairs i < j with θ_ij > threshold, sorted, int64 of shape [2, E], and their probabilities."""
        rows, cols, values = [], [], []
        for strip in self._tiles.strips():
            lines = self._theta[strip.segments].view(-1, SIDE, SIDE)
            row, tile, col = (lines > threshold).transpose(0, 1).nonzero(as_tuple=True)
            rows.append(strip.start + row)
            cols.append(strip.start + tile * SIDE + col)
            values.append(lines[tile, row, col])
        pairs, found = torch.stack([torch.cat(rows), torch.cat(cols)]), torch.cat(values)
        if threshold >= 0:
            return pairs, found
        inside = (pairs[0] < pairs[1]) & (pairs[1] < self.num_nodes)  # Tiles are zero outside.
        return pairs[:, inside], found[inside]

    def to_dense(self) -> Tensor:
        """Return θ as a symmetric matrix with a zero diagonal, shape [N, N]; for small graphs."""
        n = self._tiles.padded
        dense = self._theta.new_zeros(n, n)
        for strip in self._tiles.strips():
            lines = self._theta[strip.segments].view(-1, SIDE, SIDE)
            dense[strip.start : strip.start + SIDE, strip.start :] = lines.transpose(0, 1).reshape(SIDE, -1)
        return (dense + dense.T)[: self.num_nodes, : self.num_nodes]

    @property
    def flat(self) -> Tensor:
        """θ as it is stored, of one dimension: what `state` returns a copy of. It changes with every step."""
        return self._theta.view(-1)

    def state(self) -> Tensor:
        """Return a copy of θ as it is stored; `restore_` takes it back."""
        return self.flat.clone()

    def restore_(self, state: Tensor) -> None:
        """Set θ to what `state` returned, of this version or of an earlier one.

        Raises:
            InputError: it is that of another number of nodes, or holds what is no probability; θ is left as it was.
        """
        if not all(bool(((part >= 0) & (part <= 1)).all()) for part in torch.split(state.flatten(), 1 << 20)):
            raise InputError("θ must hold probabilities in [0, 1], but holds others; take what `state` returned")
        if state.shape == (self._theta.numel(),):
            self._theta.copy_(state.view(-1, SIDE))
        elif state.shape == (self._tiles.old_numel,):
            for strip, segments in self._tiles.from_old(state):
                self._theta[strip.segments] = segments.to(self._theta)
        else:
            raise InputError(
                f"θ of {self.num_nodes} nodes must have {self._theta.numel()} numbers, got shape {tuple(state.shape)}; "
                "take the state of a structure on as many nodes"
            )
        self._tiles.clear_outside_(self._theta)
        self._refresh(self._sums())

    def restore_parts_(self, parts: Iterable[Tensor]) -> None:
        """Set θ to what `state` returned, in parts that together have all its numbers."""
        place = 0
        for part in parts:
            self.flat[place : place + part.numel()] = part
            place += part.numel()
        assert place == self._theta.numel()
        self._tiles.clear_outside_(self._theta)
        self._refresh(self._sums())

    def _sums(self) -> Sums:
        return (native_sums if self.kernel == "native" else all_sums)(self._theta, self._tiles)

    def _refresh(self, sums: Sums) -> None:
        """Rebuild what the sampler keeps, a function of θ alone: the same θ and seed draw the same graph."""
        self._expected_edges = sums.total
        self._sampler: ThinningSampler | NativeSampler
        if self.kernel == "native":
            self._sampler = NativeSampler(self._theta, self._tiles, sums)
        else:
            self._sampler = ThinningSampler(self._theta, sums)
