"""`lds ablate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from lds._signals import goes_on
from lds.cli._parser import ConfigFile, Parser
from lds.cli._train import default_folder, show_in_groups
from lds.errors import InputError
from lds.run import TrainConfig

_RUN = (
    "config", "out", "horizons", "seeds", "fidelity_steps", "quick", "jobs", "threads", "device", "progress"
)  # fmt: skip
# What a first look takes, where nothing else is asked for.
_DEFAULTS = {"max_epochs": None, "samples": TrainConfig.samples, "seeds": [0, 1, 2, 3, 4], "fidelity_steps": 50}
_QUICK = {"max_epochs": 1, "samples": 4, "seeds": [0, 1], "fidelity_steps": 10}


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = Parser(
        "ablate", description="Train at several horizons, and compare their hypergradients with the full one."
    )
    parser.add_argument("--config", action=ConfigFile, help="YAML file with any of the options below")
    parser.add_class_arguments(TrainConfig, as_group=False, skip={"horizon", "seed"})
    parser.add_argument("--horizons", type=int, nargs="+", required=True, help="horizons to train with")
    parser.add_argument("--seeds", type=int, nargs="+", default=_DEFAULTS["seeds"], help="seeds of each horizon")
    parser.add_argument(
        "--fidelity-steps", type=int, default=50, help="inner steps of the trajectories that hypergradients come from"
    )
    parser.add_argument(
        "--out",
        type=str,
        default=None,
        help="folder; started again, the command goes on there; runs/<data>-<method>-ablation when not given",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; more than one disturbs their timing")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    parser.add_argument(
        "--quick",
        type=bool,
        default=False,
        help="a first look: one outer epoch, four graphs for a prediction, two seeds, trajectories of ten inner steps",
    )
    parser.add_argument("--progress", type=bool, default=True, help="show progress bars")
    show_in_groups(parser, _RUN)
    commands.add_subcommand("ablate", parser)


def run(options: Namespace) -> int:
    """Ablate, print the table and the recommendation, write the report; return the exit code."""
    from lds.ablate import AblationConfig, ablate
    from lds.report import write_report
    from lds.sweep import ProcessEngine

    values: dict[str, Any] = options.as_dict()
    values.pop("config")
    out, jobs, threads, progress = (values.pop(name) for name in ("out", "jobs", "threads", "progress"))
    if values.pop("quick"):
        values |= {name: value for name, value in _QUICK.items() if values[name] == _DEFAULTS[name]}
    lists = {name: values.pop(name) for name in ("horizons", "seeds", "fidelity_steps")}
    config = AblationConfig(TrainConfig(**values), **lists)
    out = default_folder(config.train, "ablation") if out is None else Path(out)
    for name, number in (("jobs", jobs), ("threads", threads)):
        if number < 1:
            raise InputError(f"{name} must be at least 1, got {number}")
    with goes_on(out):
        result, outcomes = ablate(
            config, out, ProcessEngine(jobs, threads), data_root=config.train.data_root, progress=progress
        )
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
