"""`lds train`."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace

from lds._callbacks import Callback, EpochRecord, FoldRecord, StepRecord
from lds._signals import Interrupted
from lds._statistics import mean
from lds.cli._parser import ConfigFile, Parser
from lds.errors import InputError
from lds.run import BaselineConfig, LogName, TrainConfig, replay_failure, resume, train, train_once
from lds.run._config import DataConfig
from lds.run._environment import THREAD_COUNTS
from lds.run._methods import method_of
from lds.run._reader import CONFIG, METRICS, PROGRESS, RESULT, read_config, read_run

# Shown under these titles in the help; the rest is of the training.
_STRUCTURE = (
    "method", "retain", "candidates", "k", "metric", "random_edges", "tau", "interval", "horizon", "outer_lr", "noise",
)  # fmt: skip
_RUN = ("config", "out", "seed", "seeds", "quick", "threads", "device", "log", "progress", "resume", "replay_failure")
# What a first look takes, where nothing else is asked for.
_QUICK = {"max_epochs": 2, "samples": 4}


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = Parser(
        "train", description="Train one model and write a run folder, or go on with a run that was cut off."
    )
    parser.add_argument("--config", action=ConfigFile, help="YAML file with any of the options below")
    parser.add_class_arguments(TrainConfig, as_group=False)
    add_threads(parser)
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=None,
        help="train with each of these seeds, and print a table at the end",
    )
    parser.add_argument(
        "--quick",
        type=bool,
        default=False,
        help=f"a first look: {_QUICK['max_epochs']} outer epochs and {_QUICK['samples']} graphs for a prediction",
    )
    parser.add_argument(
        "--out",
        type=str,
        default=None,
        help="folder of the run; must be new or empty; runs/<data>-<method>-<seed> when not given. With --seeds, "
        "-<seed> is added to it",
    )
    parser.add_argument(
        "--resume",
        type=str,
        default=None,
        help="folder of a run to go on with, as it is configured; --data-root says where its data lies now",
    )
    parser.add_argument(
        "--replay-failure",
        type=str,
        default=None,
        help="folder of a run that ended on NaN or infinity: run into it again",
    )
    parser.add_argument(
        "--log",
        type=Literal["tensorboard", "csv", "mlflow", "wandb"] | None,
        default=None,
        metavar="{tensorboard,csv,mlflow,wandb}",
        help="follow the run in another program too: tensorboard (event files), csv (steps.csv and epochs.csv), mlflow "
        "or wandb; a run that is resumed goes on with it",
    )
    parser.add_argument("--progress", type=bool, default=True, help="show a progress bar")
    show_in_groups(parser, _RUN)
    commands.add_subcommand("train", parser)


def show_in_groups(parser: Parser, run: tuple[str, ...]) -> None:
    """Show the options of a training under titles: data, structure, training, and those of the run itself."""
    data = tuple(field.name for field in fields(DataConfig))
    parser.show_under("data", data)
    parser.show_under("structure", _STRUCTURE)
    training = [field.name for field in fields(TrainConfig) if field.name not in {*data, *_STRUCTURE, *run}]
    parser.show_under("training", training)
    parser.show_under("run", run)


def add_threads(parser: Parser) -> None:
    """Add --threads, which `use_threads` obeys."""
    parser.add_argument(
        "--threads",
        type=int,
        default=None,
        help="threads to compute with; $OMP_NUM_THREADS, else 1, when not given: more are faster on large graphs, with "
        "processors of their own, and change last digits",
    )


@contextmanager
def use_threads(threads: int | None) -> Iterator[None]:
    """Compute with so many threads; None leaves them to the environment, and to 1 where it says nothing.

    Must come before torch is loaded, to have threads that wait sleep: by default they spin, which on a machine that
    others use too takes many times the time.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    loaded = sys.modules.get("torch")
    if loaded is None:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if threads is not None or "OMP_NUM_THREADS" not in os.environ:
            os.environ.update(dict.fromkeys(THREAD_COUNTS, str(threads or 1)))
    if loaded is None or threads is None:
        yield
        return
    before = loaded.get_num_threads()
    loaded.set_num_threads(threads)
    try:
        yield
    finally:
        loaded.set_num_threads(before)


def run(options: Namespace) -> int:
    """Train, print the test accuracy, return the exit code."""
    values: dict[str, Any] = options.as_dict()
    values.pop("config")
    with use_threads(values.pop("threads")):
        return _run(values)


def _run(values: dict[str, Any]) -> int:
    progress, folder, out = values.pop("progress"), values.pop("resume"), values.pop("out")
    failed, log = values.pop("replay_failure"), values.pop("log")
    seeds, quick = values.pop("seeds"), values.pop("quick")
    others = {"out": out, "log": log, "seeds": seeds, "quick": quick or None}
    if failed is not None:
        _check_alone("--replay-failure", failed, values, resume=folder, **others)
        print(replay_failure(Path(failed), config=_moved(failed, values["data_root"])))
        return 0
    if folder is not None:
        _check_alone("--resume", folder, values, **others)
        with _notes_in_lines() as callbacks, _what_is_saved(Path(folder)):
            _say_what_begins(f"going on in {folder}", progress)
            result = resume(
                Path(folder), config=_moved(folder, values["data_root"]), progress=progress, callbacks=callbacks
            )
        _print_result(result, Path(folder))
        return 0
    if (values["dataset"] if values["data"] is None else values["data"]) is None:
        raise InputError("--dataset or --data is needed, or --resume with the folder of a run")
    if quick:
        defaults = {field.name: field.default for field in fields(TrainConfig)}
        values |= {name: value for name, value in _QUICK.items() if values[name] == defaults[name]}
    config = TrainConfig(**values)
    if seeds is not None:
        return _train_seeds(config, seeds, out, progress=progress, log=log)
    path = default_folder(config, str(config.seed)) if out is None else Path(out)
    with _notes_in_lines() as callbacks, _what_is_saved(path):
        _say_what_begins(_title(config), progress)
        result = train(config, path, progress=progress, log=log, callbacks=callbacks)
    _print_result(result, path)
    return 0


def default_folder(config: TrainConfig, ending: str) -> Path:
    """Return runs/<data>-<method>-<ending>."""
    name = config.source if config.data is None else Path(config.data).stem
    return Path("runs") / re.sub(r"[^\w.-]+", "_", f"{name.lower()}-{config.method}-{ending}")


def _title(config: TrainConfig) -> str:
    return f"{config.method} on {config.source}, seed {config.seed}: reading the data"


def _say_what_begins(title: str, progress: bool) -> None:
    """Say at once on a terminal what begins: it takes seconds to load torch and the data."""
    if progress and sys.stderr.isatty():
        print(f"lds: {title} …", file=sys.stderr, flush=True)


def _train_seeds(config: TrainConfig, seeds: list[int], out: str | None, *, progress: bool, log: LogName | None) -> int:
    """Train with each seed, or go on where the same command was cut off; print a table."""
    if config.seed != TrainConfig.seed:
        raise InputError(f"--seeds stands for --seed, but --seed {config.seed} came with it; drop one of them")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"seeds must be different integers, got {' '.join(map(str, seeds))}; drop those that repeat")
    results = []
    for seed in seeds:
        of_seed = replace(config, seed=seed)
        path = default_folder(of_seed, str(seed)) if out is None else Path(f"{out}-{seed}")
        with _notes_in_lines() as callbacks, _what_is_saved(path):
            _say_what_begins(_title(of_seed), progress)
            results.append((train_once(of_seed, path, progress=progress, log=log, callbacks=callbacks), path))
    print(_table(results))
    folders = " ".join(str(path) for _, path in results)
    print(_next(f"lds report {folders} --out report.html", *results[0]))
    return 0


def _table(results: list[tuple[dict[str, Any], Path]]) -> str:
    """Return a line per seed, and the mean ± standard deviation over them."""
    width = max(len(result.get("chosen", "")) for result, _ in results)
    chosen = f"{'chosen':<{width}}  " if width else ""
    lines = [f"seed  test accuracy  es accuracy  outer epochs  seconds  {chosen}run folder"]
    for result, path in results:
        chosen = f"{result['chosen']:<{width}}  " if width else ""
        lines.append(
            f"{result['seed']:>4}  {result['test_accuracy']:>13.4f}  {result['es_accuracy']:>11.4f}  "
            f"{result['outer_epochs']:>12}  {result['seconds']:>7.1f}  {chosen}{path}"
        )
    found = mean([result["test_accuracy"] for result, _ in results])
    spread = f" ± {found.std:.4f} (standard deviation)" if found.count > 1 else ""
    return "\n".join([*lines, f"mean test accuracy {found.mean:.4f}{spread} over {found.count} seeds"])


def _print_result(result: dict[str, Any], folder: Path) -> None:
    """Print the accuracy, then the best epoch, the baseline, and what may come next."""
    print(
        f"test accuracy {result['test_accuracy']:.4f} after {result['outer_epochs']} outer epochs; run folder {folder}"
    )
    if "reason" in result:  # Of auto.
        print(result["reason"])
    epochs = read_run(folder, [METRICS]).epochs
    best = next((epoch for epoch in reversed(epochs) if epoch.improved), None)
    parts = [] if best is None else [f"best outer epoch {best.epoch}, early-stopping accuracy {best.es_accuracy:.4f}"]
    if (majority := result.get("majority_accuracy")) is not None:  # Older runs have none.
        parts.append(f"the most frequent class alone has {majority:.4f} on the test nodes")
    print("; ".join([*parts, _next(f"lds report {folder}", result, folder)]))


def _next(report: str, result: dict[str, Any], folder: Path) -> str:
    """Return the commands that may come next; there is a graph to export where the method has one."""
    method = method_of(read_config(folder).method, result)
    return f"next: {report}" + (f", lds export {folder}" if method is not None and method.uses_graph else "")


class _Line(logging.Formatter):
    """Has a record look like the messages of the command line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        what = "" if record.levelno < logging.WARNING else "warning: "
        return f"lds: {what}{record.getMessage()}"


class _Begun(Callback):
    """Tells what was noted once training has begun: a run that fails on its input ends in the line that says so."""

    def __init__(self, notes: MemoryHandler) -> None:
        self._notes = notes

    def on_fold(self, record: FoldRecord) -> None:
        """Tell what was noted."""
        self._notes.flush()

    def on_step(self, record: StepRecord) -> None:
        """Tell what was noted."""
        self._notes.flush()

    def on_epoch(self, record: EpochRecord) -> None:
        """Tell what was noted, by learners without outer steps."""
        self._notes.flush()


@contextmanager
def _notes_in_lines() -> Iterator[list[Callback]]:
    """Have what is noted of data and options look like the messages of the command line.

    Yields the callbacks that show the notes.
    """
    logger = logging.getLogger("lds")
    level, propagates = logger.level, logger.propagate
    stream = logging.StreamHandler()
    stream.setFormatter(_Line())
    notes = MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1, target=stream, flushOnClose=False)
    logger.addHandler(notes)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield [_Begun(notes)]
        notes.flush()
    finally:
        logger.removeHandler(notes)
        notes.close()
        logger.setLevel(level)
        logger.propagate = propagates


@contextmanager
def _what_is_saved(out: Path) -> Iterator[None]:
    """Have a stop say what there is to go on with."""
    try:
        yield
    except Interrupted as stop:
        if (out / RESULT).exists():
            hint = f"the run in {out} has ended"
        elif (out / PROGRESS).exists():
            hint = f"lds train --resume {out} goes on from here"
        else:
            hint = "nothing was saved"
            if (out / CONFIG).exists():
                hint += f"; lds train --resume {out} starts anew"
        raise Interrupted(stop.number, hint) from None


def _moved(folder: str, data_root: str | None) -> TrainConfig | BaselineConfig | None:
    """Return the configuration of a run whose data lies elsewhere; None where nobody said so."""
    return None if data_root is None else replace(read_config(Path(folder)), data_root=data_root)


def _check_alone(option: str, folder: str, values: dict[str, Any], **others: object) -> None:
    options = [field for field in fields(TrainConfig) if field.name != "data_root"]
    given = [field.name for field in options if values[field.name] not in (field.default, None)]
    given += [name for name, value in others.items() if value is not None]
    if given:
        name = given[0].replace("_", "-")
        raise InputError(f"{option} takes everything from {folder}, but --{name} came with it; drop one of them")
