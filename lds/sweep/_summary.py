"""Outcomes of runs: as a flat table, grouped over seeds, and the settings that do best."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from lds._statistics import Mean, mean
from lds.errors import InputError
from lds.run import BaselineConfig, TrainConfig
from lds.sweep._ledger import Outcome
from lds.sweep._spec import identity, key


def results_csv(configs: Sequence[TrainConfig | BaselineConfig], outcomes: Mapping[str, Outcome]) -> str:
    """Return the outcomes of the runs that have one as CSV: fields that some run sets, status, results, error."""
    rows: list[dict[str, Any]] = []
    # Dictionaries for their order: that of the fields, then that of the results.
    settings: dict[str, None] = dict.fromkeys(("dataset", "method"))
    results: dict[str, None] = {}
    for config in configs:
        run = identity(config)
        settings.update(dict.fromkeys(run))
        outcome = outcomes.get(key(run))
        if outcome is None:
            continue
        result = {name: value for name, value in (outcome.result or {}).items() if not isinstance(value, dict | list)}
        results.update(dict.fromkeys(result))
        error = outcome.error or {}
        message = f"{error['type']}: {error['message']}" if error else None
        rows.append({**result, **config.as_dict(), "status": outcome.status, "error": message})
    del settings["seed"]
    columns = [*settings, "seed", "status", *(name for name in results if name not in {*settings, "seed"}), "error"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@dataclass(frozen=True)
class Setting:
    """The runs of one configuration, one per seed.

    Attributes:
        setting: the fields that differ from their defaults, without the seed.
        seeds: the seeds of the runs that are done.
        results: what their result.json holds, seed for seed.
        failed: number of runs that failed.

    Example:
        >>> results = [{"test_accuracy": 0.9}, {"test_accuracy": 0.8}]
        >>> setting = Setting({"dataset": "iris", "method": "svm"}, seeds=[0, 1], results=results, failed=0)
        >>> setting.test, round(setting.mean("test_accuracy").mean, 2)
        ([0.9, 0.8], 0.85)
    """

    setting: dict[str, Any]
    seeds: list[int]
    results: list[dict[str, Any]]
    failed: int

    @property
    def test(self) -> list[float]:
        """Test accuracies, seed for seed."""
        return [result["test_accuracy"] for result in self.results]

    @property
    def es(self) -> list[float]:
        """Early-stopping accuracies, seed for seed."""
        return [result["es_accuracy"] for result in self.results]

    def mean(self, name: str) -> Mean:
        """Return the mean of a result over the seeds.

        Raises:
            InputError: a run has no such number.
        """
        values = [result.get(name) for result in self.results]
        numbers = [float(value) for value in values if isinstance(value, int | float)]
        if len(numbers) < len(values):
            raise InputError(f"every run of a setting needs {name}, but one lacks it; repeat those of {self.setting}")
        return mean(numbers)


def summary(outcomes: Sequence[Outcome]) -> list[Setting]:
    """Group outcomes over seeds; settings in the order of their first run, seeds in ascending order.

    Example:
        >>> outcomes = [  # As `run_sweep` and `read_results` return them.
        ...     Outcome({"dataset": "iris", "method": "svm", "C": C, "seed": seed}, "done", {"es_accuracy": es})
        ...     for C, seed, es in [(1.0, 0, 0.9), (1.0, 1, 0.8), (10.0, 0, 1.0), (10.0, 1, 0.9)]
        ... ]
        >>> [(setting.setting["C"], setting.seeds, setting.es) for setting in summary(outcomes)]
        [(1.0, [0, 1], [0.9, 0.8]), (10.0, [0, 1], [1.0, 0.9])]
    """
    settings: dict[str, Setting] = {}
    for outcome in sorted(outcomes, key=lambda outcome: int(outcome.config["seed"])):
        fixed = {name: value for name, value in outcome.config.items() if name != "seed"}
        group = settings.setdefault(key(fixed), Setting(fixed, [], [], 0))
        if outcome.result is not None:
            group.seeds.append(outcome.config["seed"])
            group.results.append(outcome.result)
        else:
            settings[key(fixed)] = Setting(fixed, group.seeds, group.results, group.failed + 1)
    order = dict.fromkeys(key({n: v for n, v in outcome.config.items() if n != "seed"}) for outcome in outcomes)
    return [settings[name] for name in order]


def select(outcomes: Sequence[Outcome], by: Sequence[str] = ("dataset", "data", "method")) -> list[Setting]:
    """Return, for each combination of the fields `by`, the setting that does best on the early-stopping nodes.

    That is the highest mean early-stopping accuracy over seeds; of equals, the lowest mean early-stopping loss where
    all have one, and then the first. Results on test nodes play no part.

    Args:
        outcomes: of any runs; settings with no finished run are left out.
        by: fields of a run; of those that a run does not say, the default counts.

    Raises:
        InputError: a name in `by` is no field of a run.

    Example:
        >>> outcomes = [  # As `run_sweep` and `read_results` return them.
        ...     Outcome({"dataset": "iris", "method": "svm", "C": C, "seed": seed}, "done", {"es_accuracy": es})
        ...     for C, seed, es in [(1.0, 0, 0.9), (1.0, 1, 0.8), (10.0, 0, 1.0), (10.0, 1, 0.9)]
        ... ]
        >>> [setting.setting["C"] for setting in select(outcomes)]
        [10.0]
    """
    known = {field.name: field.default for kind in (BaselineConfig, TrainConfig) for field in fields(kind)}
    if unknown := [name for name in by if name not in known or name == "seed"]:
        raise InputError(f"by must name fields of a run other than its seed, got {unknown[0]!r}")
    groups: dict[str, list[Setting]] = {}
    for setting in summary(outcomes):
        if setting.results:
            group = key({name: setting.setting.get(name, known[name]) for name in by})
            groups.setdefault(group, []).append(setting)
    return [_best(group) for group in groups.values()]


def _best(settings: Sequence[Setting]) -> Setting:
    # min, and not max of the negative: the first of equals.
    losses = [_loss(setting) for setting in settings]
    comparable = not any(math.isnan(loss) for loss in losses)
    ranks = [
        (-setting.mean("es_accuracy").mean, loss if comparable else 0.0)
        for setting, loss in zip(settings, losses, strict=True)
    ]
    return settings[min(range(len(settings)), key=ranks.__getitem__)]


def _loss(setting: Setting) -> float:
    """Return the mean early-stopping loss, or NaN where a run has none."""
    values = [result.get("es_loss") for result in setting.results]
    return math.nan if None in values else mean([float(value) for value in values if value is not None]).mean
