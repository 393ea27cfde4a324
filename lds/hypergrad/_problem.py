"""One call for the hypergradient, with the differentiation strategy as an object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from lds.hypergrad._diagnostics import Diagnostics
from lds.hypergrad._trajectory import Trajectory, record
from lds.hypergrad.memory import Memory
from lds.updaters import Objective, PyTree, State, Updater

D = TypeVar("D", bound=Diagnostics)


@dataclass(frozen=True)
class Problem:
    """A bilevel problem and how far to run it: the arguments of `hypergradient` but the method."""

    inner: Objective
    outer_objective: Objective
    params: PyTree
    outer: PyTree
    updater: Updater
    steps: int
    seed: int
    state: State | None

    def record(self, horizon: int | None, memory: Memory | None = None) -> Trajectory:
        """Run the inner problem, keeping the last `horizon` iterates."""
        return record(
            self.inner,
            self.params,
            self.outer,
            updater=self.updater,
            steps=self.steps,
            horizon=horizon,
            seed=self.seed,
            state=self.state,
            memory=memory,
        )


@dataclass(frozen=True)
class HypergradientResult(Generic[D]):
    """What `hypergradient` returns.

    Attributes:
        grad: pytree like `outer`, dF/dθ.
        params: w_T.
        outer_loss: F(w_T, θ).
        state: the whole final state; pass it as `state=` for a warm start.
        diagnostics: what the method noticed.
    """

    grad: PyTree
    params: PyTree
    outer_loss: float
    state: State
    diagnostics: D


class Method(Protocol[D]):
    """A way to differentiate through the inner problem."""

    def solve(self, problem: Problem) -> HypergradientResult[D]:
        """Run the inner problem and return the hypergradient."""
        ...
