"""Tables of accuracies over seeds, our figures beside the published ones."""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lds._statistics import paired
from lds.sweep import Outcome, ProcessEngine, Setting, Spec, run_sweep, select, summary

HERE = Path(__file__).resolve().parent
COLUMNS = (
    *("dataset", "retain", "method", "settings", "chosen", "seeds", "mean", "std", "half_width"),
    *("difference", "difference_half_width", "p_value", "published_mean", "published_std", "source"),
)
Row = dict[str, Any]


def sweep_and_tabulate(name: str, text: str, *, setting: str, reference: str) -> None:
    """Run the sweep `name`.yaml as the command line says, then write and print its table.

    Args:
        name: of the experiment.
        text: help text.
        setting: which published figures to compare with: no-graph or graph-given.
        reference: the method that all others are compared with, seed by seed.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small version, in minutes")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results")
    options = parser.parse_args()
    spec = Spec.read(HERE / f"{name}.yaml", quick=options.quick)
    out = options.out or HERE / "results" / spec.name
    outcomes = run_sweep(spec, out, ProcessEngine(options.jobs), keep="metrics")
    by = ("dataset", "retain", "method") if setting == "graph-given" else ("dataset", "method")
    rows = make_rows(outcomes, read_published(HERE / "published.csv", setting), reference, by)
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    write(rows, COLUMNS, markdown(rows, reference) + provenance(name, results, quick=options.quick), out)
    end(outcomes, out)


def make_rows(
    outcomes: Sequence[Outcome], published: Sequence[Row], reference: str, by: Sequence[str] = ("dataset", "method")
) -> list[Row]:
    """Return a row for each data set, method and, where it is in `by`, share of edges.

    Its setting is chosen on early-stopping accuracy, test accuracies are in percent. Published figures of methods that
    were not run here have rows of their own, where their data set and share of edges have been run.
    """
    chosen = {_place(setting, by): setting for setting in select(outcomes, by)}
    tried = Counter(_place(setting, by) for setting in summary(outcomes))
    rows = []
    for dataset, retain in dict.fromkeys(place[:2] for place in chosen):
        here = {place[2]: setting for place, setting in chosen.items() if place[:2] == (dataset, retain)}
        there = [row for row in published if (row["dataset"], row["retain"]) == (dataset, retain)]
        for method in dict.fromkeys([*here, *(row["method"] for row in there)]):
            row: Row = {"dataset": dataset, "retain": retain, "method": method}
            if method in here:
                row |= {"settings": tried[dataset, retain, method], **_ours(here[method])}
                if method != reference and reference in here:
                    row |= _against(here[method], here[reference])
            for figure in [figure for figure in there if figure["method"] == method] or [{}]:
                rows.append(row | {name: figure[name] for name in COLUMNS[-3:] if name in figure})
                row = {
                    "dataset": dataset,
                    "retain": retain,
                    "method": method,
                }  # A second published figure stands in a line of its own.
    return rows


def read_published(path: Path, setting: str) -> list[Row]:
    """Return the published figures of a setting, no-graph or graph-given."""
    with path.open(newline="") as file:
        return [
            {
                "dataset": row["dataset"],
                "retain": float(row["retain"] or 1.0),
                "method": row["method"],
                "published_mean": float(row["mean"]),
                "published_std": float(row["std"]) if row["std"] else math.nan,
                "source": row["source"],
            }
            for row in csv.DictReader(file)
            if row["setting"] == setting
        ]


def write(rows: Sequence[Row], columns: Sequence[str], text: str, out: Path) -> None:
    """Write table.csv with these columns, and the text to table.md; print the text."""
    with (out / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (out / "table.md").write_text(text)
    print(text)


def end(outcomes: Sequence[Outcome], out: Path) -> None:
    """Leave with exit code 1 where runs failed: a table tells only of the others."""
    if failed := sum(outcome.status == "failed" for outcome in outcomes):
        sys.exit(f"{failed} of {len(outcomes)} runs failed; {out / 'results.jsonl'} has their tracebacks")


def provenance(name: str, results: Iterable[Mapping[str, Any]], *, quick: bool) -> str:
    """Return a line on how results came about: command, seeds, versions."""
    found = list(results)
    seeds = ", ".join(map(str, sorted({result["seed"] for result in found})))
    sets = dict.fromkeys(", ".join(f"{n} {v}" for n, v in result["versions"].items()) for result in found)
    return f"\n`python experiments/{name}.py{' --quick' * quick}`, seeds {seeds}; {' or '.join(sets)}.\n"


def markdown(rows: Sequence[Row], reference: str) -> str:
    """Return the table for people."""
    retained = any(row["retain"] != 1.0 for row in rows)
    head = ["data set", *(["edges kept"] if retained else []), "method", "settings", "chosen", "seeds"]
    head += ["test accuracy, % (± std)", "95 % interval", f"less {reference} (± 95 %)", "p", "published, %", "source"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        kept = [f"{100 * row['retain']:.0f} %"] if retained else []
        cells = [row["dataset"], *kept, row["method"], row.get("settings", ""), row.get("chosen", "")]
        cells += [row.get("seeds", ""), plus_minus(row, "mean", "std"), _interval(row)]
        cells += [plus_minus(row, "difference", "difference_half_width"), _number(row.get("p_value"), 3)]
        cells += [plus_minus(row, "published_mean", "published_std"), row.get("source", "")]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _place(setting: Setting, by: Sequence[str]) -> tuple[str, float, str]:
    # Where no graph is given, the share of edges is a means to take it away.
    retain = setting.setting.get("retain", 1.0) if "retain" in by else 1.0
    return setting.setting["dataset"], retain, setting.setting["method"]


def _ours(setting: Setting) -> Row:
    test = setting.mean("test_accuracy")
    fixed = {name: value for name, value in setting.setting.items() if name not in ("dataset", "method", "retain")}
    return {
        "chosen": ", ".join(f"{name} {value}" for name, value in fixed.items()),
        "seeds": test.count,
        "mean": 100 * test.mean,
        "std": 100 * test.std,
        "half_width": 100 * test.half_width,
    }


def _against(setting: Setting, reference: Setting) -> Row:
    """Return the paired difference over the seeds that both have."""
    ours, theirs = (dict(zip(s.seeds, s.test, strict=True)) for s in (setting, reference))
    common = [seed for seed in ours if seed in theirs]
    if not common:
        return {}
    found = paired([100 * ours[seed] for seed in common], [100 * theirs[seed] for seed in common])
    difference = found.difference
    return {
        "difference": difference.mean,
        "difference_half_width": difference.half_width,
        "p_value": found.p_value,
    }


def plus_minus(row: Row, name: str, spread: str) -> str:
    if name not in row:
        return ""
    return _number(row[name], 1) + (f" ± {row[spread]:.1f}" if math.isfinite(row[spread]) else "")


def _interval(row: Row) -> str:
    if not math.isfinite(row.get("half_width", math.nan)):
        return ""
    return f"{row['mean'] - row['half_width']:.1f} to {row['mean'] + row['half_width']:.1f}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
