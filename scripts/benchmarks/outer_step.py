"""A whole outer step of LDS on Cora (sampling, τ inner steps, sweep, update of θ): ours against dense ways to do it.

    python scripts/benchmarks/outer_step.py --out experiments/results/outer_step.json

Every case runs in a fresh process on one thread, in turn, several rounds over; medians are compared. `torchopt` is
left out where it is not installed. Needs the Cora files, see `lds data fetch cora`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

CASES = ("factored", "dense recorder", "dense unroll", "torchopt unroll")


def measure(case: str, tau: int, repeats: int) -> dict[str, float]:
    import torch
    from cases import Problem, all_pairs, cora, dense_pairs, engine_step, timed, torchopt_step, unroll_step

    torch.set_num_threads(1)
    data = cora()
    problem = Problem.of(data)
    if case == "factored":
        step = engine_step(problem, all_pairs(data), tau)
    elif case == "dense recorder":
        step = engine_step(problem, dense_pairs(data), tau)
    else:
        step = (unroll_step if case == "dense unroll" else torchopt_step)(problem, dense_pairs(data), tau)
    return timed(step, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taus", nargs="+", type=int, default=[1, 5, 20])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("experiments/results/outer_step.json"))
    parser.add_argument("--measure", nargs=3, metavar=("CASE", "TAU", "REPEATS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        case, tau, repeats = options.measure
        print(json.dumps(measure(case, int(tau), int(repeats))))
        return

    cases = [c for c in CASES if c != "torchopt unroll" or importlib.util.find_spec("torchopt")]
    table = []
    for tau in options.taus:
        rounds: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
        for _ in range(options.rounds):
            for case in cases:
                repeats = 15 if case == "factored" else 3
                command = [sys.executable, __file__, "--measure", case, str(tau), str(repeats)]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                rounds[case].append(json.loads(done.stdout))
        ours = statistics.median(r["seconds"] for r in rounds["factored"])
        for case in cases:
            seconds = statistics.median(r["seconds"] for r in rounds[case])
            peak = max(r["peak_rss_mb"] for r in rounds[case])
            table.append({"tau": tau, "case": case, "seconds": seconds, "ratio": seconds / ours, "peak_rss_mb": peak})
            print(f"τ = {tau:>2}  {case:<16} {seconds:8.3f} s  {seconds / ours:6.1f}×  {peak:7.0f} MiB", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    from cases import machine

    report = {"machine": machine(), "threads": 1, "rows": table}
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
