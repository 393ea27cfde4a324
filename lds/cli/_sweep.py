"""`lds sweep`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import Namespace

from lds._signals import goes_on
from lds.cli._parser import Parser
from lds.errors import InputError

if TYPE_CHECKING:
    from lds.sweep import Engine, Setting


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = Parser(
        "sweep",
        "SPEC",
        description="Run grids of runs over seeds, in parallel; started again, it goes on where it was.",
    )
    parser.add_argument("spec", type=str, help="YAML file with name, runs and, if wanted, description and quick")
    parser.add_argument("--out", type=str, default=None, help="folder of the sweep; runs/<name> when not given")
    parser.add_argument("--engine", type=Literal["process", "ray"], default="process", help="where the runs go")
    parser.add_argument("--address", type=str, default=None, help="ray: host:port of the cluster; auto when not given")
    parser.add_argument("--jobs", type=int, default=None, help="runs at a time; as many as fit when not given")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    parser.add_argument(
        "--quick", action="store_true", help="take the runs under `quick` in place of those under `runs`"
    )
    parser.add_argument("--keep", type=Literal["all", "metrics"], default="all", help="files of a run to keep")
    parser.add_argument("--retry-failed", action="store_true", help="repeat the runs that failed before")
    parser.add_argument("--data-root", type=str, default=None, help="folder of the data sets")
    parser.add_argument("--progress", type=bool, default=True, help="show a progress bar")
    commands.add_subcommand("sweep", parser)


def run(options: Namespace) -> int:
    """Run the grid, print a line per setting, return the exit code."""
    from lds.sweep import Spec, run_sweep, summary

    engine = _engine(options)
    spec = Spec.read(options.spec, quick=options.quick)
    out = Path(options.out or Path("runs") / spec.name)
    with goes_on(out):
        outcomes = run_sweep(
            spec,
            out,
            engine,
            keep=options.keep,
            retry_failed=options.retry_failed,
            data_root=options.data_root,
            progress=options.progress,
        )
    settings = summary(outcomes)
    print(_table(settings))
    failed = sum(setting.failed for setting in settings)
    if failed:
        print(
            f"lds: {failed} of {len(outcomes)} runs failed; {out / 'results.jsonl'} has the tracebacks, "
            "and --retry-failed repeats them",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _engine(options: Namespace) -> Engine:
    from lds.sweep import ProcessEngine, RayEngine

    for name in ("jobs", "threads"):
        if options[name] is not None and options[name] < 1:
            raise InputError(f"{name} must be at least 1, got {options[name]}")
    if options.engine == "ray":
        return RayEngine(options.address or "auto", options.jobs, options.threads)
    if options.address is not None:
        raise InputError(f"--address belongs to --engine ray, but the engine is process; drop {options.address}")
    return ProcessEngine(options.jobs or max(1, _processors() // options.threads), options.threads)


def _processors() -> int:
    # Those that this process may use, where the system tells.
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _table(settings: list[Setting]) -> str:
    names = list(dict.fromkeys(name for setting in settings for name in setting.setting))
    rows = [[*names, "test accuracy", "es accuracy", "seeds", "failed"]]
    for setting in settings:
        values = [str(setting.setting.get(name, "")) for name in names]
        accuracies = [_accuracy(setting, name) for name in ("test_accuracy", "es_accuracy")]
        rows.append([*values, *accuracies, str(len(setting.seeds)), str(setting.failed)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _accuracy(setting: Setting, name: str) -> str:
    if not setting.results:
        return "-"
    mean = setting.mean(name)
    return f"{mean.mean:.4f} ± {mean.std:.4f}" if mean.count > 1 else f"{mean.mean:.4f}"
