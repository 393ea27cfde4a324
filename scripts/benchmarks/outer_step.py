"""A whole outer step of LDS on Cora (sampling, τ inner steps, sweep, update of θ): ours against dense ways to do it.

    python scripts/benchmarks/outer_step.py --out experiments/results/outer_step.json

Every case runs in a fresh process on one thread, in turn, several rounds over; medians are compared. Seconds are those
of the processor, which others who use the machine change least. `factored` is the step as the learner takes it, with
the derivatives of the GCN by formula, and on the path of the installation, see `lds --version`; the others
differentiate by autograd, the dense recorder in the same engine. `torchopt` is left out where it is not installed.
Needs the Cora files, see `lds data fetch cora`.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from harness import RESULTS, Row, medians, run, take_kernel, timed, write

CASES = ("factored", "factored, torch", "dense recorder", "dense unroll", "torchopt unroll")


def measure(case: str, tau: int) -> Row:
    from cases import Problem, all_pairs, cora, dense_pairs, engine_step, learner_step, torchopt_step, unroll_step

    case = take_kernel(case)
    data = cora()
    problem = Problem.of(data)
    if case == "factored":
        step = learner_step(data, all_pairs(data), tau)
    elif case == "dense recorder":
        step = engine_step(problem, dense_pairs(data), tau)
    else:
        step = (unroll_step if case == "dense unroll" else torchopt_step)(problem, dense_pairs(data), tau)
    found = timed(step, repeats=15 if case == "factored" else 3, warm_up=2)
    return found | {"seconds": found["cpu"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taus", nargs="+", type=int, default=[1, 5, 20])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "outer_step.json")
    options = parser.parse_args()
    cases = [c for c in CASES if c != "torchopt unroll" or importlib.util.find_spec("torchopt")]
    specs = [{"tau": tau, "case": case} for tau in options.taus for case in cases]
    table = medians(run(__file__, specs, options.rounds), ["tau", "case"], pair=("case", "factored"))
    print(table.to_string(index=False, float_format="{:.3f}".format))
    write(options.out, threads=1, rows=table.to_dict("records"))


if __name__ == "__main__":
    main()
