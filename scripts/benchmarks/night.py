"""How long the experiments of the paper take on this machine when it does nothing else.

    python scripts/benchmarks/night.py

The seconds that experiments/results holds are those of a machine that did other work, so every kind of run is begun
here again: one outer epoch, as many at a time as an experiment runs. Its seconds an outer step, times the outer steps
that the runs took, are the estimate; runs without outer steps count as they were recorded. Writes
experiments/results/night.json. Needs the raw files of Cora and CiteSeer, see `lds data fetch`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from harness import RESULTS, write
from tqdm import tqdm

from lds.run import make_config, train
from lds.sweep import Job, Outcome, ProcessEngine, read_results

LEDGERS = {"table1": "table1", "missing_edges": "missing_edges", "truncation": "truncation/sweep"}
# What hardly changes the time of a step.
FREE = ("seed", "outer_lr", "metric", "retain")


def one_epoch(config: dict[str, Any]) -> float:
    """Return seconds an outer step."""
    with tempfile.TemporaryDirectory() as folder:
        result = train(make_config(config | {"max_epochs": 1}), Path(folder) / "run", progress=False)
    return float(result["seconds"] / result["outer_steps"])


def kind(outcome: Outcome) -> str:
    return json.dumps({n: v for n, v in outcome.config.items() if n not in FREE}, sort_keys=True)


def estimate(outcomes: Sequence[Outcome], seconds_a_step: dict[str, float], jobs: int) -> dict[str, float]:
    """Return hours: as recorded and as estimated, for so many runs at a time."""
    recorded = estimated = 0.0
    for outcome in outcomes:
        result = outcome.result or {}
        recorded += result["seconds"]
        steps = result["outer_steps"]
        estimated += steps * seconds_a_step[kind(outcome)] if steps else result["seconds"]
    return {"runs": len(outcomes), "recorded": recorded / 3600 / jobs, "quiet": estimated / 3600 / jobs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--out", type=Path, default=RESULTS / "night.json")
    options = parser.parse_args()
    found = {name: read_results(RESULTS / path) for name, path in LEDGERS.items()}
    first: dict[str, Outcome] = {}
    for outcome in (outcome for outcomes in found.values() for outcome in outcomes):
        if (outcome.result or {}).get("outer_steps"):
            first.setdefault(kind(outcome), outcome)
    jobs = [Job(name, one_epoch, (outcome.config,)) for name, outcome in first.items()]
    measured: dict[str, float] = defaultdict(float)
    for job, reply in tqdm(ProcessEngine(options.jobs).run(jobs), total=len(jobs), unit="run", disable=None):
        if reply.error is not None:
            raise RuntimeError(f"{job.name} failed: {reply.error.traceback}")
        measured[job.name] = reply.result
    hours = {name: estimate(outcomes, measured, options.jobs) for name, outcomes in found.items()}
    write(options.out, jobs=options.jobs, hours=hours, seconds_a_step=measured)
    print(pd.DataFrame(hours).T.to_string(float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
