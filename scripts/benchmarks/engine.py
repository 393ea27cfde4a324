"""Time and memory of hypergradients through T inner steps: plain unrolling, other packages, every memory policy of lds.

    python scripts/benchmarks/engine.py                    # writes experiments/results/engine.json and .png
    python scripts/benchmarks/engine.py --quick            # minutes; writes runs/engine-quick.json and .png
    python scripts/benchmarks/engine.py --case lds --updater adam --steps 20      # one case, here and now

An MLP (64-256-256-10, 1,000 samples, cross-entropy) is trained for T steps; the outer variables are a log-L2 penalty
for every weight. Every case runs in a fresh process on one thread, and a plain unroll right after it in the same
process: ratios are between these two. Rounds go over all cases in turn, and medians are reported. Memory is the peak
above that after a call with two steps. CPU time is what other work on the machine disturbs least; wall time is in the
results, too. They are written after every case: run again to continue. Cases whose package or policy is not there are
listed; `peers.py` says how to install the packages.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
UPDATERS = ("momentum", "adam")
STEPS, QUICK_STEPS = (5, 20, 100, 400), (5, 20)
# Updater, steps and quick steps of the cases that are no hypergradient of the problem above.
EXTRA = {
    "overhead": (UPDATERS, (1000,), (200,)),
    "flat, horizon 20": (("momentum",), (100, 1_000, 10_000), (100,)),
    "flat, Checkpoint": (("momentum",), (100, 1_000, 10_000), (100,)),
}
TIMEOUT = 3600
Record = dict[str, Any]


def planned(cases: list[str], rounds: int, quick: bool) -> list[Record]:
    """Return all runs in order: a round goes over all cases before the next one begins."""
    runs = []
    for number in range(rounds):
        for steps in QUICK_STEPS if quick else STEPS:
            for updater in UPDATERS:
                runs += [{"case": c, "updater": updater, "steps": steps, "round": number} for c in cases]
        for case, (updaters, full, short) in EXTRA.items():
            for updater in updaters:
                steps = short if quick else full
                runs += [{"case": case, "updater": updater, "steps": t, "round": number} for t in steps]
    return runs


def run(spec: Record) -> Record:
    """Measure one case in a fresh process."""
    command = [sys.executable, __file__, "--case", spec["case"], "--updater", spec["updater"]]
    command += ["--steps", str(spec["steps"])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return {**spec, "failed": f"more than {TIMEOUT} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {**spec, "failed": lines[-1] if lines else f"ended by signal {-done.returncode}"}
    return {**spec, **json.loads(done.stdout.strip().splitlines()[-1])}


def key(record: Record) -> tuple[Any, ...]:
    return record["case"], record["updater"], record["steps"], record["round"]


def save(report: Record, path: Path) -> None:
    """Write the report; a reader sees the old or the new one, nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="T = 5 and 20, one round")
    parser.add_argument("--rounds", type=int, help="default: 3, with --quick 1")
    parser.add_argument("--cases", nargs="+", help="the cases to run, default: all")
    parser.add_argument("--out", type=Path, help="path of the results, less .json and .png")
    parser.add_argument("--fresh", action="store_true", help="do not continue from what was measured before")
    parser.add_argument("--case", help="measure this case in this process and print JSON")
    parser.add_argument("--updater", choices=UPDATERS, default=UPDATERS[0])
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    if options.case:
        from engine_cases import measure

        print(json.dumps(measure(options.case, options.updater, options.steps)))
        return

    from cases import machine
    from engine_cases import CASES, packages
    from engine_report import plot, rows, tables

    out = options.out or (ROOT / "runs/engine-quick" if options.quick else ROOT / "experiments/results/engine")
    path = out.with_suffix(".json")
    report: Record = {} if options.fresh or not path.exists() else json.loads(path.read_text())
    report |= {"machine": machine(), "threads": 1, "packages": packages()}
    measured = {key(r): r for r in report.get("runs", [])}
    absent: dict[str, str] = {}
    rounds = options.rounds or (1 if options.quick else 3)
    specs = planned(options.cases or list(CASES), rounds, options.quick)
    failed = []
    progress = tqdm(specs, disable=None)
    for spec in progress:
        progress.set_postfix_str(f"{spec['case']}, {spec['updater']}, T = {spec['steps']}")
        if key(spec) in measured or spec["case"] in absent:
            continue
        record = run(spec)
        if "absent" in record:
            absent[spec["case"]] = record["absent"]
        elif "failed" in record:
            failed.append(record)
        else:
            measured[key(spec)] = record
        report |= {"absent": absent, "failed": failed, "runs": list(measured.values())}
        save({**report, "rows": rows(report["runs"])}, path)
    report["rows"] = rows(report["runs"])
    save(report, path)
    plot(report["rows"], list(CASES), out.with_suffix(".png"))
    print(tables(report, list(CASES)))


if __name__ == "__main__":
    main()
