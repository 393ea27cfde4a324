"""An ablation of structure learning on a data set, into a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from lds._files import alone, make_folder, write_atomically
from lds._read import parse_yaml, reason
from lds.ablate._ablation import Ablation, Row
from lds.ablate._config import AblationConfig
from lds.ablate._curves import curves
from lds.ablate._fidelity import average
from lds.errors import DataError, InputError
from lds.run import load_data
from lds.sweep import Engine, Outcome, ProcessEngine, Spec, run_sweep
from lds.sweep._identity import identity

CONFIG = "ablation.yaml"
RUNS = "sweep"
CURVES = "fidelity"


def ablate(
    config: AblationConfig,
    out: Path | str,
    engine: Engine | None = None,
    *,
    data_root: str | None = None,
    progress: bool = True,
) -> tuple[Ablation, list[Outcome]]:
    """Train at every horizon with every seed, compare hypergradients of all depths, write the folder `out`.

    The runs are a sweep: what has finished is not repeated when this is called again, what failed is. Hypergradients
    are compared for every seed on two trajectories, at the initial graph and at what the longest horizon learned; a
    trajectory that fails is left out of the curve, and tried again when this is called again.

    Args:
        config: what to ablate.
        out: folder; gets ablation.yaml, ablation.csv, fidelity.csv, recommendation.json, the runs as a sweep in the
            folder sweep, and the curve of each trajectory in the folder fidelity.
        engine: where the runs go; one process at a time on this machine when None.
        data_root: folder of the data sets.
        progress: show progress bars over runs and trajectories.

    Returns:
        The ablation, and the outcomes of its runs; those that failed have no row. Without a trajectory that succeeds
        there is no curve.

    Raises:
        InputError: the folder cannot be made, or holds something else or another ablation, or another process is at
            work in it; or the data or the version is another than before, see `run_sweep`.
        DataError: the data set is unknown, missing or corrupt.
        StorageError: a file cannot be written.
    """
    out = Path(out)
    engine = ProcessEngine(1) if engine is None else engine
    # Missing data is one error here, before anything is written, and not a failure of every run.
    load_data(replace(config.train, data_root=data_root))
    with alone(out):
        _claim(config, out)
        outcomes = run_sweep(
            _spec(config), out / RUNS, engine, retry_failed=True, data_root=data_root, progress=progress
        )
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
        found, left_out = curves(
            config, out / RUNS / "runs", out / CURVES, engine, data_root=data_root, progress=progress
        )
        result = replace(result, curve=average(found) if found else None, left_out=tuple(left_out))
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
    make_folder(out)
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
