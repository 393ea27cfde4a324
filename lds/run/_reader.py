"""What a run folder holds, read back: the one reader for resuming, exporting, grids of runs and reports.

`read_config` and `read_result` are strict, for a run that goes on. `read_run` takes the folder of any version, also of
a run that still goes on, for reports. `read_graph`, `read_structure` and `read_node_names` read what was learned.
Imports nothing heavy before it reads an array.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lds._callbacks import EpochRecord
from lds._files import read_file
from lds._memory import ROOM, too_large
from lds._read import (
    Line,
    check_figure,
    is_plain,
    load_arrays,
    load_tensors,
    number_of,
    parse_json,
    parse_yaml,
    read_json,
    read_jsonl,
    read_yaml,
    reason,
)
from lds._sums import check_files, check_sum, check_yaml_sum, sum_of_values, sums_of_files, warn_unverified
from lds.errors import DataError, InputError, UnverifiedWarning
from lds.run._config import BaselineConfig, TrainConfig, make_config
from lds.run._methods import METHOD

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from lds.graph import CandidatePairs, Structure

# The files of a run folder, and its folder of event files for TensorBoard.
CONFIG, METRICS, RESULT = "config.yaml", "metrics.jsonl", "result.json"
CHECKPOINT, GRAPH, PREDICTIONS, NODE_NAMES = "checkpoint.pt", "graph.npz", "predictions.npy", "node_names.json"
CLASS_NAMES, PREDICTIONS_TABLE = "class_names.json", "predictions.csv"
PROGRESS, FAILURE = "progress.pt", "failure.pt"
# What it was followed with: event files, tables, and the names of runs of other programs.
TENSORBOARD, STEPS_TABLE, EPOCHS_TABLE, MLFLOW, WANDB = (
    "tensorboard",
    "steps.csv",
    "epochs.csv",
    "mlflow.txt",
    "wandb.txt",
)
# What a run that has ended ties to its result. All but the metrics may be removed, to save room.
_TIED = (METRICS, CHECKPOINT, GRAPH, PREDICTIONS, NODE_NAMES, CLASS_NAMES, PREDICTIONS_TABLE)
# Of a configuration: where the data lies, which may change. What it holds may not.
PLACES = ("data_root", "data", "edges")

_DEFAULTS = {field.name: field.default for field in fields(TrainConfig) if field.default is not MISSING}
# What tells runs of one setting apart, and what is no part of a setting.
_NO_SETTING = ("dataset", "data", "seed", "data_root")


def read_config(folder: Path) -> TrainConfig | BaselineConfig:
    """Return the configuration that a run folder holds.

    Raises:
        InputError: there is none, or it is malformed.
    """
    path = folder / CONFIG
    try:
        return make_config(parse_yaml(read_file(path).decode("utf-8")))
    except OSError as error:
        raise InputError(
            f"{folder} must be the folder of a run, but {path} cannot be read: {error.strerror}"
        ) from error
    except (UnicodeDecodeError, InputError) as error:
        raise InputError(
            f"{path} must be the configuration of a run, but is not: {' '.join(str(error).split())}"
        ) from error


def read_fitted(folder: Path) -> TrainConfig | BaselineConfig:
    """Return the configuration of what a run has fitted, which is another one where auto has chosen.

    Raises:
        InputError: as for `read_config`.
        DataError: the result of a run that has ended is damaged, or says no method that was chosen.
    """
    config = read_config(folder)
    if METHOD[config.method].learner != "choice" or not (folder / RESULT).exists():
        return config
    return fitted(config, read_json(folder / RESULT), str(folder / RESULT))


def fitted(
    config: TrainConfig | BaselineConfig, result: Mapping[str, Any] | None, where: str
) -> TrainConfig | BaselineConfig:
    """Return the configuration of what a run has fitted, by its own and its result.

    Raises:
        DataError: the result of auto says no method that was chosen.
    """
    if not isinstance(config, TrainConfig) or METHOD[config.method].learner != "choice" or result is None:
        return config
    chosen = result.get("chosen") if isinstance(result, Mapping) else None
    try:
        return config.fitted(str(chosen))
    except InputError as error:
        raise DataError(
            f"{where} must say what {config.method} has chosen, but says {chosen!r:.80}; run again"
        ) from error


def config_of(folder: Path, config: TrainConfig | BaselineConfig | None) -> TrainConfig | BaselineConfig:
    """Return the configuration to go on with in a run folder: that which it holds, or one with its data elsewhere.

    Raises:
        InputError: the folder holds none, or another one.
    """
    found = read_config(folder)
    if config is not None and dict(found.as_dict(), data_root=None) != dict(config.as_dict(), data_root=None):
        raise InputError(f"{folder} holds a run of another configuration; choose another folder")
    return found if config is None else config


def other_field(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Return the first field in which configurations differ, and both values; None where there is none.

    Where the data lies does not count.
    """
    for field in {**now, **then}:
        if field not in PLACES and (now.get(field) != then.get(field) or field not in then):
            return str(field), then.get(field), now.get(field)
    return None


def tie(folder: Path, config: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a run with its configuration and the sums of its files, and of the result itself."""
    own = {name: value for name, value in config.items() if name not in PLACES}
    tied: dict[str, Any] = {**result, "config": own, "sums": sums_of_files(folder, _TIED)}
    return {**tied, "sums": {**tied["sums"], RESULT: sum_of_values(tied)}}


def check_unchanged(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse the configuration of a run that has not ended if it has changed since the run wrote it.

    Raises:
        DataError: it has.
    """
    check_yaml_sum(folder / CONFIG, config, "put it back, or train anew in another folder", PLACES)


def for_ledger(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a ledger keeps of a result: without the configuration, and the sum, that the ledger has itself."""
    kept = {name: value for name, value in result.items() if name != "config"}
    if isinstance(sums := kept.get("sums"), dict):
        kept["sums"] = {name: value for name, value in sums.items() if name != RESULT}
    return kept


def check_tied(
    folder: Path, config: Mapping[str, Any], result: Mapping[str, Any], files: Sequence[str] = _TIED
) -> None:
    """Compare configuration and files of a run that has ended with what it ended with.

    Args:
        folder: the run folder.
        config: what its config.yaml holds.
        result: what its result.json holds.
        files: the files to look at.

    Raises:
        DataError: one has changed, or is that of another run.
    """
    if "sums" not in result:
        warn_unverified(folder)
        return
    sums, then = result["sums"], result.get("config")
    others = {name: value for name, value in sums.items() if name != RESULT} if isinstance(sums, dict) else None
    if others is None or not isinstance(then, dict) or sum_of_values({**result, "sums": others}) != sums.get(RESULT):
        raise DataError(
            f"{folder / RESULT} must be as the run wrote it, but differs from its own sum; put it back, or remove it, "
            "and the run is repeated"
        )
    if (difference := other_field(then, config)) is not None:
        field, before, now = difference
        raise DataError(
            f"{folder / CONFIG} must be that of the run, which ended with {field:.80} {before!r:.80}, but says "
            f"{now!r:.80}; put it back"
        )
    check_files(folder, sums, files, needed=(METRICS,))


def read_result(folder: Path, files: Sequence[str] = _TIED) -> dict[str, Any]:
    """Return what result.json of a run that has ended holds; these files of it are those that it ended with.

    Raises:
        DataError: it cannot be read, or is damaged, or a file of the run has changed.
    """
    path = folder / RESULT
    try:
        result = parse_json(read_file(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the file and its rights") from error
    except DataError as error:
        raise DataError(
            f"{path} must be the result of a run, but is damaged; remove it, and the run is repeated"
        ) from error
    needed = ("test_accuracy", "outer_epochs")
    if not isinstance(result, dict) or not all(isinstance(result.get(name), int | float) for name in needed):
        raise DataError(f"{path} must hold test_accuracy and outer_epochs; remove it, and the run is repeated")
    check_tied(folder, read_yaml(folder / CONFIG), result, files)
    return result


@dataclass(frozen=True)
class Run:
    """One run, as its folder or a line of a ledger tells it.

    Attributes:
        config: its configuration; fields that are not there have their defaults.
        result: what result.json holds; None while the run goes on, and for a run that failed.
        path: its folder; None where only a line of a ledger is left.
        epochs: its outer epochs so far.
    """

    config: Mapping[str, Any]
    result: Mapping[str, Any] | None = None
    path: Path | None = None
    epochs: tuple[EpochRecord, ...] = ()

    @property
    def dataset(self) -> str:
        """Name of the data set, or the file of a user's own."""
        return str(source(self.config))

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.config.get("method", TrainConfig.method))

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.config.get("seed", TrainConfig.seed))

    @property
    def setting(self) -> str:
        """Method and values that are not the defaults, without data set and seed: what runs over seeds share."""
        own = unusual(self.config)
        parts = [f"{name} {value}" for name, value in own.items() if name not in ("method", *_NO_SETTING)]
        return ", ".join([self.method, *parts])

    @property
    def key(self) -> tuple[str, str, int]:
        """Equal for two runs of the same configuration."""
        return (self.dataset, self.setting, self.seed)

    @property
    def best(self) -> EpochRecord | None:
        """The outer epoch whose weights and structure were kept."""
        return next((epoch for epoch in reversed(self.epochs) if epoch.improved), None)

    def figure(self, name: str) -> float | None:
        """Return a number of the result; None where the method or the run has none."""
        value = None if self.result is None else self.result.get(name)
        return float(value) if isinstance(value, int | float) else None


def source(config: Mapping[str, Any]) -> Any:
    """Return what the data of a run is called."""
    return config["data"] if config.get("data") is not None else config.get("dataset")


def unusual(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not the defaults."""
    return {
        name: value
        for name, value in config.items()
        if value is not None and not (name in _DEFAULTS and value == _DEFAULTS[name])
    }


def read_run(folder: Path, files: Sequence[str] = _TIED) -> Run:
    """Read configuration, result and metrics; a run without result.json is still going on, or was cut off.

    Args:
        folder: the run folder.
        files: those of a run that has ended that must be as it ended with them.

    Raises:
        DataError: a file is malformed, or has changed since the run ended.
    """
    config = check_config(read_yaml(folder / CONFIG), str(folder / CONFIG))
    result = None
    if (folder / RESULT).exists():
        result = check_result(read_json(folder / RESULT), str(folder / RESULT))
    epochs: tuple[EpochRecord, ...] = ()
    metrics = folder / METRICS
    if metrics.exists():
        lines = read_jsonl(metrics)
        if lines.torn and result is not None:
            raise DataError(f"{metrics}:{len(lines.whole) + 1} ends half-way, though the run has ended; mend the line")
        epochs = tuple(_epoch(line) for line in lines.whole)
    if result is not None:
        check_tied(folder, config, result, files)
    else:
        check_unchanged(folder, config)
    return Run(config, result, folder, epochs)


def check_config(config: Any, where: str) -> Mapping[str, Any]:
    """Return the configuration if it names a data set, or the user's own file, and its seed is an integer.

    Raises:
        DataError: it does not.
    """
    if not isinstance(config, dict) or not isinstance(source(config), str):
        raise DataError(f"{where} needs the configuration of a run with its dataset, but holds {config!r:.80}")
    seed = config.get("seed", 0)
    if not isinstance(seed, int):
        raise DataError(f"{where} needs an integer as seed, but holds {seed!r:.80}")
    for name, value in config.items():
        check_figure(value, name, where)
    return config


def check_result(result: Any, where: str) -> Mapping[str, Any]:
    """Return the result if it has a test accuracy.

    Raises:
        DataError: it does not.
    """
    if not isinstance(result, dict):
        raise DataError(f"{where} needs the result of a run, but holds {result!r:.80}")
    number_of(result, "test_accuracy", where)
    for name, value in result.items():
        check_figure(value, name, where)
    versions = result.get("versions", {})
    if not isinstance(versions, dict):
        raise DataError(f"{where} needs names and numbers as versions, but holds {versions!r:.80}")
    return result


def _epoch(line: Line) -> EpochRecord:
    check_sum(line.values, line.where, "mend or drop the line")
    loss, accuracy, es_loss, edges = (
        number_of(line.values, name, line.where) for name in ("inner_loss", "es_accuracy", "es_loss", "expected_edges")
    )
    epoch, outer_step = (line.values.get(name) for name in ("epoch", "outer_step"))
    if type(epoch) is not int or type(outer_step) is not int:
        raise DataError(
            f"{line.where} needs integers as epoch and outer_step, but holds {epoch!r:.80}, {outer_step!r:.80}"
        )
    check_figure(epoch, "epoch", line.where, counted=True)
    check_figure(outer_step, "outer_step", line.where, counted=True)
    improved = bool(line.values.get("improved"))
    return EpochRecord(epoch, outer_step, loss, accuracy, es_loss, edges, improved)


@dataclass(frozen=True)
class SavedGraph:
    """What graph.npz holds, each pair i < j once.

    Attributes:
        pairs: the pairs, int64 of shape [2, E].
        probability: θ of each, float64 of shape [E]; what lies at or below 0.01 was not saved.
        num_nodes: number of nodes.
    """

    pairs: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float64]
    num_nodes: int


def read_graph(folder: Path) -> SavedGraph | None:
    """Return the learned structure of a run as far as it is in graph.npz; None where there is none.

    Raises:
        DataError: the file is malformed.
    """
    path = folder / GRAPH
    if not path.exists():
        return None
    try:
        arrays = load_arrays(path)
    except (OSError, DataError) as error:
        _no_graph(path, reason(error), error)
    for name, kinds in (("edge_index", "iu"), ("edge_weight", "f"), ("num_nodes", "iu")):
        if name not in arrays:
            _no_graph(path, f"it has no {name}")
        if arrays[name].dtype.kind not in kinds:
            _no_graph(path, f"{name} is of type {arrays[name].dtype}")
    if arrays["num_nodes"].size != 1:
        _no_graph(path, f"num_nodes has the shape {arrays['num_nodes'].shape}")
    index, weight = arrays["edge_index"].astype("int64"), arrays["edge_weight"].astype("float64")
    num_nodes = int(arrays["num_nodes"].item())
    if 8 * num_nodes > ROOM:  # Before anything is counted by node.
        raise DataError(reason(too_large(f"{path}: the {num_nodes} nodes of a graph", 8 * num_nodes, "run again")))
    if weight.ndim != 1 or index.shape != (2, weight.size) or not ((index >= 0) & (index < num_nodes)).all():
        raise DataError(
            f"{path} needs E pairs of {num_nodes} nodes, got shapes {index.shape} and {weight.shape}; run again"
        )
    once = index[0] < index[1]
    return SavedGraph(index[:, once], weight.ravel()[once], num_nodes)


def _no_graph(path: Path, why: str, error: Exception | None = None) -> NoReturn:
    raise DataError(f"{path} must hold edge_index, edge_weight and num_nodes, but {why}; run again") from error


def read_structure(folder: Path) -> Structure:
    """Return θ of a run that has ended: all of it from checkpoint.pt, or the fixed graph of a baseline from graph.npz.

    Raises:
        InputError: there is no run in the folder, or it has not ended, or its method has no graph.
        DataError: a file of the run is missing or damaged.

    Example:
        >>> from lds.run import TrainConfig, train
        >>> config = TrainConfig("iris", "knn-gcn", k=5)
        >>> result = train(config, Path("iris"), progress=False)
        >>> read_structure(Path("iris")).num_nodes
        150
    """
    config = read_fitted(folder)
    method = METHOD[config.method]
    ended = (folder / RESULT).exists()
    if not method.uses_graph and (ended or method.learner != "choice"):
        raise InputError(f"{folder} must be a run with a graph, but {config.method} has none; choose another run")
    if not ended:
        raise InputError(f"{folder} must be a run that has ended, but has no {RESULT}; lds train --resume {folder}")
    try:
        structure = _structure_of(folder, has_theta=method.has_theta)
    except InputError as error:
        graph, checkpoint = folder / GRAPH, folder / CHECKPOINT
        raise DataError(f"{graph} and {checkpoint} must be what a run saved, but {reason(error)}; run again") from error
    # After that: what is wrong with a damaged file says more than that it has changed.
    read_result(folder, [name for name in _TIED if name != NODE_NAMES])
    return structure


def _structure_of(folder: Path, *, has_theta: bool) -> Structure:
    import torch

    from lds.graph import AllPairs, CandidatePairs

    graph = read_graph(folder)
    if graph is None:
        raise DataError(f"there is no {GRAPH}")
    pairs = torch.from_numpy(graph.pairs)
    if not has_theta:
        return CandidatePairs(graph.num_nodes, pairs)
    saved = _read_checkpoint(folder / CHECKPOINT)
    if "pairs" in saved:
        return _on_candidates(saved, graph.num_nodes)
    theta = _checked_theta(saved, graph.num_nodes * (graph.num_nodes - 1) // 2)
    structure = AllPairs(graph.num_nodes, pairs[:, :0], dtype=theta.dtype)
    structure.restore_(theta)
    return structure


def _on_candidates(saved: dict[str, Any], num_nodes: int) -> CandidatePairs:
    """Return a structure on the candidate pairs of a checkpoint."""
    import torch

    from lds.graph import CandidatePairs

    pairs = saved["pairs"]
    if (
        not isinstance(pairs, torch.Tensor)
        or not is_plain(pairs)
        or pairs.dtype != torch.int64
        or pairs.shape[:1] != (2,)
    ):
        raise DataError("the candidate pairs are no plain tensor of two rows")
    if pairs.ndim != 2 or not pairs.numel() or not bool(((pairs >= 0) & (pairs < num_nodes)).all()):
        raise DataError(f"the candidate pairs are not all of the {num_nodes} nodes")
    theta = _checked_theta(saved, pairs.shape[1])
    structure = CandidatePairs(num_nodes, pairs[:, :0], candidates=pairs, dtype=theta.dtype)
    if not torch.equal(structure.pairs, pairs) or theta.numel() != pairs.shape[1]:
        raise DataError(f"θ has {theta.numel()} numbers for {pairs.shape[1]} candidate pairs, which are not in order")
    structure.restore_(theta)
    return structure


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        saved = load_tensors(path, "cpu")
    except OSError as error:
        raise DataError(reason(error)) from error
    if not isinstance(saved, dict):
        raise DataError("θ is no plain tensor")
    return saved


def _checked_theta(saved: dict[str, Any], least: int) -> Tensor:
    """Return θ of a checkpoint; only its exact length is left to be checked by the structure that takes it."""
    import torch

    theta = saved.get("theta")
    if not isinstance(theta, torch.Tensor) or not is_plain(theta):
        raise DataError("θ is no plain tensor")
    # Before θ of so many nodes is made.
    whole = theta.ndim == 1 and theta.numel() >= least
    if theta.dtype not in (torch.float32, torch.float64) or not whole:
        raise DataError(f"θ is {theta.dtype} of shape {tuple(theta.shape)}, not of {least} pairs or more")
    if not bool(((theta >= 0) & (theta <= 1)).all()):
        raise DataError("θ has values outside of [0, 1]")
    return theta


def read_class_names(folder: Path) -> list[str] | None:
    """Return the names of the classes of a run, in the order of their numbers; None where its data named none.

    Raises:
        DataError: the file is damaged.
    """
    return _read_names(folder, CLASS_NAMES, "classes", _check_texts)


def read_node_names(folder: Path, num_nodes: int) -> list[str] | None:
    """Return the names of the nodes of a run, in the order of their numbers; None where its data named none.

    Raises:
        DataError: the file is damaged, or that of another run.

    Example:
        >>> from lds.run import BaselineConfig, train
        >>> rows = ["id,size,label", *(f"n{i},{i % 2},{i % 2}" for i in range(40))]
        >>> _ = Path("nodes.csv").write_text(chr(10).join(rows))
        >>> result = train(BaselineConfig(data="nodes.csv"), Path("named"), progress=False)
        >>> read_node_names(Path("named"), 40)[:2]
        ['n0', 'n1']
    """
    return _read_names(folder, NODE_NAMES, "nodes", partial(_check_names, num_nodes=num_nodes))


def _read_names(folder: Path, name: str, of: str, check: Callable[[Any], None]) -> list[str] | None:
    path = folder / name
    if not path.exists():
        return None
    try:
        names: list[str] = parse_json(read_file(path))
        check(names)
    except (OSError, DataError) as error:
        raise DataError(
            f"{path} must hold the names of the {of} as a run saved them, but {reason(error)}; "
            "run again, or remove it to have numbers"
        ) from error
    _check_of_run(folder, name)
    return names


def _check_of_run(folder: Path, name: str) -> None:
    """Refuse a file that has changed since the run ended."""
    if (folder / RESULT).exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnverifiedWarning)  # Who reads the run says so.
            read_result(folder, [name])


def _check_texts(names: Any) -> None:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError("it is no list of texts")


def _check_names(names: Any, num_nodes: int) -> None:
    from lds.data.prepare import name_fault

    _check_texts(names)
    if not len(set(names)) == len(names) == num_nodes:
        raise DataError(f"it holds {len(set(names))} different ones for {num_nodes} nodes")
    if faults := [wrong for name in names if (wrong := name_fault(name)) is not None]:
        raise DataError(f"one {faults[0]}")
