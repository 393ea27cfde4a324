"""What a learner asks of a random structure."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from lds.graph._factors import GraphTracer
from lds.graph._sampled import SampledGraph
from lds.hypergrad import Accumulator


class Structure(Protocol):
    """Edge probabilities θ: an outer variable of the engine that also knows its projected gradient step."""

    @property
    def num_nodes(self) -> int:
        """Number of nodes N."""
        ...

    @property
    def expected_edges(self) -> float:
        """Expected number of undirected edges."""
        ...

    def draw(self) -> SampledGraph:
        """Return a graph A ~ Bernoulli(θ)."""
        ...

    def trace(self, draw: Any) -> GraphTracer:
        """Return a tracer around a drawn graph."""
        ...

    def accumulator(self) -> Accumulator:
        """Return a zero accumulator."""
        ...

    def project_(self, gradient: Any, lr: float) -> None:
        """Take the step θ ← clip_[0,1](θ − lr · gradient) in place."""
        ...

    def edges(self, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the pairs i < j with θ_ij > threshold, int64 of shape [2, E], and their probabilities."""
        ...

    def state(self) -> Tensor:
        """Return a copy of θ."""
        ...

    def restore_(self, state: Tensor) -> None:
        """Set θ to what `state` returned."""
        ...
