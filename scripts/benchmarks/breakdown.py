"""Where the time of one outer epoch on Cora goes: 400 inner steps in windows of τ = 5, one thread.

    python scripts/benchmarks/breakdown.py

Also checks the factored hypergradient of one step, on Cora in float32, against the dense one on the same graphs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cases import EPS, ETA, LR, DenseAccumulator, DenseTracer, Problem, all_pairs, cora, machine

from lds.graph import AllPairs, SampledGraph
from lds.hypergrad import Reverse, hypergradient, record
from lds.updaters import Adam

TAU, WINDOWS = 5, 80


class DenseView:
    """The graphs that `structure` draws, as dense matrices."""

    def __init__(self, structure: AllPairs) -> None:
        self.structure = structure

    def draw(self) -> SampledGraph:
        return self.structure.draw()

    def trace(self, draw: SampledGraph) -> DenseTracer:
        return DenseTracer(draw.adjacency.to_dense())

    def accumulator(self) -> Any:
        return DenseAccumulator(torch.zeros(self.structure.num_nodes, self.structure.num_nodes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("experiments/results/breakdown.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = cora()
    problem, structure = Problem.of(data), all_pairs(data)
    updater = Adam(LR, eps=EPS)
    inner, outer, params = problem.inner, problem.outer, problem.params
    parts: Counter[str] = Counter()
    state = None
    for window in range(WINDOWS):
        arguments: dict[str, Any] = {"updater": updater, "steps": TAU, "seed": window, "state": state}
        draw = seconds(partial(getattr, structure.draw(), "normalised")) + seconds(structure.draw)
        forward = seconds(partial(record, inner, params, structure, **arguments, horizon=TAU))
        began = time.perf_counter()
        result = hypergradient(inner, outer, params, structure, **arguments, method=Reverse(TAU))
        whole = time.perf_counter() - began
        parts["sample"] += (TAU + 1) * draw
        parts["forward"] += forward - TAU * draw
        parts["sweep"] += whole - forward - draw
        parts["update"] += seconds(partial(structure.project_, result.grad, ETA))
        state = result.state
    total = sum(parts.values())
    for name, spent in (*parts.items(), ("total", total)):
        print(f"{name:<8} {1000 * spent / WINDOWS:6.1f} ms an outer step, {100 * spent / total:3.0f} %")
    print(f"an outer epoch of {WINDOWS} steps: {total:.1f} s")

    arguments = {"updater": updater, "steps": TAU, "seed": 0, "method": Reverse(TAU)}
    ours = hypergradient(inner, outer, params, structure, **arguments).grad.to_dense()
    dense = hypergradient(inner, outer, params, DenseView(structure), **arguments).grad
    dense = (dense + dense.T).fill_diagonal_(0)
    error = float((ours - dense).norm() / dense.norm())
    print(f"relative difference to the dense hypergradient, float32: {error:.1e}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    milliseconds = {name: 1000 * spent / WINDOWS for name, spent in parts.items()}
    options.out.write_text(
        json.dumps({"machine": machine(), "milliseconds": milliseconds, "relative_difference": error}, indent=2) + "\n"
    )


def seconds(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
