"""Options of both learners beside a plain GCN with the same labels: what helps, and what the structure adds to it.

    python experiments/learners.py [--quick] [--jobs 2]

Every row is compared twice, seed by seed: with the control, a plain GCN trained on the same labels, and, where a
structure is learned, with the same network and options without it. Plain LDS is read from experiments/results/
missing_edges/. Finished runs are not repeated, so the command can be stopped and started again. Writes table.csv and
table.md to experiments/results/learners/. Needs the raw files of Cora and CiteSeer, see `lds data fetch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pandas as pd
from tables import HERE, Row, as_markdown, digits, end, frame, plus_minus, provenance, run_grid, write

from lds._statistics import mean, paired
from lds.run import TrainConfig
from lds.run._methods import METHOD
from lds.sweep import Outcome, Setting, summary
from lds.sweep._ledger import Ledger

COLUMNS = (
    *("dataset", "graph", "method", "variant", "labels", "seeds", "es", "es_std", "test", "test_std"),
    *("es_difference", "es_half_width", "test_difference", "test_half_width"),
    *("added", "added_half_width", "kept", "chosen"),
)
# Fewer seeds decide nothing.
SEEDS = 5
DEFAULTS = {field.name: field.default for field in fields(TrainConfig)}
# What belongs to the network and its training alone, whatever the graph.
NETWORK = ("model", "hidden", "dropout", "weight_decay", "decay", "inner_lr", "refit", "self_training")


def make_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """Return a row for each setting, accuracies in percent; the first setting of a place is its control.

    A place is a data set and a graph to start from. A variant is kept where, on five seeds or more, its early-stopping
    accuracy is higher than the control's by more than a standard error of the paired difference; the one with the
    highest is chosen, of equals the one with the lowest loss.
    """
    places: dict[tuple[str, str], list[Setting]] = {}
    for setting in summary(outcomes):
        values = DEFAULTS | setting.setting
        graph = "kNN" if METHOD[values["method"]].graph == "knn" else f"{values['retain']:.0%} of the edges"
        places.setdefault((values["dataset"], graph), []).append(setting)
    return [
        {"dataset": dataset, "graph": graph, **row}
        for (dataset, graph), settings in places.items()
        for row in _rows_of_place(settings)
    ]


def _rows_of_place(settings: Sequence[Setting]) -> list[Row]:
    control = settings[0]
    alone = {_network(setting): setting for setting in reversed(settings) if not _learns(setting)}
    best = max(settings, key=lambda setting: (setting.mean("es_accuracy").mean, -setting.mean("es_loss").mean))
    rows = []
    for setting in settings:
        values = DEFAULTS | setting.setting
        row: Row = {"method": values["method"], "variant": _variant(setting, control), "seeds": len(setting.seeds)}
        row["labels"] = "train, and val for θ" if _learns(setting) else values["train_on"]
        for split in ("es", "test"):
            found = mean([100 * score for score in getattr(setting, split)])
            row |= {split: found.mean, f"{split}_std": found.std}
            if setting is not control:
                row |= _named(f"{split}_", _less(setting, control, split))
        base = alone.get(_network(setting))
        if _learns(setting) and base is not None:
            difference = _less(setting, base, "test")
            row |= {"added": difference["difference"], "added_half_width": difference["half_width"]}
        if setting is not control and len(setting.seeds) >= SEEDS:
            row["kept"] = "yes" if row["es_difference"] > _less(setting, control, "es")["error"] else "no"
        row["chosen"] = "yes" if setting is best else None
        rows.append(row)
    return rows


def _learns(setting: Setting) -> bool:
    return METHOD[setting.setting["method"]].learns_structure


def _network(setting: Setting) -> tuple[Any, ...]:
    values = DEFAULTS | setting.setting
    return tuple(values[name] for name in NETWORK)


def _variant(setting: Setting, control: Setting) -> str:
    """Return what differs from the control, without what the method says."""
    ours, theirs = DEFAULTS | setting.setting, DEFAULTS | control.setting
    changed = {
        name: value for name, value in ours.items() if theirs[name] != value and name not in ("method", "train_on")
    }
    return ", ".join(f"{name} {value}" for name, value in changed.items()) or "plain"


def _less(setting: Setting, other: Setting, split: str) -> dict[str, float]:
    """Return the paired difference over the seeds that both have, in percent, and its standard error."""
    ours, theirs = (dict(zip(s.seeds, getattr(s, split), strict=True)) for s in (setting, other))
    seeds = [seed for seed in ours if seed in theirs]
    found = paired([100 * ours[seed] for seed in seeds], [100 * theirs[seed] for seed in seeds]).difference
    return {"difference": found.mean, "half_width": found.half_width, "error": found.std / len(seeds) ** 0.5}


def _named(prefix: str, difference: dict[str, float]) -> Row:
    return {prefix + name: difference[name] for name in ("difference", "half_width")}


def markdown(rows: Sequence[Row]) -> str:
    """Return the table for people."""
    found = frame(rows, COLUMNS)
    shown = pd.DataFrame(
        {
            "data set": found["dataset"],
            **{name: found[name] for name in ("graph", "method", "variant", "labels", "seeds")},
            "early stopping, %": digits(found["es"], 1),
            "less control (± 95 %)": plus_minus(found, "es_difference", "es_half_width"),
            "kept": found["kept"],
            "chosen": found["chosen"],
            "test, % (± std)": plus_minus(found, "test", "test_std"),
            "test less control (± 95 %)": plus_minus(found, "test_difference", "test_half_width"),
            "what structure adds (± 95 %)": plus_minus(found, "added", "added_half_width"),
        }
    )
    return as_markdown(shown)


def main() -> None:
    options, outcomes = run_grid("learners", __doc__)
    if not options.quick:
        places = {(o.config["dataset"], o.config.get("retain", 1.0)) for o in outcomes if o.config["method"] == "gcn"}
        with Ledger(HERE / "results" / "missing_edges" / "results.jsonl") as ledger:
            outcomes += [
                outcome
                for outcome in ledger.outcomes.values()
                if outcome.config["method"] == "lds"
                and (outcome.config["dataset"], outcome.config.get("retain", 1.0)) in places
            ]
    rows = make_rows(outcomes)
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    write(rows, COLUMNS, markdown(rows) + provenance("learners", results, quick=options.quick), options.out)
    end(outcomes, options.out)


if __name__ == "__main__":
    main()
