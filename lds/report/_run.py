"""One run, as its folder or a line of a sweep tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from lds.errors import DataError
from lds.report._parse import Row, number_of, read_json, read_jsonl, read_yaml
from lds.run import TrainConfig

_DEFAULTS = {field.name: field.default for field in fields(TrainConfig) if field.default is not MISSING}
# What tells runs of one setting apart, and what is no part of a setting.
_NO_SETTING = ("dataset", "data", "seed", "data_root")
# The methods that learn a structure.
LEARNING = ("lds", "knn-lds")
_EPOCH = ("epoch", "inner_loss", "es_accuracy", "expected_edges")


@dataclass(frozen=True)
class Epoch:
    """One line of metrics.jsonl, see `lds.learner.EpochRecord`."""

    epoch: float
    inner_loss: float
    es_accuracy: float
    expected_edges: float
    improved: bool


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        config: its configuration; fields that are not there have their defaults.
        result: what result.json holds; None while the run goes on, and for a run that failed.
        path: its folder; None where only a line of a sweep is left.
        epochs: its outer epochs so far.
    """

    config: Mapping[str, Any]
    result: Mapping[str, Any] | None = None
    path: Path | None = None
    epochs: tuple[Epoch, ...] = ()

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
    def best(self) -> Epoch | None:
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


def read_run(path: Path) -> Run:
    """Read a run folder; a run without result.json is still going on, or was cut off.

    Raises:
        DataError: a file is malformed.
    """
    config = check_config(read_yaml(path / "config.yaml"), str(path / "config.yaml"))
    result = None
    if (path / "result.json").exists():
        result = check_result(read_json(path / "result.json"), str(path / "result.json"))
    epochs: tuple[Epoch, ...] = ()
    metrics = path / "metrics.jsonl"
    if metrics.exists():
        lines = read_jsonl(metrics)
        if lines.torn and result is not None:
            raise DataError(f"{metrics}:{len(lines.rows) + 1} ends half-way, though the run has ended; mend the line")
        epochs = tuple(_epoch(row) for row in lines.rows)
    return Run(config, result, path, epochs)


def check_config(config: Any, where: str) -> Mapping[str, Any]:
    """Return the configuration if it names a data set, or a file of one's own, and its seed is an integer.

    Raises:
        DataError: it does not.
    """
    if not isinstance(config, dict) or not isinstance(source(config), str):
        raise DataError(f"{where} needs the configuration of a run with its dataset, but holds {config!r:.80}")
    seed = config.get("seed", 0)
    if not isinstance(seed, int):
        raise DataError(f"{where} needs an integer as seed, but holds {seed!r}")
    return config


def check_result(result: Any, where: str) -> Mapping[str, Any]:
    """Return the result if it has a test accuracy.

    Raises:
        DataError: it does not.
    """
    if not isinstance(result, dict):
        raise DataError(f"{where} needs the result of a run, but holds {result!r:.80}")
    number_of(result, "test_accuracy", where)
    versions = result.get("versions", {})
    if not isinstance(versions, dict):
        raise DataError(f"{where} needs names and numbers as versions, but holds {versions!r:.80}")
    return result


def _epoch(row: Row) -> Epoch:
    epoch, loss, accuracy, edges = (number_of(row.values, name, row.where) for name in _EPOCH)
    return Epoch(epoch, loss, accuracy, edges, bool(row.values.get("improved")))
