"""Graphs drawn from candidate pairs: whole, or the active part around the nodes that a loss looks at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from lds._hash import draw_key, uniform
from lds.errors import InputError
from lds.graph._candidate_index import CandidateIndex
from lds.graph._sampled import SampledGraph
from lds.graph._thinning import members

# Where more of all nodes are active, the whole graph is used: relabelling would cost more than it saves.
ACTIVE_SHARE = 0.5
# Candidates that are drawn at once where all are.
_SOME = 1 << 22


class CandidateGraph(SampledGraph):
    """A graph drawn from candidate pairs: usable through products, or as `edge_index` with `edge_weight`.

    The edge index lists every candidate, the weights say which were drawn (1) and which were not (0): the
    straight-through gradient of a candidate that was not drawn is a gradient in its weight too.

    Args:
        num_nodes: number of nodes N.
        row: one end of every candidate, int64 of shape [C].
        col: the other end.
        drawn: 0 or 1 for every candidate, floating point of shape [C].

    Attributes:
        nodes: the nodes of a larger graph that its rows stand for, sorted, int64 of shape [N]; None for a whole graph.

    Example:
        >>> import torch
        >>> from lds.graph import CandidateGraph
        >>> graph = CandidateGraph(3, torch.tensor([0, 0]), torch.tensor([1, 2]), torch.tensor([1.0, 0.0]))
        >>> graph.matmul(torch.tensor([[1.0], [2.0], [3.0]]))  # the pair 0, 2 is a candidate that was not drawn
        tensor([[2.],
                [1.],
                [0.]])
    """

    nodes: Tensor | None = None

    def __init__(self, num_nodes: int, row: Tensor, col: Tensor, drawn: Tensor) -> None:
        there = drawn.nonzero().flatten()
        super().__init__(num_nodes, row[there], col[there], drawn[there])
        self._drawn = drawn
        self._candidates = row, col
        self._leaf: Tensor | None = None

    @property
    def candidates(self) -> tuple[Tensor, Tensor]:
        """Both ends of every candidate, int64 of shape [C]."""
        return self._candidates

    @property
    def drawn(self) -> Tensor:
        """Weights of the candidates, shape [C]; in a step of the sweep, a leaf that autograd follows."""
        if self._kept is None:
            return self._drawn
        if self._leaf is None:
            self._leaf = self._drawn.detach().requires_grad_()
        return self._leaf

    @property
    def all_drawn(self) -> bool:
        """Whether no candidate is listed that was not drawn."""
        return bool(self.drawn.all())

    @property
    def leaf(self) -> Tensor | None:
        """The leaf of autograd that was handed out as `drawn`, if one was."""
        return self._leaf

    @cached_property
    def edge_index(self) -> Tensor:
        """All candidates in both directions, int64 of shape [2, 2C]."""
        row, col = self._candidates
        return torch.stack([torch.cat([row, col]), torch.cat([col, row])])

    @property
    def edge_weight(self) -> Tensor:
        """Weights of the edges in `edge_index`, shape [2C]."""
        return self.drawn.repeat(2)

    def around(self, nodes: Tensor, hops: int, *, gradient: bool = True) -> CandidateGraph:
        """Return the part that decides the results at some nodes, relabelled to rows of its own; here the whole."""
        return self

    def rows_of(self, nodes: Tensor) -> Tensor:
        """Return the rows that stand for these nodes."""
        return nodes

    def parts(self) -> list[CandidateGraph]:
        """Return the graphs whose records of products belong to this one: itself, and parts of it that were used."""
        return [self]

    def without_candidates(self) -> CandidateGraph:
        """Return the graph that lists no candidates but those that were drawn."""
        graph = CandidateGraph(self.num_nodes, self.row, self.col, self.weight)
        graph.degree, graph.nodes = self.degree, self.nodes
        return graph


@dataclass(frozen=True)
class Touched:
    """Where the gradients of an active part belong, among all candidates.

    Attributes:
        listed: places of the candidates that the part lists, int64 of shape [L].
        outside: places of those with one end in the part, which count through the degree of that end, int64 [K].
        row: that end, int64 of shape [K].
    """

    listed: Tensor
    outside: Tensor
    row: Tensor


class Found(NamedTuple):
    """Candidates of some nodes, an entry for each node and candidate: both ends, place, and whether it was drawn."""

    owner: Tensor
    other: Tensor
    place: Tensor
    drawn: Tensor


class ActiveGraph(CandidateGraph):
    """The active part of a drawn graph: rows for some of its nodes, with the degrees that these have in the whole.

    It lists the candidates that the gradient of a loss reaches, and all drawn edges that results depend on.
    """

    nodes: Tensor

    def __init__(
        self, nodes: Tensor, row: Tensor, col: Tensor, drawn: Tensor, degree: Tensor, touched: Touched
    ) -> None:
        super().__init__(nodes.numel(), row, col, drawn)
        self.nodes = nodes
        self.degree = degree
        self.touched = touched

    def dropout_mask(self, like: Tensor, p: float) -> Tensor:
        """Return the mask that these nodes have in the whole graph."""
        return _mask_of(self.nodes, like, p)

    def dropout_scale(self, p: float) -> float:
        """Return what a mask has where it is not zero."""
        return 1 / (1 - p)

    def rows_of(self, nodes: Tensor) -> Tensor:
        """Return the rows that stand for nodes of the part."""
        return torch.searchsorted(self.nodes, nodes)


class DrawnGraph(CandidateGraph):
    """A graph drawn from candidate pairs that is looked up where it is used: whole, or around some nodes.

    Whether a pair is drawn is a hash of (key, place of the pair), so every part of the graph is the same as in the
    whole. It reads θ when it is first used, and θ must not have changed by then.

    Args:
        index: the candidates.
        theta: their probabilities, shape [C].
    """

    def __init__(self, index: CandidateIndex, theta: Tensor) -> None:
        self.num_nodes = index.num_nodes
        self._index, self._theta, self._version = index, theta, theta._version
        self._key = draw_key()
        self._kept, self._record, self._leaf = None, None, None
        # Shared by all copies of this graph: what was looked up, and parts by the identity of what they are around.
        self._looked_up: list[tuple[Tensor, Tensor]] = []
        self._cache: dict[tuple[int, int], tuple[Tensor, ActiveGraph | None]] = {}
        self._used: dict[int, ActiveGraph] = {}

    @property
    def _drawn(self) -> Tensor:  # type: ignore[override]
        return self._whole()[0]

    @property
    def _there(self) -> Tensor:
        return self._whole()[1]

    def _whole(self) -> tuple[Tensor, Tensor]:
        """Return 0 or 1 for every candidate, and the places of those that were drawn."""
        if not self._looked_up:
            theta = self._unchanged()
            count = len(self._index)
            some = (torch.arange(i, min(i + _SOME, count), device=theta.device) for i in range(0, count, _SOME))
            drawn = torch.cat([self._are_drawn(places) for places in some])
            self._looked_up.append((drawn.to(theta.dtype), drawn.nonzero().flatten()))
        return self._looked_up[0]

    @cached_property
    def row(self) -> Tensor:  # type: ignore[override]  # Looked up when asked for.
        """One end of every edge."""
        return self._index.row[self._there].long()

    @cached_property
    def col(self) -> Tensor:  # type: ignore[override]  # Looked up when asked for.
        """The other end."""
        return self._index.col[self._there].long()

    @cached_property
    def weight(self) -> Tensor:  # type: ignore[override]  # Looked up when asked for.
        """Weights 1."""
        return self._theta.new_ones(self._there.shape)

    @cached_property
    def _candidates(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self._index.row.long(), self._index.col.long()

    def dropout_mask(self, like: Tensor, p: float) -> Tensor:
        """Return a mask that is a function of the step, the node and the column, so that parts have it too."""
        return _mask_of(torch.arange(self.num_nodes, device=like.device), like, p)

    def dropout_scale(self, p: float) -> float:
        """Return what a mask has where it is not zero."""
        return 1 / (1 - p)

    def traced(self) -> DrawnGraph:
        """Return this graph with an empty record of products."""
        graph: DrawnGraph = super().traced()  # type: ignore[assignment]
        graph._used = {}
        return graph

    def in_autograd(self) -> SampledGraph:
        """Return this graph for autograd to hold, without the parts whose records refer to nodes of autograd."""
        graph = super().in_autograd()
        if graph is not self:
            graph._used = {}  # type: ignore[attr-defined]
        return graph

    def parts(self) -> list[CandidateGraph]:
        """Return this graph and the parts of it that were used in this step."""
        return [self, *self._used.values()]

    def around(self, nodes: Tensor, hops: int, *, gradient: bool = True) -> CandidateGraph:
        r"""Return the part that decides the results at some nodes after so many products; the whole if that is most.

        With S_0 the nodes and N(·) closed neighbourhoods, in the drawn graph A and among the candidates C,

        .. math:: S_{k+1} = N_A(S_k), \qquad T_0 = S_0, \quad T_{k+1} = N_A(T_k) \cup N_C(S_k),

        the results at S_0 depend on S_h, and their derivative by a candidate of S_h on T_h: what is h steps away with
        one of the steps over a pair that was not drawn. So the part has the rows T_h, with their degrees in the whole
        graph, and the edges of T_{h−1}; without a gradient the rows S_h.

        Args:
            nodes: distinct nodes, int64.
            hops: h, how many products with the graph follow one another.
            gradient: whether derivatives in the edge probabilities will be asked for; the part is then kept for the
                next call with the same tensor, and its products count as those of this graph.
        """
        if not gradient:
            return self._part(nodes, hops, gradient=False) or self
        key = id(nodes), hops
        if key not in self._cache:
            self._cache[key] = nodes, self._part(nodes, hops, gradient=True)
        _, part = self._cache[key]
        if part is None:
            return self
        if self._kept is None:
            return part
        if id(part) not in self._used:
            self._used[id(part)] = part.traced()  # type: ignore[assignment]
        return self._used[id(part)]

    def _part(self, nodes: Tensor, hops: int, *, gradient: bool) -> ActiveGraph | None:
        """Return the active part; None where it is most of the graph."""
        active = torch.zeros(self.num_nodes, dtype=torch.bool, device=nodes.device)  # T
        active[nodes] = True
        certain, inner = active.clone(), active  # S, and T of the hop before.
        found: list[Found] = []
        count = nodes.numel()
        for _ in range(hops):
            if count > ACTIVE_SHARE * self.num_nodes:
                return None
            found.append(self._at(nodes))
            inner = active.clone()
            of_loss = [certain[pairs.owner] for pairs in found]
            for pairs, here in zip(found, of_loss, strict=True):
                active[pairs.other[pairs.drawn | here if gradient else pairs.drawn]] = True
                certain[pairs.other[pairs.drawn & here]] = True
            nodes = members(active & ~inner)
            count += nodes.numel()
        if count > ACTIVE_SHARE * self.num_nodes:
            return None
        if not gradient:
            certain.zero_()
        # All candidates of the others with a gradient are listed; of the rest, the degrees are enough.
        found.append(self._at(nodes[certain[nodes]]))
        return self._relabelled(found, active, inner, certain, self._drawn_ends(nodes[~certain[nodes]]))

    def _relabelled(
        self, found: list[Found], active: Tensor, inner: Tensor, certain: Tensor, ends: Tensor
    ) -> ActiveGraph:
        """Return the part with the active nodes.

        Args:
            found: the candidates of the nodes that are inner or certain.
            active: whether a node has a row, shape [N].
            inner: whether all drawn edges of a node are listed.
            certain: whether all candidates of a node have a gradient.
            ends: the other active nodes, as often as their degree is.
        """
        owner, other, place, drawn = (torch.cat(part) for part in zip(*found, strict=True))
        nodes = members(active)
        local = torch.full((self.num_nodes,), -1, dtype=torch.int32, device=nodes.device)
        local[nodes] = torch.arange(nodes.numel(), dtype=torch.int32, device=nodes.device)
        row, col = local[owner], local[other]
        ends = torch.cat([row[drawn], local[ends]])
        degree = (1 + torch.bincount(ends, minlength=nodes.numel())).to(self._theta.dtype)
        of_loss, of_other = certain[owner], certain[other]
        inside = inner[other]
        wanted = drawn & (inner[owner] | inside) | of_loss | of_other
        # A pair whose other end is inner or certain was found from both.
        once = (owner < other) | ~(inside | of_other)
        listed = (wanted & once & (col >= 0)).nonzero().flatten()
        outside = (of_loss & (col < 0)).nonzero().flatten()
        return ActiveGraph(
            nodes,
            row[listed].long(),
            col[listed].long(),
            drawn[listed].to(self._theta.dtype),
            degree,
            Touched(place[listed], place[outside], row[outside].long()),
        )

    def _at(self, nodes: Tensor) -> Found:
        """Return the candidates of some nodes, and which of them were drawn."""
        self._unchanged()
        owner, place = self._index.of(nodes)
        return Found(owner, self._index.other(owner, place), place, self._are_drawn(place))

    def _drawn_ends(self, nodes: Tensor) -> Tensor:
        """Return each of some nodes as often as it has drawn edges."""
        owner, places = self._index.of(nodes)
        return owner[self._are_drawn(places)]

    def _are_drawn(self, places: Tensor) -> Tensor:
        return uniform(self._key, places) < self._theta[places]

    def _unchanged(self) -> Tensor:
        """Return θ, which must be what it was when the graph was drawn.

        Raises:
            InputError: it is not.
        """
        if self._theta._version != self._version:
            raise InputError(
                "a graph of candidate pairs is looked up when it is first used, and θ must be what it was when the "
                "graph was drawn, but θ has changed; use the graph before the step of θ, such as by graph.num_edges, "
                "or draw another"
            )
        return self._theta


def _mask_of(nodes: Tensor, like: Tensor, p: float) -> Tensor:
    """Return a mask like a tensor with a row for each node, a function of a key drawn now, the node and the column."""
    width = like[0].numel() if len(like) else 0
    columns = torch.arange(width, device=like.device)
    found = uniform(draw_key(), nodes[:, None] * width + columns)
    return found.to(like.dtype).view(like.shape).ge_(p).div_(1 - p)
