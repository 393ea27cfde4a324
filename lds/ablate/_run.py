"""An ablation of structure learning on a data set, into a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from lds._files import write_atomically
from lds._read import load_tensors, parse_yaml, reason
from lds.ablate._ablation import Ablation, Row
from lds.ablate._config import AblationConfig
from lds.ablate._fidelity import average, fidelity
from lds.errors import DataError, InputError
from lds.hypergrad import TruncationCurve
from lds.learner import StructureLearner
from lds.run import TrainConfig, load_data
from lds.run._learner import make_learner
from lds.sweep import Engine, Job, Outcome, ProcessEngine, Spec, run_sweep
from lds.sweep._identity import folder_name, identity

CONFIG = "ablation.yaml"
RUNS = "sweep"


def ablate(
    config: AblationConfig,
    out: Path | str,
    engine: Engine | None = None,
    *,
    data_root: str | None = None,
    progress: bool = True,
) -> tuple[Ablation, list[Outcome]]:
    """Train at every horizon with every seed, compare hypergradients of all depths, write the folder `out`.

    The runs are a sweep: what has finished is not repeated when this is called again. Hypergradients are compared for
    every seed on two trajectories, at the initial graph and at what the longest horizon learned.

    Args:
        config: what to ablate.
        out: folder; gets ablation.yaml, ablation.csv, fidelity.csv, recommendation.json, and the runs as a sweep
            in the folder sweep.
        engine: where the runs go; one process at a time on this machine when None.
        data_root: folder of the data sets.
        progress: show a progress bar over runs.

    Returns:
        The ablation, and the outcomes of its runs; those that failed have no row.

    Raises:
        InputError: an argument is out of range, or the folder holds something else or another ablation.
        DataError: the data set is missing or corrupt.
    """
    out = Path(out)
    engine = ProcessEngine(1) if engine is None else engine
    _claim(config, out)
    outcomes = run_sweep(_spec(config), out / RUNS, engine, data_root=data_root, progress=progress)
    rows = [
        Row(
            o.config["horizon"],
            o.config["seed"],
            *(o.result[name] for name in ("test_accuracy", "es_accuracy", "seconds", "peak_rss_mb")),
        )
        for o in outcomes
        if o.result is not None
    ]
    rows.sort(key=lambda row: (row.horizon, row.seed))
    result = Ablation(tuple(rows))
    result.write(out)
    longest = max(config.horizons)
    jobs = [
        Job(f"fidelity, seed {seed}, {'learned' if learned else 'initial'} graph", _curve, (run, steps, checkpoint))
        for seed in config.seeds
        for run in [replace(config.train, horizon=longest, seed=seed, data_root=data_root)]
        for steps in [config.fidelity_steps]
        for learned, checkpoint in (
            (False, None),
            (True, out / RUNS / "runs" / folder_name(identity(run)) / "checkpoint.pt"),
        )
        if checkpoint is None or checkpoint.exists()
    ]
    curves = []
    for job, reply in engine.run(jobs):
        if reply.error is not None:
            raise InputError(f"{job.name}: {reply.error.message}")
        curves.append(reply.result)
    result = replace(result, curve=average(curves))
    result.write(out)
    return result, outcomes


def _claim(config: AblationConfig, out: Path) -> None:
    """Write the configuration, unless the folder holds another one."""
    path = out / CONFIG
    if path.exists():
        found = _read_config(path)
        mine = config.as_dict()
        grown = ("horizons", "seeds", "fidelity_steps")
        if not isinstance(found, dict) or any(found.get(name) != mine[name] for name in mine if name not in grown):
            raise InputError(f"{out} holds an ablation of another configuration; choose another --out")
    elif out.is_dir() and any(out.iterdir()):
        raise InputError(
            f"{out} must be new, empty or the folder of an ablation, but holds files; choose another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, yaml.safe_dump(config.as_dict(), sort_keys=False).encode())


def _read_config(path: Path) -> Any:
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the file and its rights") from error
    except (UnicodeDecodeError, DataError) as error:
        raise DataError(f"{path} must be YAML, but {reason(error)}; choose another --out") from error


def _spec(config: AblationConfig) -> Spec:
    common = {n: v for n, v in identity(config.train).items() if n not in ("horizon", "seed")}
    grid = common | {"horizon": list(config.horizons), "seed": list(config.seeds)}
    return Spec.make({"name": "ablation", "description": "truncation depths", "runs": [grid]})


def _curve(run: TrainConfig, steps: int, checkpoint: Path | None) -> TruncationCurve:
    data = load_data(run)
    learner = make_learner(run, data)
    assert isinstance(learner, StructureLearner)
    theta = None if checkpoint is None else load_tensors(checkpoint)["theta"]
    return fidelity(learner, data, steps=steps, seed=run.seed, theta=theta)
