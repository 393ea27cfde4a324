"""Keep the graphs of the last steps, as many as a budget allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds.errors import InputError
from lds.hypergrad._attached import walk_step
from lds.hypergrad._dynamics import Dynamics, Step, StepGraph, StepResult
from lds.hypergrad.memory._states import Slab

# The size of one more graph is what the second step saves that the first one did not: both share data and θ.
MEASURED = 2


# Bytes for graphs and iterates where nobody says how many, and the share of a CUDA device's free memory.
BUDGET, SHARE = 3e8, 0.5

# A trajectory of so many steps is looked at in the first one.
LONG = 10


@dataclass(frozen=True)
class KeepGraphs:
    """Keep step graphs where a budget allows, iterates elsewhere: the sweep runs no step again whose graph is there.

    Graphs are kept of as many of the last steps as fit into the budget beside all iterates of the window. Their size is
    measured in the first two steps; if later graphs are larger, the budget is exceeded.

    Without a budget it is 300 MB on the CPU. On a CUDA device it is half of the memory that is free there, what torch
    holds in reserve included, and at least 300 MB: a step that is run again takes time that a large card can save. This
    has not been run on such a device.

    Memory: the budget, or that of `KeepStates` where this is more. Time: that of a plain unroll where all graphs fit.

    Args:
        budget: bytes for graphs and iterates; None chooses as above.

    Raises:
        InputError: the budget is negative.

    Example:
        >>> import torch
        >>> from lds.hypergrad import KeepGraphs, Reverse, hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=SGD(0.25), steps=2, method=Reverse(memory=KeepGraphs())).grad
        tensor(0.9375)
    """

    budget: float | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and not self.budget >= 0:
            raise InputError(f"budget must be a number of bytes >= 0, got {self.budget!r}")

    def tape(self, dynamics: Dynamics, leaves: Sequence[Any], first: int, last: int) -> GraphsTape:
        """Return an empty tape."""
        budget = _budget(leaves) if self.budget is None else self.budget
        return GraphsTape(dynamics, leaves, first, last, budget)


def _budget(leaves: Sequence[Any]) -> float:
    """Return the budget where none is given: what the device that has the least room for the leaves affords."""
    devices = {x.device for x in leaves if isinstance(x, Tensor) and x.device.type == "cuda"}
    return max(min((SHARE * _free(device) for device in devices), default=BUDGET), BUDGET)


def _free(device: torch.device) -> int:
    """Return the free bytes of a CUDA device, and those that torch holds there and does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


class GraphsTape:
    """States in a slab, then graphs."""

    def __init__(self, dynamics: Dynamics, leaves: Sequence[Any], first: int, last: int, budget: float) -> None:
        self._dynamics = dynamics
        self._first, self._last, self._budget = first, last, budget
        self._state_size = sum(x.nbytes for x in leaves if isinstance(x, Tensor))
        self._slab: Slab | None = None
        self._first_graph = first
        self._steps: list[Step] = []
        self._storages: set[int] = set()
        # Nothing depends on the size of a single graph.
        self._measured = 0 if last - first < MEASURED else MEASURED

    def advance(self, t: int, leaves: list[Any]) -> StepResult:
        """Take the step with a graph if it is to be kept, else keep the state."""
        if t < self._first_graph:
            assert self._slab is not None
            self._slab.store(t - self._first, leaves)
            result = self._dynamics.advance(t, leaves)
            self._steps.append(Step((), result.draws))
            return result
        if t >= self._first + self._measured:
            graph = self._dynamics.linearise(t, leaves)
        else:
            before = self._storages
            graph, saved = _with_saved(lambda: self._dynamics.linearise(t, leaves))
            self._storages = set(saved)
        if t == self._first and self._last - t >= LONG:  # The sweep looks too, but after all steps were taken.
            walk_step(self._dynamics, graph, foreign=False)
        self._steps.append(Step(leaves, graph.draws, graph))
        result = graph.result()
        if t == self._first and self._measured and self._fitting(sum(saved.values())) == self._last - self._first:
            self._measured = 1  # All fit, even if nothing in them were shared: noting what is saved takes time.
        if t == self._first + MEASURED - 1 and t < self._first + self._measured:
            self._decide(sum(size for pointer, size in saved.items() if pointer not in before))
        return result

    def load(self, t: int) -> Step:
        """Return the step; a graph is handed out once, for the sweep consumes it."""
        step = self._steps[t - self._first]
        if t < self._first_graph:
            assert self._slab is not None
            return Step(self._slab.load(t - self._first), step.draws)
        self._steps[t - self._first] = Step(step.leaves, step.draws)
        return step

    @property
    def kept_all(self) -> bool:
        """Whether the graph of every step was kept."""
        return self._first_graph == self._first

    def _fitting(self, graph_size: float) -> int:
        """Return how many graphs of this size fit into the budget beside all iterates of the window."""
        window = self._last - self._first
        room = max(self._budget - window * self._state_size, 0)
        return window if room == math.inf else int(min(room / max(graph_size, 1), window))

    def _decide(self, graph_size: float) -> None:
        """Choose the step from which on graphs are kept, now that their size is known."""
        self._storages = set()
        window, fitting = self._last - self._first, self._fitting(graph_size)
        if fitting == window:
            return
        self._first_graph = self._last - fitting
        states = window - fitting
        graphs, self._steps = self._steps, []
        self._slab = Slab(states, graphs[0].leaves)
        for row, step in enumerate(graphs):
            if row < states:
                self._slab.store(row, step.leaves)
                step = Step((), step.draws)
            self._steps.append(step)


def _with_saved(function: Callable[[], StepGraph]) -> tuple[StepGraph, dict[int, float]]:
    """Call a function; return its result, and the size in bytes of every storage that autograd saved meanwhile.

    Where torch refuses to tell, as inside of torch.func, the size is infinite, and so a graph is kept on request alone.
    """
    sizes: dict[int, float] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage() if x.layout == torch.strided else None
        if storage is not None:
            sizes[storage.data_ptr()] = storage.nbytes()
        # Not x itself: a saved result that owns the node that saved it is never freed.
        return x.detach()

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, torch.Tensor.detach):
            return function(), sizes
    except RuntimeError as error:
        if not any(text in str(error) for text in ("saved tensor hooks", "invalid python storage")):
            raise
    result = function()
    return result, {id(result): math.inf}
