"""Bilevel problems, inner optimizers with the formulas of torch.optim, and their hypergradients: plain and by lds."""

from __future__ import annotations

import inspect
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Tree = dict[str, Tensor]
Objective = Callable[[Tree, Tree], Tensor]
Slots = dict[str, tuple[Tensor, ...]]


class MissingError(Exception):
    """A package, or a part of one, is not there."""


class UnsupportedError(Exception):
    """A package is there, but does not offer what is asked for."""


@dataclass(frozen=True)
class Task:
    """min over θ of F(w_T, θ), where w_T comes of T steps down L(w, θ). Objectives are plain functions."""

    params: Tree
    outer: Tree
    inner: Objective
    outer_objective: Objective


@dataclass(frozen=True)
class Rule:
    """An inner optimizer with the conventions and the formulas of torch.optim.

    `eps_place` says where Adam and RMSprop have their ε: "outside", √v̂ + ε, is torch.optim's; "inside" is √(v̂ + ε²);
    "uncorrected", (√v + ε)/√(1 − β₂ᵗ), is what torch.optim's Adam had until 1.2. `at_zero=0` takes the derivative of
    the root at v = 0 for 0; with None it is autograd's.
    """

    name: Literal["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop"]
    lr: float
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    eps_place: Literal["outside", "inside", "uncorrected"] = "outside"
    at_zero: int | None = None

    @property
    def moments(self) -> int:
        """Number of slots a weight."""
        return {"adam": 2, "adamw": 2, "rmsprop": 1}.get(self.name, int(self.momentum > 0))

    def init(self, params: Tree) -> Slots:
        return {name: (torch.zeros_like(w),) * self.moments for name, w in params.items()}

    def step(self, t: int, w: Tensor, g: Tensor, slots: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return a weight and its slots after step t = 1, 2, …"""
        if self.name == "adamw":
            w = w * (1 - self.lr * self.weight_decay)
        elif self.weight_decay:
            g = g + self.weight_decay * w
        if self.name == "rmsprop":
            v = self.alpha * slots[0] + (1 - self.alpha) * g * g
            return w - self.lr * g / self._root(v, 1.0), (v,)
        if self.name in ("adam", "adamw"):
            m = self.betas[0] * slots[0] + (1 - self.betas[0]) * g
            v = self.betas[1] * slots[1] + (1 - self.betas[1]) * g * g
            denominator = self._root(v, 1 - self.betas[1] ** t)
            return w - self.lr / (1 - self.betas[0] ** t) * m / denominator, (m, v)
        if not self.momentum:
            return w - self.lr * g, ()
        buffer = self.momentum * slots[0] + g
        return w - self.lr * (g + self.momentum * buffer if self.name == "nesterov" else buffer), (buffer,)

    def _root(self, v: Tensor, correction: float) -> Tensor:
        if self.eps_place == "inside":
            return (v / correction + self.eps**2).sqrt()
        root = v.sqrt() if self.at_zero is None else torch.where(v > 0, torch.where(v > 0, v, 1.0).sqrt(), 0.0)
        eps = self.eps * math.sqrt(correction) if self.eps_place == "outside" else self.eps
        return (root + eps) / math.sqrt(correction)

    def torch_optimizer(self, params: Any) -> torch.optim.Optimizer:
        """Return the optimizer of torch.optim that this is."""
        if self.name in ("adam", "adamw"):
            kind = torch.optim.Adam if self.name == "adam" else torch.optim.AdamW
            return kind(params, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)
        if self.name == "rmsprop":
            return torch.optim.RMSprop(
                params, lr=self.lr, alpha=self.alpha, eps=self.eps, weight_decay=self.weight_decay
            )
        nesterov = self.name == "nesterov"
        return torch.optim.SGD(
            params, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=nesterov
        )


class Weights(nn.Module):
    """The inner parameters as a module; calling it evaluates the inner objective."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.inner = task.inner
        self.names = list(task.params)
        for name, value in task.params.items():
            self.register_parameter(name, nn.Parameter(value.detach().clone()))

    def forward(self, outer: Tree) -> Tensor:
        return self.inner({name: getattr(self, name) for name in self.names}, outer)


def leaves(tree: Tree) -> Tree:
    """Return new leaves of autograd with the values of a tree."""
    return {name: value.detach().clone().requires_grad_() for name, value in tree.items()}


def gradients(loss: Tensor, tree: Tree, **options: Any) -> Tree:
    """Return the gradient of a loss by the leaves of a tree, zeros for those that it does not depend on."""
    found = torch.autograd.grad(loss, list(tree.values()), allow_unused=True, **options)
    return {name: torch.zeros_like(x) if g is None else g for (name, x), g in zip(tree.items(), found, strict=True)}


def gradients_differ(found: Tree, expected: Tree) -> float:
    """Return ‖found − expected‖ / ‖expected‖."""
    a, b = (torch.cat([tree[name].detach().flatten().double() for name in expected]) for tree in (found, expected))
    return float((a - b).norm() / b.norm())


def ten_weights() -> Task:
    """Ten weights with a learned curvature each: a step costs next to nothing, so what an engine adds shows."""
    generator = torch.Generator().manual_seed(0)
    target, mixing = torch.randn(10, generator=generator), torch.randn(10, 10, generator=generator) / 10**0.5

    def inner(params: Tree, outer: Tree) -> Tensor:
        w = params["w"]
        return 0.5 * (outer["curvature"].exp() * (w - target).square()).sum() + torch.tanh(mixing @ w).sum()

    def outer_objective(params: Tree, outer: Tree) -> Tensor:
        return (params["w"] - 1).square().sum()

    return Task({"w": torch.zeros(10)}, {"curvature": torch.linspace(-1, 1, 10)}, inner, outer_objective)


def plain(task: Task, rule: Rule, steps: int, horizon: int | None = None) -> Tree:
    """Unroll with create_graph=True, then one backward pass."""
    outer, params = leaves(task.outer), leaves(task.params)
    slots = rule.init(params)
    for t in range(1, steps + 1):
        if horizon is not None and t == steps - horizon + 1:
            params = leaves(params)
            slots = {name: tuple(x.detach() for x in old) for name, old in slots.items()}
        params, slots = _step(task, rule, t, params, slots, outer)
    return gradients(task.outer_objective(params, outer), outer)


def final_params(task: Task, rule: Rule, steps: int) -> Tree:
    """Return w_T of the formulas above."""
    outer, params = leaves(task.outer), leaves(task.params)
    slots = rule.init(params)
    for t in range(1, steps + 1):
        params, slots = _step(task, rule, t, leaves(params), slots, outer)
    return params


def _step(task: Task, rule: Rule, t: int, params: Tree, slots: Slots, outer: Tree) -> tuple[Tree, Slots]:
    grads = gradients(task.inner(params, outer), params, create_graph=True)
    moved = {name: rule.step(t, w, grads[name], slots[name]) for name, w in params.items()}
    return {name: w for name, (w, _) in moved.items()}, {name: slots for name, (_, slots) in moved.items()}


def checkpointed(task: Task, rule: Rule, steps: int, *, reentrant: bool = False) -> Tree:
    """Unroll with torch.utils.checkpoint around each step."""
    outer, params = leaves(task.outer), leaves(task.params)
    names, count = list(params), len(params)

    def step(t: int, *flat: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():  # The reentrant variant calls this without gradients first.
            if not torch.is_tensor(flat[0].grad_fn) and not flat[0].requires_grad:
                flat = tuple(x.detach().requires_grad_() for x in flat)
            tree = dict(zip(names, flat[:count], strict=True))
            rest = iter(flat[count:])
            slots = {name: tuple(next(rest) for _ in range(rule.moments)) for name in names}
            tree, slots = _step(task, rule, t, tree, slots, dict(zip(outer, rest, strict=True)))
            return *tree.values(), *(x for name in names for x in slots[name])

    state = (*params.values(), *(x for slot in rule.init(params).values() for x in slot))
    for t in range(1, steps + 1):
        state = checkpoint(step, t, *state, *outer.values(), use_reentrant=reentrant)
    loss = task.outer_objective(dict(zip(names, state[:count], strict=True)), outer)
    if not reentrant:
        return gradients(loss, outer)
    loss.backward()
    return {name: torch.zeros_like(x) if x.grad is None else x.grad for name, x in outer.items()}


def lds_updater(rule: Rule) -> Any:
    """Return the updater of lds that does what a rule does, ε aside."""
    import lds.updaters

    name = {"adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}.get(rule.name, "SGD")
    options: dict[str, Any] = {"lr": rule.lr}
    if name == "SGD":
        options |= {"momentum": rule.momentum, "nesterov": rule.name == "nesterov"}
    elif name == "RMSprop":
        options |= {"alpha": rule.alpha, "eps": rule.eps}
    else:
        options |= {"betas": rule.betas, "eps": rule.eps}
    if rule.weight_decay or name == "AdamW":
        options["weight_decay"] = rule.weight_decay
    kind = getattr(lds.updaters, name, None)
    if kind is None:
        raise MissingError(f"lds.updaters has no {name}")
    if unknown := options.keys() - inspect.signature(kind).parameters.keys():
        raise UnsupportedError(f"lds.updaters.{name} takes no {', '.join(sorted(unknown))}")
    return kind(**options)


def lds_hypergradient(
    task: Task,
    rule: Rule,
    steps: int,
    horizon: int | None = None,
    memory: str | None = None,
    traced: bool = False,
    **options: Any,
) -> Tree:
    """The engine of this repository, under one of its memory policies, or with its default."""
    import lds.hypergrad

    updater = lds.hypergrad.Traced(lds_updater(rule)) if traced else lds_updater(rule)
    if memory is not None and not hasattr(lds.hypergrad, memory):
        raise MissingError(f"lds.hypergrad has no {memory}")
    with tempfile.TemporaryDirectory() as folder:
        if memory is None:
            method = lds.hypergrad.Reverse(horizon=horizon)
        else:
            place = {"folder": Path(folder) / "steps"} if memory == "Disk" else {}
            method = lds.hypergrad.Reverse(horizon=horizon, memory=getattr(lds.hypergrad, memory)(**options, **place))
        result = lds.hypergrad.hypergradient(
            task.inner, task.outer_objective, task.params, task.outer, updater=updater, steps=steps, method=method
        )
    return result.grad
