"""Tables of accuracies over seeds, our figures beside the published ones."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lds._statistics import paired
from lds.learner._alternatives import SAME_LABELS
from lds.run._methods import METHOD
from lds.sweep import Outcome, ProcessEngine, Setting, Spec, run_sweep, select, summary

HERE = Path(__file__).resolve().parent
COLUMNS = (
    *("dataset", "retain", "method", "labels", "settings", "chosen", "seeds", "mean", "std", "half_width"),
    *("difference", "difference_half_width", "p_value", "published_mean", "published_std", "source"),
)
Row = dict[str, Any]
# What `lds.sweep.select` does.
CRITERION = """
Of the settings of a method on a data set, the one with the highest early-stopping accuracy is taken, as a mean over the
splits; of equals, the one with the lowest early-stopping loss, pooled in the same way.
"""


def sweep_and_tabulate(name: str, text: str, *, setting: str, reference: str) -> None:
    """Run the grid `name`.yaml as the command line says, then write and print its table.

    Args:
        name: of the experiment.
        text: help text.
        setting: which published figures to compare with: no-graph or graph-given.
        reference: the method that all others are compared with, seed by seed.
    """
    options, outcomes = run_grid(name, text)
    by = ("dataset", "retain", "method") if setting == "graph-given" else ("dataset", "method")
    rows = make_rows(outcomes, read_published(HERE / "published.csv", setting), reference, by)
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    chosen = CRITERION if any(row.get("settings", 1) > 1 for row in rows) else ""
    text = markdown(rows, reference) + chosen + provenance(name, results, quick=options.quick)
    write(rows, COLUMNS, text, options.out)
    end(outcomes, options.out)


def run_grid(name: str, text: str | None) -> tuple[argparse.Namespace, list[Outcome]]:
    """Run the grid `name`.yaml; return the options of the command line (quick, jobs, out) and the outcomes."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small version, in minutes")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results")
    options = parser.parse_args()
    spec = Spec.read(HERE / f"{name}.yaml", quick=options.quick)
    options.out = options.out or HERE / "results" / spec.name
    return options, run_sweep(spec, options.out, ProcessEngine(options.jobs), keep="metrics")


def make_rows(
    outcomes: Sequence[Outcome], published: Sequence[Row], reference: str, by: Sequence[str] = ("dataset", "method")
) -> list[Row]:
    """Return a row for each data set, method and, where it is in `by`, share of edges.

    A method that is trained on the validation nodes too is another one, named so. Its setting is chosen on
    early-stopping accuracy, test accuracies are in percent. "labels" says which labels a method learns from; those of
    the early-stopping nodes are there for all to stop and to choose by. Published figures of methods that
    were not run here have rows of their own, where their data set and share of edges have been run, as have second
    published figures of a method.
    """
    chosen = {_place(setting, by): setting for setting in select(outcomes, (*by, "train_on"))}
    tried = Counter(_place(setting, by) for setting in summary(outcomes))
    rows = []
    for dataset, retain in dict.fromkeys(place[:2] for place in chosen):
        here = {place[2]: setting for place, setting in chosen.items() if place[:2] == (dataset, retain)}
        there = [row for row in published if (row["dataset"], row["retain"]) == (dataset, retain)]
        for method in dict.fromkeys([*here, *(row["method"] for row in there)]):
            place: Row = {"dataset": dataset, "retain": retain, "method": method}
            ours: Row = {}
            if method in here:
                ours = {
                    "labels": _labels(here[method]),
                    "settings": tried[dataset, retain, method],
                    **_ours(here[method]),
                }
                if method != reference and reference in here:
                    ours |= _against(here[method], here[reference])
            first, *others = [figure for figure in there if figure["method"] == method] or [{}]
            rows.append(place | _published(first) | ours)
            rows += [place | _published(figure) for figure in others]
    return rows


def read_published(path: Path, setting: str) -> list[Row]:
    """Return the published figures of a setting, no-graph or graph-given."""
    found = pd.read_csv(path).query("setting == @setting").fillna({"retain": 1.0})
    found = found.rename(columns={"mean": "published_mean", "std": "published_std"})
    return found[["dataset", "retain", "method", "labels", *COLUMNS[-3:]]].to_dict("records")


def write(rows: Sequence[Row], columns: Sequence[str], text: str, out: Path) -> None:
    """Write table.csv with these columns, and the text to table.md; print the text."""
    frame(rows, columns).to_csv(out / "table.csv", index=False, lineterminator="\n")
    (out / "table.md").write_text(text)
    print(text)


def frame(rows: Sequence[Row], columns: Sequence[str]) -> pd.DataFrame:
    """Return rows as a frame; what a row does not say is NaN, and whole numbers stay whole beside it."""
    return pd.DataFrame(rows, columns=columns, dtype=object)


def end(outcomes: Sequence[Outcome], out: Path) -> None:
    """Leave with exit code 1 where runs failed: a table tells only of the others."""
    if failed := sum(outcome.status == "failed" for outcome in outcomes):
        sys.exit(f"{failed} of {len(outcomes)} runs failed; {out / 'results.jsonl'} has their tracebacks")


def provenance(name: str, results: Iterable[Mapping[str, Any]], *, quick: bool, needed: str = "") -> str:
    """Return a line on how results came about: command, with the options that it needs, seeds, versions."""
    found = list(results)
    seeds = ", ".join(map(str, sorted({result["seed"] for result in found})))
    sets = dict.fromkeys(", ".join(f"{n} {v}" for n, v in result["versions"].items()) for result in found)
    command = " ".join(filter(None, (f"python experiments/{name}.py", needed, "--quick" * quick)))
    return f"\n`{command}`, seeds {seeds}; {' or '.join(sets)}.\n"


def markdown(rows: Sequence[Row], reference: str) -> str:
    """Return the table for people."""
    found = frame(rows, COLUMNS)
    shown = pd.DataFrame(
        {
            "data set": found["dataset"],
            "edges kept": (100 * found["retain"]).map("{:.0f} %".format),
            **{name: found[name] for name in ("method", "labels", "settings", "chosen", "seeds")},
            "test accuracy, % (± std)": plus_minus(found, "mean", "std"),
            "95 % interval": _interval(found),
            f"less {reference} (± 95 %)": plus_minus(found, "difference", "difference_half_width"),
            "p": digits(found["p_value"], 3),
            "published, %": plus_minus(found, "published_mean", "published_std"),
            "source": found["source"],
        }
    )
    return as_markdown(shown if (found["retain"] != 1.0).any() else shown.drop(columns="edges kept"))


def as_markdown(shown: pd.DataFrame, right: Collection[str] = ()) -> str:
    """Return a frame as a table in Markdown, the columns named in `right` flush right."""
    texts = shown.map(lambda cell: "" if pd.isna(cell) else str(cell))
    head, *body = [f"| {' | '.join(cells)} |\n" for cells in [shown.columns, *texts.itertuples(index=False)]]
    rule = "".join("--:|" if name in right else "---|" for name in shown.columns)
    return "".join([head, f"|{rule}\n", *body])


def _place(setting: Setting, by: Sequence[str]) -> tuple[str, float, str]:
    # Where no graph is given, the share of edges is a means to take it away.
    retain = setting.setting.get("retain", 1.0) if "retain" in by else 1.0
    same = setting.setting.get("train_on", "train") == "train+val"
    return setting.setting["dataset"], retain, setting.setting["method"] + SAME_LABELS * same


def _labels(setting: Setting) -> str:
    if METHOD[setting.setting["method"]].learns_structure:
        return "train, and val for θ"
    return str(setting.setting.get("train_on", "train"))


def _published(figure: Row) -> Row:
    return {name: figure[name] for name in ("labels", *COLUMNS[-3:]) if name in figure}


def _ours(setting: Setting) -> Row:
    test = setting.mean("test_accuracy")
    fixed = {
        name: value
        for name, value in setting.setting.items()
        if name not in ("dataset", "method", "retain", "train_on")
    }
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


def plus_minus(found: pd.DataFrame, name: str, spread: str) -> pd.Series:
    """Return a column as texts, with its spread where it has one."""
    return digits(found[name], 1) + (" ± " + digits(found[spread], 1)).where(found[spread].notna(), "")


def digits(column: pd.Series, count: int) -> pd.Series:
    """Return numbers as texts with so many digits; "" where there is none."""
    return column.map(f"{{:.{count}f}}".format, na_action="ignore").fillna("")


def _interval(found: pd.DataFrame) -> pd.Series:
    low, high = (digits(found["mean"] + sign * found["half_width"], 1) for sign in (-1, 1))
    return (low + " to " + high).where(found["half_width"].notna(), "")
