"""Where the time of one outer epoch on Cora goes: 400 inner steps in windows of τ = 5, one thread.

    python scripts/benchmarks/breakdown.py

Forward and sweep come by the formulas of `GCNLoss`, as the learner takes them, and by autograd, step by step in turn.
All times are of the processor. Also checks the factored hypergradient of one step, in float32, against the dense one
on the same graphs.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cases import EPS, ETA, LR, DenseAccumulator, DenseTracer, Problem, all_pairs, cora
from harness import RESULTS, Row, medians, run, take_kernel, timed, write

from lds.graph import AllPairs, SampledGraph
from lds.hypergrad import Reverse, hypergradient, record
from lds.updaters import Adam

TAU, WINDOWS = 5, 80
CASES = ("factored", "factored, torch")
PARTS = ("sample", "forward", "sweep", "update")
AUTOGRAD = ("forward by autograd", "sweep by autograd")


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


def measure(windows: int, case: str) -> Row:
    """Return milliseconds an outer step, by parts, and the relative difference of a hypergradient to the dense one."""
    take_kernel(case)
    data = cora()
    problem, structure = Problem.of(data), all_pairs(data)
    updater = Adam(LR, eps=EPS)
    inner, outer, params = problem.inner, problem.outer, problem.params
    formulas, by_autograd = (problem.inner_formula, problem.outer_formula), (inner, outer)
    parts: Counter[str] = Counter()
    state = None
    for window in range(windows):
        arguments: dict[str, Any] = {"updater": updater, "steps": TAU, "seed": window, "state": state}
        draw = seconds(partial(getattr, structure.draw(), "normalised")) + seconds(structure.draw)
        for label, (one, other) in (("", formulas), (" by autograd", by_autograd)):
            forward = seconds(partial(record, one, params, structure, **arguments, horizon=TAU))
            began = time.process_time()
            result = hypergradient(one, other, params, structure, **arguments, method=Reverse(TAU))
            whole = time.process_time() - began
            parts[f"forward{label}"] += forward - TAU * draw
            parts[f"sweep{label}"] += whole - forward - draw
        parts["sample"] += (TAU + 1) * draw
        parts["update"] += seconds(partial(structure.project_, result.grad, ETA))
        state = result.state
    arguments = {"updater": updater, "steps": TAU, "seed": 0, "method": Reverse(TAU)}
    ours = hypergradient(*formulas, params, structure, **arguments).grad.to_dense()
    dense = hypergradient(inner, outer, params, DenseView(structure), **arguments).grad
    dense = (dense + dense.T).fill_diagonal_(0)
    found = {name: 1000 * spent / windows for name, spent in parts.items()}
    return found | {"relative_difference": float((ours - dense).norm() / dense.norm())}


def seconds(action: Any) -> float:
    return float(timed(action)["cpu"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--windows", type=int, default=WINDOWS, help="outer steps")
    parser.add_argument("--out", type=Path, default=RESULTS / "breakdown.json")
    options = parser.parse_args()
    specs = [{"windows": options.windows, "case": case} for case in CASES]
    table = medians(run(__file__, specs, options.rounds), ["case"]).set_index("case")
    milliseconds = table.loc[CASES[0], list(PARTS)]
    shares = table[list(PARTS)].T.rename_axis("ms an outer step")
    shares["% of the first"] = 100 * milliseconds / milliseconds.sum()
    print(shares.to_string(float_format="{:.1f}".format))
    autograd = table[list(AUTOGRAD)].iloc[0]
    print(autograd.to_string(float_format="{:.1f}".format))
    print(f"an outer epoch of {options.windows} steps: {options.windows * milliseconds.sum() / 1000:.1f} s")
    error = float(table["relative_difference"].iloc[0])
    print(f"relative difference to the dense hypergradient, float32: {error:.1e}")
    write(
        options.out,
        threads=1,
        milliseconds=milliseconds.to_dict(),
        milliseconds_torch=table.loc[CASES[1], list(PARTS)].to_dict(),
        autograd=autograd.to_dict(),
        relative_difference=error,
    )


if __name__ == "__main__":
    main()
