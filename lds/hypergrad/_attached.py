"""Whether the objectives and Φ have a gradient path to what they depend on: by what is reached, and by the graphs.

A graph also shows what no derivative can show: trainable tensors that nobody gave, and operations without a second
derivative. `_spot` looks at the values of one step.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lds._frames import frames_of_ours
from lds._updater import State
from lds.errors import DerivativeWarning, ForeignTensorWarning, InputError, UnreachedWarning
from lds.hypergrad._dynamics import Costate, Dynamics, Increments, Step, StepGraph
from lds.hypergrad._guards import Watcher
from lds.hypergrad._outer import Outer, SteadyTracer

# Operations that torch cannot differentiate again, by parts of the names of their nodes, and what to use instead.
_INSTEAD = {
    "CdistBackward": 'torch.cdist(…, compute_mode="use_mm_for_euclid_dist")',
    "EmbeddingBag": "torch.nn.functional.embedding(…).mean(…)",
    "ScaledDotProduct": "sdpa_kernel(SDPBackend.MATH) of torch.nn.attention, as a context around the call",
}
# These have a node all the same, which raises when it is reached.
_RAISING = ("CdistBackwardBackward0", "EmbeddingBagBackwardBackward0")
# Operations with a kink or a jump, by parts of the names of their nodes.
_KINKED = re.compile(
    "relu|threshold|hardtanh|hardswish|hardsigmoid|shrink|abs|sgn|sign|clamp|where|max|min|sort|topk|median|kthvalue"
    "|norm|round|floor|ceil|trunc|frac|fmod|remainder|heaviside|maskedfill|maskedselect|margin",
    re.IGNORECASE,
)


class Attached(Watcher):
    """Checks that F and Φ have a gradient path to what they depend on, and notes which outer variables have none."""

    def __init__(self) -> None:
        self._end = -1
        self._unseen = False
        self._looks = 0
        self._reached: set[int] = set()

    def start(self, dynamics: Dynamics, final: State, graph: StepGraph) -> None:
        """Note where the sweep begins, and whether the outer objective is somebody else's to differentiate."""
        self._end, self._unseen = final.step - dynamics.start, dynamics.attached

    def before(self, t: int, dynamics: Dynamics, step: Step, graph: StepGraph, costate: Costate) -> None:
        """Raise InputError if nothing of the step's result has a gradient path."""
        if not any(isinstance(y, Tensor) and y.requires_grad for y in graph.results):
            raise InputError(
                f"the step of {type(dynamics.updater).__name__} must be differentiable in the state and in the "
                "outer variables, but its result is detached from both; compute it without .detach(), .item() or "
                "torch.no_grad()"
            )

    def after(self, t: int, costate: Costate, increments: Increments) -> None:
        """Raise InputError if F reaches nothing."""
        reached = [i for i, cotangents in enumerate(increments) if any(c is not None for c in cotangents)]
        if t == self._end and not reached and all(p is None for p in costate):
            raise InputError(
                "the outer objective must depend on params or on outer, but its value has no gradient path to either; "
                "compute it from the arguments it is called with (of a module: params, call = functional(module), then "
                "call(params, x)), without .item(), .detach() or torch.no_grad()"
            )
        self._reached.update(reached)
        self._looks += 1

    def warn_unreached(self, outer: Outer, steps: int) -> None:
        """Warn of outer variables that neither F nor any of the swept steps reached; not where F was not seen."""
        if self._unseen:
            return
        paths = [path for i, path in enumerate(outer.paths) if i not in self._reached]
        if steps and paths and self._looks == steps + 1:  # A resumed sweep has not seen all.
            warnings.warn(
                f"nothing depends on {', '.join(paths)}, neither the outer objective nor any of the {steps} steps that "
                "were swept, so its hypergradient is zero; use it in the objectives or in the updater, take a larger "
                "horizon if earlier steps use it, or leave it out of outer",
                UnreachedWarning,
                stacklevel=frames_of_ours(),
            )


@contextmanager
def settled_by_differences() -> Iterator[None]:
    """Keep the warnings of `Attached` and `Spot` quiet, where central differences will tell all that they can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DerivativeWarning)
        warnings.simplefilter("ignore", UnreachedWarning)
        yield


class Walk(Watcher):
    """Walks over the graphs of F and of the last step, for what a derivative cannot show.

    That is a trainable tensor that is neither in params nor in outer, as a module's own weight or a closure over θ, and
    an operation whose derivative cannot be differentiated again.

    Attributes:
        kinked: whether the graph of the last step holds an operation with a kink or a jump.
    """

    def __init__(self) -> None:
        self._end = -1
        self.kinked = False

    def start(self, dynamics: Dynamics, final: State, graph: StepGraph) -> None:
        """Warn of tensors that F takes as constants."""
        self._end = final.step - dynamics.start
        if not dynamics.outer.random:  # A structure has leaves of its own.
            _walk(graph, "the outer objective", "a derivative", foreign=_what_to_do(dynamics))

    def before(self, t: int, dynamics: Dynamics, step: Step, graph: StepGraph, costate: Costate) -> None:
        """Do so for the last step, and raise InputError where a second derivative is missing."""
        if t == self._end - 1:
            try:
                self.kinked = walk_step(dynamics, graph, foreign=not dynamics.outer.random)
            except InputError:
                dynamics.met.forget()
                raise


Foreign: TypeAlias = Literal["warn", "raise", "pass"]


def _what_to_do(dynamics: Dynamics) -> Foreign:
    """Return what to do about foreign tensors: whoever trains one waits for its gradient where autograd goes on."""
    return "raise" if dynamics.attached else "warn"


def walk_step(dynamics: Dynamics, graph: StepGraph, *, foreign: bool = True) -> bool:
    """Tell whether the graph of a step holds an operation with a kink or a jump.

    Args:
        dynamics: Φ.
        graph: the step's graph.
        foreign: whether to look for foreign trainable tensors, too.

    Raises:
        InputError: an operation has no second derivative.
    """
    act: Foreign = _what_to_do(dynamics) if foreign else "pass"
    names = _walk(graph, "the inner objective, or the step,", "a second derivative", foreign=act)
    return _KINKED.search(" ".join(names)) is not None


def _walk(graph: StepGraph, who: str, needed: str, *, foreign: Foreign) -> set[str]:
    """Return the names of the nodes of a graph; look at each of them on the way."""
    steady = [tracer for tracer in graph.tracers if isinstance(tracer, SteadyTracer)]
    known = {id(x) for x in (*graph.leaves, *(x for tracer in steady for x in tracer.leaves))}
    # A leaf that an objective made for itself, such as the points of a gradient penalty, is held by nobody. Neither is
    # the tracer of an earlier step in a graph that somebody kept, which shares its memory with θ.
    shown = {_storage(x) for tracer in steady for x in tracer.leaves if x.numel()}
    ahead: list[Any] = [y.grad_fn for y in graph.results if isinstance(y, Tensor)]
    seen = set(ahead)
    names: set[str] = set()
    strangers: list[Tensor] = []
    arrives = False
    for node in ahead:  # Which grows on the way.
        if node is None:
            continue
        name = node.name()
        names.add(name)
        if name == "torch::autograd::AccumulateGrad":
            arrives = arrives or id(node.variable) in known
            held = sys.getrefcount(node.variable) > _references_of_none()
            if id(node.variable) not in known and (held or _storage(node.variable) in shown):
                strangers.append(node.variable)
        behind = [n for n, _ in node.next_functions]
        if name in _RAISING or name.endswith("::NotImplemented"):
            around = [name, *(n.name() for n in behind if n is not None)]
            instead = [text for part, text in _INSTEAD.items() if any(part in n for n in around)]
            raise InputError(
                f"{who} must have {needed}, but torch has none of an operation in it "
                f"({', '.join(around)}); use {instead[0] if instead else 'other operations'}"
            )
        ahead += [n for n in behind if n not in seen]
        seen.update(behind)
    if foreign != "pass" and strangers and arrives:  # Where nothing else arrives, that is an error.
        shapes = ", ".join(sorted({str(tuple(x.shape)) for x in strangers}))
        text = (
            f"{who} also depends on a trainable tensor of shape {shapes} that is neither in params nor in outer; it is "
            "treated as a constant: compute with the arguments (of a module: params, call = functional(module)), or "
            "detach it"
        )
        if foreign == "raise":
            raise InputError(f"unroll carries the gradient on to params and outer alone, but {text}")
        warnings.warn(text, ForeignTensorWarning, stacklevel=frames_of_ours())
    return names


@cache
def _references_of_none() -> int:
    """Return the number of references to a leaf, asked as it is above, that only its graph holds."""
    with torch.enable_grad():
        node = torch.zeros((), requires_grad=True).clone().grad_fn.next_functions[0][0]  # type: ignore[union-attr]
    return sys.getrefcount(node.variable)  # type: ignore[union-attr]


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr() if x.layout == torch.strided else id(x)
