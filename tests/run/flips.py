"""Single bits of files that are flipped, and what the readers of these files say to that."""

import warnings
from contextlib import suppress
from pathlib import Path
from random import Random
from unittest import mock

import torch

from lds._signals import Interrupted
from lds._sums import sum_of_values
from lds.ablate import AblationConfig, ablate
from lds.ablate._ablation_folder import read_ablation
from lds.errors import LDSError
from lds.learner import extract
from lds.run import TrainConfig, read_node_names, read_structure, resume, train
from lds.run._reader import PLACES, read_graph, read_run
from lds.run._saving import ProgressSaver
from lds.sweep import ProcessEngine, Spec, read_results, run_sweep
from lds.sweep._grid_folder import read_grid

CONFIG = TrainConfig("wine", "knn-lds", tau=20, max_epochs=2, samples=2, k=3, hidden=2, seed=2)
# One of the sweep.
TWO = TrainConfig("wine", "knn-lds", tau=50, max_epochs=1, samples=2, k=3, hidden=2)
FOLDERS = ("run", "interrupted", "sweep", "ablation")


class _Stopping(ProgressSaver):
    calls = 0

    def on_resumable(self, dump):
        self.calls += 1
        if self.calls == 25:  # In its second epoch.
            self._request.number = 15
        super().on_resumable(dump)


def make(root: Path) -> None:
    """Make the folders."""
    train(CONFIG, root / "run", progress=False)
    with mock.patch("lds.run._saving.ProgressSaver", _Stopping), suppress(Interrupted):
        train(CONFIG, root / "interrupted", progress=False)
    values = {name: value for name, value in TWO.as_dict().items() if value is not None}
    spec = Spec.make({"name": "two", "runs": [{**values, "method": ["knn-gcn", "knn-lds"]}]})
    run_sweep(spec, root / "sweep", ProcessEngine(1), progress=False)
    common = TrainConfig("wine", "knn-lds", interval=50, max_epochs=1, samples=2, k=3, hidden=2)
    ablate(AblationConfig(common, [0, 2], [1], 3), root / "ablation", ProcessEngine(1), progress=False)


def _tensors(values):
    """Plain values for tensors."""
    if isinstance(values, torch.Tensor):
        return [str(values.dtype), list(values.shape), values.flatten().tolist()]
    if isinstance(values, dict):
        return {str(name): _tensors(value) for name, value in values.items()}
    return [_tensors(value) for value in values] if isinstance(values, list | tuple) else values


def _graph(folder):
    graph = read_graph(folder)
    return None if graph is None else [graph.pairs.tolist(), graph.probability.tolist(), graph.num_nodes]


def _config(run):
    """What may not change: where the data lies may. What is not given is left out, for a line can become a comment."""
    return {name: value for name, value in run.config.items() if name not in PLACES and value is not None}


def _run(folder):
    """All that resume, export and report read of a run that has ended."""
    found = read_run(folder)
    structure = read_structure(folder)
    read_node_names(folder, structure.num_nodes)
    graph = extract(structure, 0.001)
    edges = [graph.edge_index.tolist(), graph.edge_weight.tolist()]
    return [resume(folder, progress=False), _config(found), found.epochs, edges, _graph(folder)]


class _GoesOnError(Exception):
    pass


def _interrupted(folder):
    """All that a run goes on with, and what a report says of it."""
    found, taken = read_run(folder), []

    def fit(learner, data, *, resume, **options):
        taken.append(resume)
        raise _GoesOnError

    with mock.patch("lds.learner.StructureLearner.fit", fit), suppress(_GoesOnError):
        resume(folder, progress=False)
    return [_config(found), found.epochs, _tensors(taken)]


def _sweep(folder):
    grid = read_grid(folder)
    runs = [[_config(run), run.result, run.epochs] for run in (*grid.done, *grid.folders)]
    outcomes = [[outcome.config, outcome.status, outcome.result] for outcome in read_results(folder)]
    return [runs, outcomes, grid.torn, [_graph(run.path) for run in grid.folders]]


def _ablation(folder):
    found = read_ablation(folder)
    curve = None if found.outcome.curve is None else vars(found.outcome.curve)
    recommendation = {name: found.recommendation[name] for name in ("horizon", "reason")}
    return [found.config, [vars(row) for row in found.outcome.rows], curve, recommendation, _sweep(folder / "sweep")]


READERS = {"run": _run, "interrupted": _interrupted, "sweep": _sweep, "ablation": _ablation}


def seen(root: Path, folder: str) -> str:
    """The values that a folder is read as, in one sum; warnings are among them."""
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        return sum_of_values(READERS[folder](root / folder))


def files_of(root: Path, folder: str) -> list[str]:
    """The files whose bits are flipped: all of them."""
    return sorted(str(path.relative_to(root / folder)) for path in (root / folder).rglob("*") if path.is_file())


def flip_all(root: Path, folder: str, flips: int, seed: int):
    """Flip bits of each file of a folder, one at a time; yield what came of them."""
    expected = seen(root, folder)
    for name in files_of(root, folder):
        path, random = root / folder / name, Random(f"{seed}/{folder}/{name}")
        whole = path.read_bytes()
        counts = {"refused": 0, "harmless": 0, "silent": 0}
        for _ in range(flips):
            changed = bytearray(whole)
            changed[random.randrange(len(whole))] ^= 1 << random.randrange(8)
            path.write_bytes(changed)
            try:
                counts["harmless" if seen(root, folder) == expected else "silent"] += 1
            except LDSError:
                counts["refused"] += 1
        path.write_bytes(whole)
        yield name, counts
