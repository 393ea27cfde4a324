"""The description of grids of runs in a YAML file, and what makes two runs the same."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from lds._files import read_file, refuse_links
from lds._read import parse_yaml
from lds._sums import check_yaml_sum, warn_unverified, yaml_with_sum
from lds.errors import DataError, InputError
from lds.run import BaselineConfig, TrainConfig, make_config

_FIELDS = ("name", "description", "runs", "quick")
_MOST_RUNS = 100_000
# File systems take 255, and the names of temporary files and locks are longer.
_LONGEST_NAME = 200
# Part of what makes a run, also where they have their defaults.
_ALWAYS = ("method", "seed")


@dataclass(frozen=True)
class Spec:
    """The runs to do, as one or more grids.

    Attributes:
        name: a short name, the default of the folder's.
        description: what the runs are for.
        runs: the grids as they were given; a list among the values is an axis.
        configs: a configuration for every run, in the order of the grids, the last axis fastest.

    Example:
        >>> grid = {"dataset": "iris", "method": "svm", "C": [0.1, 1.0], "seed": [1, 2]}
        >>> spec = Spec.make({"name": "svm", "runs": [grid]})
        >>> [(config.C, config.seed) for config in spec.configs]
        [(0.1, 1), (0.1, 2), (1.0, 1), (1.0, 2)]
    """

    name: str
    description: str
    runs: tuple[Mapping[str, Any], ...]
    configs: tuple[TrainConfig | BaselineConfig, ...]

    @classmethod
    def read(cls, path: Path | str, *, quick: bool = False) -> Spec:
        """Read a YAML file.

        Args:
            path: the file, with `name`, `runs` and, if wanted, `description` and `quick`.
            quick: take the runs under `quick` in place of those under `runs`.

        Raises:
            InputError: the file cannot be read, or is no description of runs.
        """
        try:
            text = read_file(Path(path), links=True).decode("utf-8")
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: {error}") from error
        try:
            values = parse_yaml(text)
        except DataError as error:
            raise InputError(f"{path} must be a YAML file, but is not: {error}") from error
        try:
            return cls.make(values, quick=quick)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    @classmethod
    def of_folder(cls, path: Path) -> Spec:
        """Read the file that a sweep wrote into its folder.

        Raises:
            InputError: as for `read`; or it is a link, or has changed since.
        """
        refuse_links(path.parent, path.name)
        spec = cls.read(path)
        if not check_yaml_sum(path, parse_yaml(read_file(path).decode()), "put it back, or remove it"):
            warn_unverified(path)
        return spec

    @classmethod
    def make(cls, values: Any, *, quick: bool = False) -> Spec:
        """Return the runs that the values of a YAML file describe.

        Raises:
            InputError: a name is unknown, a type is wrong, a grid is empty, or a run is there twice.
        """
        if not isinstance(values, dict):
            raise InputError(f"a sweep must be a mapping with {', '.join(_FIELDS)}, got {type(values).__name__}")
        if unknown := [name for name in values if name not in _FIELDS]:
            raise InputError(f"{unknown[0]!r:.80} is no part of a sweep; it has {', '.join(_FIELDS)}")
        name, description = values.get("name"), values.get("description", "")
        if not isinstance(name, str) or not name or "/" in name or name.startswith(".") or not name.isprintable():
            raise InputError(f"name must be a text that can name a folder, got {name!r:.80}")
        if (size := len(name.encode())) > _LONGEST_NAME:
            raise InputError(f"name must have at most {_LONGEST_NAME} bytes, got {size}: {name!r:.80}; shorten it")
        if not isinstance(description, str):
            raise InputError(f"description must be a text, got {description!r:.80}")
        if quick and "quick" not in values:
            raise InputError(f"{name} has no runs under `quick`; add some, or leave --quick out")
        grids = values.get("quick" if quick else "runs")
        if not isinstance(grids, list) or not grids:
            raise InputError(f"{'quick' if quick else 'runs'} must be a list with at least one grid, got {grids!r:.80}")
        configs = tuple(config for number, grid in enumerate(grids, 1) for config in _expand(number, grid))
        _refuse_repeated_runs(configs)
        return cls(f"{name}-quick" if quick else name, description, tuple(grids), configs)

    def as_yaml(self) -> str:
        """Return the text of a YAML file that describes the same runs, and ends with a sum of itself."""
        values = {"name": self.name, "description": self.description, "runs": [dict(grid) for grid in self.runs]}
        return yaml_with_sum(values).decode()


def _expand(number: int, grid: Any) -> Iterator[TrainConfig | BaselineConfig]:
    if not isinstance(grid, dict) or not grid:
        raise InputError(f"grid {number} must be a mapping of fields of a run to values, got {grid!r:.80}")
    axes = {name: value if isinstance(value, list) else [value] for name, value in grid.items()}
    if empty := [name for name, axis in axes.items() if not axis]:
        raise InputError(f"{empty[0]} of grid {number} must have at least one value, got []")
    if (count := prod(map(len, axes.values()))) > _MOST_RUNS:
        raise InputError(f"grid {number} must stand for at most {_MOST_RUNS} runs, but stands for {count}; split it")
    for values in product(*axes.values()):
        try:
            yield make_config(dict(zip(axes, values, strict=True)))
        except InputError as error:
            raise InputError(f"grid {number}: {error}") from error


def _refuse_repeated_runs(configs: tuple[TrainConfig | BaselineConfig, ...]) -> None:
    seen = set()
    for config in configs:
        run = identity(config)
        if key(run) in seen:
            raise InputError(f"every run must be there once, but this one is there twice: {run}; take one out")
        seen.add(key(run))


def identity(config: TrainConfig | BaselineConfig) -> dict[str, Any]:
    """Return what makes a run the same run: the fields that differ from their defaults, and method and seed.

    A field that a later version adds, with a default, leaves finished runs valid. Where the data sets lie is no part.
    """
    return {
        field.name: getattr(config, field.name)
        for field in fields(config)
        if field.name != "data_root" and (field.name in _ALWAYS or getattr(config, field.name) != field.default)
    }


def key(run: Mapping[str, Any]) -> str:
    """Return the same text for the same run."""
    return json.dumps(run, sort_keys=True, separators=(",", ":"))


def folder_name(run: Mapping[str, Any]) -> str:
    """Return the name of the folder of a run: data set, method, and a checksum that tells it from all other runs."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", f"{run.get('dataset') or Path(run['data']).name}-{run['method']}")
    return f"{readable}-{hashlib.sha256(key(run).encode()).hexdigest()[:10]}"
