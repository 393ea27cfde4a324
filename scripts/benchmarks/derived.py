"""What deriving once saves: the hypergradient in a dense adjacency matrix of 2,708 nodes through 20 steps of a GCN.

    python scripts/benchmarks/derived.py

The matrix is an outer variable that every step sees only through its normalisation Â: computed in every step, and
once with `Derived`. Every case in a fresh process on one thread, in turn; medians. Needs the Cora files.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness import RESULTS, Row, medians, run, timed, write

CASES = ("plain unroll", "lds", "lds, Derived")
STEPS = 20


def measure(case: str) -> Row:
    import torch
    from cases import EPS, LR, DenseGraph, Problem, cora
    from torch import Tensor

    from lds.hypergrad import Derived, hypergradient
    from lds.updaters import Adam, State

    class Normalised:
        """What a model calls: products with Â."""

        def __init__(self, matrix: Tensor) -> None:
            self.propagate = matrix.matmul

    def normalise(theta: Tensor) -> Tensor:
        return DenseGraph(theta).normalised

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

    return timed(unrolled if case == "plain unroll" else engine, repeats=2, warm_up=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "derived.json")
    options = parser.parse_args()
    rows = run(__file__, [{"case": case} for case in CASES], options.rounds)
    table = medians(rows, ["case"], pair=("case", "plain unroll"))
    print(table.to_string(index=False, float_format="{:.2f}".format))
    write(options.out, threads=1, steps=STEPS, rows=table.to_dict("records"))


if __name__ == "__main__":
    main()
