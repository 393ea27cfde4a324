"""What deriving once saves: the hypergradient in a dense adjacency matrix of 2,708 nodes through 20 steps of a GCN.

    python scripts/benchmarks/derived.py

The matrix is an outer variable that every step sees only through its normalisation Â: computed in every step, and
once with `Derived`. Every case in a fresh process on one thread, in turn; medians. Needs the Cora files.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

CASES = ("plain unroll", "lds", "lds, Derived")
STEPS = 20


def measure(case: str, repeats: int) -> dict[str, float]:
    import torch
    from cases import EPS, LR, DenseGraph, Problem, cora, timed
    from torch import Tensor

    from lds.hypergrad import Derived, hypergradient
    from lds.updaters import Adam, State

    class Normalised:
        """What a model calls: products with Â."""

        def __init__(self, matrix: Tensor) -> None:
            self.propagate = matrix.matmul

    def normalise(theta: Tensor) -> Tensor:
        return DenseGraph(theta).normalised

    torch.set_num_threads(1)
    data = cora()
    problem = Problem.of(data)
    theta = torch.zeros(data.num_nodes, data.num_nodes)
    theta[data.edge_index[0], data.edge_index[1]] = 1.0
    updater = Adam(LR, eps=EPS)

    def objectives(derived: bool) -> list[Any]:
        def wrap(function: Any) -> Any:
            return lambda p, o: function(p, Normalised(o if derived else normalise(o)))

        return [wrap(problem.inner), wrap(problem.outer)]

    def unrolled() -> Any:
        inner, outer_objective = objectives(derived=False)
        leaf = theta.clone().requires_grad_()
        params = {name: p.clone().requires_grad_() for name, p in problem.params.items()}
        state = State(params, updater.init(params))
        for t in range(STEPS):
            state = State(*updater.step(state, leaf, inner)[:2], t + 1)
        return torch.autograd.grad(outer_objective(state.params, leaf), leaf)

    def engine() -> Any:
        derived = case == "lds, Derived"
        outer = Derived(normalise, theta) if derived else theta
        return hypergradient(*objectives(derived), problem.params, outer, updater=updater, steps=STEPS)

    return timed(unrolled if case == "plain unroll" else engine, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("experiments/results/derived.json"))
    parser.add_argument("--measure", metavar="CASE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, 2)))
        return
    from cases import machine

    rounds: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    for _ in range(options.rounds):
        for case in CASES:
            command = [sys.executable, __file__, "--measure", case]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            rounds[case].append(json.loads(done.stdout))
    rows = []
    for case, found in rounds.items():
        seconds = statistics.median(r["seconds"] for r in found)
        rows.append({"case": case, "seconds": seconds, "peak_rss_mb": max(r["peak_rss_mb"] for r in found)})
        print(f"{case:<14} {seconds:6.2f} s  {rows[-1]['peak_rss_mb']:6.0f} MiB", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps({"machine": machine(), "threads": 1, "steps": STEPS, "rows": rows}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
