"""Variants of kNN-LDS: which ones do better than the plain learner on the early-stopping nodes.

    python experiments/beyond.py [--quick] [--jobs 2]

Runs beyond.yaml, then what variants.py adds, on one seed. Finished runs are not repeated, so the command can be
stopped and started again. Writes table.csv and table.md to experiments/results/beyond/. Needs the raw files of Cora,
see `lds data fetch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import pandas as pd
from tables import Row, as_markdown, end, frame, plus_minus, provenance, run_grid, write
from variants import run_variants

from lds._statistics import mean, paired
from lds.run import TrainConfig
from lds.sweep import Outcome, Setting, summary

SPLITS = ("es", "test")
COLUMNS = (
    *("dataset", "method", "seeds", "variant", "es", "es_std", "test", "test_std"),
    *("es_difference", "es_half_width", "kept", "test_difference", "test_half_width"),
)
# Fewer seeds decide nothing.
SEEDS = 5
DEFAULTS = {field.name: field.default for field in fields(TrainConfig)}


def make_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """Return a row for each variant, accuracies in percent.

    The first setting of a method on a data set is the plain one; the others are compared with it on the seeds that both
    have. A variant is kept where, on five seeds or more, its early-stopping accuracy is higher by more than a standard
    error of the paired difference.
    """
    rows = []
    plain: dict[tuple[str, str], Setting] = {}
    for setting in summary(outcomes):
        place = setting.setting["dataset"], setting.setting["method"]
        base = plain.setdefault(place, setting)
        ours, theirs = DEFAULTS | setting.setting, DEFAULTS | base.setting
        changed = {name: v for name, v in ours.items() if theirs.get(name) != v and name != "method"}
        seeds = [seed for seed in setting.seeds if seed in base.seeds]
        row: Row = {"dataset": ours["dataset"], "method": ours["method"], "seeds": len(seeds)}
        row["variant"] = ", ".join(f"{name} {value}" for name, value in changed.items()) or "plain"
        for split in SPLITS:
            scores, plain_scores = (_accuracies(s, split, seeds) for s in (setting, base))
            row[split], row[f"{split}_std"] = mean(scores).mean, mean(scores).std
            if setting is not base and seeds:
                found = paired(scores, plain_scores)
                row[f"{split}_difference"] = found.difference.mean
                row[f"{split}_half_width"] = found.difference.half_width
                error = found.difference.std / len(seeds) ** 0.5
                if split == "es" and len(seeds) >= SEEDS:
                    row["kept"] = "yes" if found.difference.mean > error else "no"
        rows.append(row)
    return rows


def _accuracies(setting: Setting, split: str, seeds: Sequence[int]) -> list[float]:
    by_seed = dict(zip(setting.seeds, getattr(setting, split), strict=True))
    return [100 * by_seed[seed] for seed in seeds]


def markdown(rows: Sequence[Row]) -> str:
    """Return the table for people."""
    found = frame(rows, COLUMNS)
    shown = [found["dataset"].rename("data set"), found["method"], found["variant"], found["seeds"]]
    for split, name in zip(SPLITS, ("early stopping, %", "test, %"), strict=True):
        shown.append(plus_minus(found, split, f"{split}_std").rename(name))
        shown.append(plus_minus(found, f"{split}_difference", f"{split}_half_width").rename("less plain"))
    return as_markdown(pd.concat([*shown, found["kept"]], axis=1))


def main() -> None:
    options, outcomes = run_grid("beyond", __doc__)
    epochs = 1 if options.quick else None
    outcomes += run_variants(options.out / "variants.jsonl", [0], options.jobs, max_epochs=epochs)
    rows = make_rows(outcomes)
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    write(rows, COLUMNS, markdown(rows) + provenance("beyond", results, quick=options.quick), options.out)
    end(outcomes, options.out)


if __name__ == "__main__":
    main()
