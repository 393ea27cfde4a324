"""A well-formed bilevel problem, how to solve it, and its right answer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from lds.hypergrad import Derived, HypergradientResult, Method, hypergradient
from lds.updaters import SGD
from tests.oracles import DOUBLE, Problem, unroll

FLOAT = torch.float32
EACH = (DOUBLE, FLOAT)


@dataclass(frozen=True)
class WellFormed:
    """A problem on which every guard must be silent.

    Attributes:
        problem: objectives, params and outer variables.
        updater: Φ.
        steps: T.
        options: further arguments of `hypergradient`: seed, state, method.
        expected: the right hypergradient, where a closed form gives it; else that of a full unroll by autograd.
        tol: relative error that passes; None takes the usual one of the dtype.
        meant: whether the derivative is another than that of the values on purpose, which is told.
        repeats: whether torch computes the same bits again; if not, memory policies differ by rounding.
    """

    problem: Problem
    updater: Any = field(default_factory=lambda: SGD(0.1))
    steps: int = 3
    options: dict[str, Any] = field(default_factory=dict)
    expected: Any = None
    tol: float | None = None
    repeats: bool = True
    meant: bool = False

    def solve(self, method: Method[Any] | None = None) -> HypergradientResult[Any]:
        """The library's answer."""
        options = {**self.options, **({} if method is None else {"method": method})}
        return hypergradient(*self.problem, updater=self.updater, steps=self.steps, **options)

    def reference(self) -> Any:
        """The right answer: a closed form, or that of one graph through all steps."""
        if self.expected is not None:
            return self.expected
        problem, outer = self.problem, self.problem.outer
        derived = outer if isinstance(outer, Derived) else None
        if derived is not None:
            problem = problem._replace(outer=derived.theta)
        horizon = getattr(self.options.get("method"), "horizon", None)
        chosen = {k: v for k, v in self.options.items() if k != "method"}
        show = None if derived is None else derived.function
        return unroll(problem, self.updater, self.steps, horizon=horizon, show=show, **chosen).grad


Make = Callable[[torch.dtype], WellFormed]
CASES: dict[str, tuple[Make, tuple[torch.dtype, ...]]] = {}


def case(*dtypes: torch.dtype, name: str | None = None) -> Callable[[Make], Make]:
    """Register a function from a dtype to a problem, for these dtypes; float64 if none is named."""

    def register(make: Make) -> Make:
        key = (name or make.__name__).replace("_", " ")
        assert key not in CASES
        CASES[key] = make, dtypes or (DOUBLE,)
        return make

    return register


def normals(dtype: torch.dtype, seed: int = 0) -> Callable[..., torch.Tensor]:
    """A function from a shape to normal numbers, the same in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=DOUBLE).to(dtype)
