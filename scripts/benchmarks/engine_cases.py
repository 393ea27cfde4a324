"""What `engine.py` measures: the problems, the cases, one measurement."""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import re
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import peers
import torch
from torch import Tensor
from unrolls import (
    MissingError,
    Rule,
    Task,
    Tree,
    UnsupportedError,
    checkpointed,
    gradients,
    lds_hypergradient,
    lds_updater,
    leaves,
    plain,
)

# Packages differ in the place of ε, and weights of tiny gradient dominate: at ε = 1e-8 their formulas are 60 % apart.
RULES = {"momentum": Rule("momentum", 0.05, momentum=0.9), "adam": Rule("adam", 1e-3, eps=1e-12)}
SIZES = (64, 256, 256, 10)
CASES: dict[str, Callable[[Task, Rule, int], Tree]] = {
    "plain unroll": plain,
    "torchopt": peers.torchopt,
    "higher": peers.higher,
    "betty": peers.betty,
    "hypertorch": peers.hypertorch,
    "torch checkpoint": checkpointed,
    "torch checkpoint, reentrant": partial(checkpointed, reentrant=True),
    "bergson": peers.bergson,
    "lds": lds_hypergradient,
    "lds KeepGraphs": partial(lds_hypergradient, memory="KeepGraphs", budget=32 * 2**30),
    "lds KeepStates": partial(lds_hypergradient, memory="KeepStates"),
    "lds Checkpoint": partial(lds_hypergradient, memory="Checkpoint"),
    "lds Binomial": partial(lds_hypergradient, memory="Binomial", snapshots=10),
    "lds Offload": partial(lds_hypergradient, memory="Offload"),
    "lds Disk": partial(lds_hypergradient, memory="Disk"),
}
FLAT = {
    "flat, horizon 20": partial(lds_hypergradient, horizon=20),
    "flat, Checkpoint": partial(lds_hypergradient, memory="Checkpoint"),
}


def mlp(samples: int = 1000) -> Task:
    """An MLP with a log-L2 penalty for every weight, on data from a random teacher."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    params = {}
    for i, (fan_in, fan_out) in enumerate(pairwise(SIZES)):
        params |= {f"w{i}": normal(fan_in, fan_out) * (2 / fan_in) ** 0.5, f"b{i}": torch.zeros(fan_out)}
    outer = {name: torch.full_like(value, -6.0) for name, value in params.items()}
    teacher = normal(SIZES[0], SIZES[-1])
    x, x_val = normal(samples, SIZES[0]), normal(samples, SIZES[0])
    y, y_val = (x @ teacher).argmax(1), (x_val @ teacher).argmax(1)
    layers = len(SIZES) - 1

    def logits(params: Tree, x: Tensor) -> Tensor:
        for i in range(layers):
            x = torch.addmm(params[f"b{i}"], x, params[f"w{i}"])
            x = torch.relu(x) if i < layers - 1 else x
        return x

    def inner(params: Tree, outer: Tree) -> Tensor:
        penalty = sum((outer[name].exp() * params[name].square()).sum() for name in params)
        return torch.nn.functional.cross_entropy(logits(params, x), y) + 0.5 * penalty

    def outer_objective(params: Tree, outer: Tree) -> Tensor:
        return torch.nn.functional.cross_entropy(logits(params, x_val), y_val)

    return Task(params, outer, inner, outer_objective)


def measure(case: str, updater: str, steps: int) -> dict[str, Any]:
    """Return times, their ratios to plain unrolling, peak memory and distance to its result; or why there are none."""
    torch.set_num_threads(1)
    rule = RULES[updater]
    calls = []
    try:
        if case == "overhead":
            return overhead(rule, steps)
        run = CASES[case] if case in CASES else FLAT[case]
        task = mlp() if case in CASES else mlp(samples=50)
        run(task, rule, 2)
        for _ in range({5: 5, 20: 3}.get(steps, 1)):
            base = fresh_peak()
            grads, wall, cpu = timed(lambda: run(task, rule, steps))
            calls.append({"wall": wall, "cpu": cpu, "peak_mib": peak_mib() - base})
            if case in CASES:  # Right after it, for the speed of the machine changes within minutes.
                fresh_peak()
                expected, plain_wall, plain_cpu = timed(lambda: plain(task, rule, steps))
                calls[-1] |= {"wall_ratio": wall / plain_wall, "cpu_ratio": cpu / plain_cpu}
                calls[-1]["difference"] = gradients_differ(grads, expected)
    except (MissingError, UnsupportedError) as reason:
        return {"absent": str(reason)}
    return {name: statistics.median(call[name] for call in calls) for name in calls[0]}


def timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what a function returns, its wall and its CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def peak_mib() -> float:
    # Not ru_maxrss: a process begins with that of the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0]) / 1024


def fresh_peak() -> float:
    """Return freed memory to the system; return what is in use, from which on `peak_mib` counts anew."""
    gc.collect()
    with suppress(AttributeError):  # Of glibc alone.
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mib()


def overhead(rule: Rule, steps: int, repeats: int = 7) -> dict[str, Any]:
    """Return CPU µs a step of lds with its defaults, of a plain unroll of the same updater, and what lies between."""
    from lds.updaters import State

    generator = torch.Generator().manual_seed(0)
    target, mixing = torch.randn(10, generator=generator), torch.randn(10, 10, generator=generator) / 10**0.5
    outer = {"curvature": torch.linspace(-1, 1, 10)}

    def inner(params: Tree, outer: Tree) -> Tensor:
        w = params["w"]
        return 0.5 * (outer["curvature"].exp() * (w - target).square()).sum() + torch.tanh(mixing @ w).sum()

    def outer_objective(params: Tree, outer: Tree) -> Tensor:
        return (params["w"] - 1).square().sum()

    task = Task({"w": torch.zeros(10)}, outer, inner, outer_objective)
    updater = lds_updater(rule)

    def unrolled() -> Tree:
        theta, params = leaves(task.outer), leaves(task.params)
        state = State(params, updater.init(params))
        for t in range(steps):
            params, slots = updater.step(state, theta, inner)[:2]
            state = State(params, slots, t + 1)
        return gradients(outer_objective(state.params, theta), theta)

    pairs = []
    for _ in range(repeats + 1):
        grads, _, ours = timed(lambda: lds_hypergradient(task, rule, steps))
        expected, _, theirs = timed(unrolled)
        pairs.append((ours / steps * 1e6, theirs / steps * 1e6))
    del pairs[0]  # It warmed up.
    return {
        "lds_us": statistics.median(a for a, _ in pairs),
        "plain_us": statistics.median(b for _, b in pairs),
        "overhead_us": statistics.median(a - b for a, b in pairs),
        "difference": gradients_differ(grads, expected),
    }


def gradients_differ(found: Tree, expected: Tree) -> float:
    """Return ‖found − expected‖ / ‖expected‖."""
    a, b = (torch.cat([tree[name].detach().flatten().double() for name in expected]) for tree in (found, expected))
    return float((a - b).norm() / b.norm())


def packages() -> dict[str, str]:
    """Return the versions of what is compared."""
    found = {}
    for name in ("torch", "lds-gnn", "torchopt", "higher", "betty-ml", "boat-torch", "bergson"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
