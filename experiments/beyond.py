"""Variants of kNN-LDS: which ones do better than the plain learner on the early-stopping nodes.

    python experiments/beyond.py [--quick] [--jobs 2]

Runs beyond.yaml, then what variants.py adds, on one seed. Finished runs are not repeated, so the command can be
stopped and started again. Writes table.csv and table.md to experiments/results/beyond/. Needs the raw files of Cora,
see `lds data fetch`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from tables import Row, end, plus_minus, provenance, write
from variants import run_variants

from lds._statistics import mean, paired
from lds.run import TrainConfig
from lds.sweep import Outcome, ProcessEngine, Setting, Spec, run_sweep, summary

HERE = Path(__file__).resolve().parent
SPLITS = ("es", "test")
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
        changed = {name: value for name, value in ours.items() if theirs.get(name) != value}
        seeds = [seed for seed in setting.seeds if seed in base.seeds]
        row: Row = {"dataset": place[0], "method": place[1], "seeds": len(seeds)}
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
    head = ["data set", "method", "variant", "seeds"]
    head += ["early stopping, %", "less plain", "test, %", "less plain", "kept"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row["dataset"], row["method"], row["variant"], row["seeds"]]
        for split in SPLITS:
            cells += [plus_minus(row, split, f"{split}_std")]
            cells += [plus_minus(row, f"{split}_difference", f"{split}_half_width")]
        lines.append("| " + " | ".join(map(str, [*cells, row.get("kept", "")])) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small version, in minutes")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results")
    options = parser.parse_args()
    spec = Spec.read(HERE / "beyond.yaml", quick=options.quick)
    out = options.out or HERE / "results" / spec.name
    outcomes = run_sweep(spec, out, ProcessEngine(options.jobs), keep="metrics")
    epochs = 1 if options.quick else None
    outcomes += run_variants(out / "variants.jsonl", [0], options.jobs, max_epochs=epochs)
    rows = make_rows(outcomes)
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    text = markdown(rows) + provenance("beyond", results, quick=options.quick)
    write(rows, list(dict.fromkeys(name for row in rows for name in row)), text, out)
    end(outcomes, out)


if __name__ == "__main__":
    main()
