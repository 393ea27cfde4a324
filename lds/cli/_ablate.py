"""`lds ablate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from lds._signals import goes_on
from lds.cli._parser import ConfigFile, Parser
from lds.run import TrainConfig


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = Parser(description="Train at several horizons, and compare their hypergradients with the full one.")
    parser.add_argument("--config", action=ConfigFile, help="YAML file with any of the options below")
    parser.add_class_arguments(TrainConfig, as_group=False, skip={"horizon", "seed"})
    parser.add_argument("--horizons", type=int, nargs="+", required=True, help="horizons to train with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds of each horizon")
    parser.add_argument(
        "--fidelity-steps", type=int, default=50, help="inner steps of the trajectories that hypergradients come from"
    )
    parser.add_argument("--out", type=str, required=True, help="folder; started again, the command goes on there")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; more than one disturbs their timing")
    parser.add_argument("--progress", type=bool, default=True, help="show progress bars")
    commands.add_subcommand("ablate", parser)


def run(options: Namespace) -> int:
    """Ablate, print the table and the recommendation, write the report; return the exit code."""
    from lds.ablate import AblationConfig, ablate
    from lds.report import write_report
    from lds.sweep import ProcessEngine

    values: dict[str, Any] = options.as_dict()
    values.pop("config")
    out, jobs, progress = Path(values.pop("out")), values.pop("jobs"), values.pop("progress")
    lists = {name: values.pop(name) for name in ("horizons", "seeds", "fidelity_steps")}
    config = AblationConfig(TrainConfig(**values), **lists)
    with goes_on(out):
        result, outcomes = ablate(config, out, ProcessEngine(jobs), data_root=config.train.data_root, progress=progress)
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    print(result.table())
    if result.rows:
        recommendation = result.recommendation()
        print(f"recommended horizon: {recommendation.horizon}: {recommendation.reason}")
    write_report([out], out / "report.html", data_root=config.train.data_root, force=True)
    print(f"report {out / 'report.html'}")
    for line in result.left_out:
        print(f"lds: warning: {line}", file=sys.stderr)
    if failed:
        print(f"lds: {failed} of {len(outcomes)} runs failed; the report has their tracebacks", file=sys.stderr)
    return 1 if failed or result.left_out else 0
