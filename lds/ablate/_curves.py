"""The truncation curves of an ablation, a file each in its folder: those that are there are not computed again."""

from __future__ import annotations

import json
import math
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from lds._files import make_folder, write_atomically
from lds._read import load_tensors, parse_json
from lds.ablate._config import AblationConfig
from lds.ablate._fidelity import fidelity
from lds.errors import DataError
from lds.hypergrad import TruncationCurve
from lds.learner import StructureLearner
from lds.run import TrainConfig, load_data
from lds.run._data import fingerprint
from lds.run._learner import make_learner
from lds.sweep import Engine, Job
from lds.sweep._identity import folder_name, identity


def curves(
    config: AblationConfig, runs: Path, folder: Path, engine: Engine, *, data_root: str | None, progress: bool
) -> tuple[list[TruncationCurve], list[str]]:
    """Return the curves of all trajectories, and a line on each trajectory that has none.

    Args:
        config: what is ablated.
        runs: folder of the run folders, from which learned graphs come.
        folder: where the curves are kept.
        engine: where the trajectories go.
        data_root: folder of the data sets.
        progress: show a progress bar over trajectories.

    Raises:
        InputError: the folder cannot be made.
        DataError: the data set is missing or corrupt.
        StorageError: a curve cannot be written.
    """
    make_folder(folder)
    steps, longest = config.fidelity_steps, max(config.horizons)
    found: dict[str, TruncationCurve] = {}
    left_out: dict[str, str] = {}
    files: dict[str, Path] = {}
    data: dict[str, str] = {}
    jobs = []
    for seed in config.seeds:
        run = replace(config.train, horizon=longest, seed=seed, data_root=data_root)
        learned = runs / folder_name(identity(run)) / "checkpoint.pt"
        seen = fingerprint(load_data(run))
        for graph, checkpoint in (("initial", None), ("learned", learned)):
            name = f"fidelity, seed {seed}, {graph} graph"
            # All else is the same for a folder, or shows in the curve and the data that it is kept with.
            files[name] = folder / f"seed-{seed}-{graph if checkpoint is None else f'horizon-{longest}'}.json"
            data[name] = seen
            kept = _read(files[name], steps, seen)
            if kept is not None:
                found[name] = kept
            elif checkpoint is None or checkpoint.exists():
                jobs.append(Job(name, _curve, (run, steps, checkpoint)))
            else:
                left_out[name] = f"{name}, is left out: the run {learned.parent.name} has no {learned.name}"
    hide = None if progress else True  # None: hidden where stderr is no terminal.
    with (
        tqdm(
            desc="fidelity",
            total=len(found) + len(jobs),
            initial=len(found),
            unit="curve",
            disable=hide,
            dynamic_ncols=True,
        ) as bar,
        closing(engine.run(jobs)) as replies,
    ):
        for job, reply in replies:
            if reply.error is None:
                content = {"data": data[job.name]} | asdict(reply.result)
                write_atomically(files[job.name], json.dumps(content).encode())
                found[job.name] = reply.result
            else:
                left_out[job.name] = f"{job.name}, is left out: {' '.join(reply.error.message.split())}"
            bar.update()
    return [found[name] for name in files if name in found], [left_out[name] for name in files if name in left_out]


def _read(path: Path, steps: int, data: str) -> TruncationCurve | None:
    """Return a curve that was kept; None where there is none, or one that is damaged or of other steps or data."""
    try:
        content = parse_json(path.read_bytes())
        same = content.pop("data") == data
        curve = TruncationCurve(**content)
        columns = (curve.relative_error, curve.cosine, curve.costate_norm)
        whole = all(len(values) == steps + 1 and all(map(_is_plain, values)) for values in columns)
    except (OSError, DataError, TypeError, LookupError, AttributeError):
        return None
    return curve if same and whole else None


def _is_plain(value: object) -> bool:
    """Tell whether a value can be one of a curve: a number, or NaN where there is no angle."""
    return isinstance(value, float) and not math.isinf(value)


def _curve(run: TrainConfig, steps: int, checkpoint: Path | None) -> TruncationCurve:
    data = load_data(run)
    learner = make_learner(run, data)
    assert isinstance(learner, StructureLearner)
    theta = None if checkpoint is None else load_tensors(checkpoint)["theta"]
    return fidelity(learner, data, steps=steps, seed=run.seed, theta=theta)
