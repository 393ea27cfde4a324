"""Write the tables of the README and of docs/ from the result files, between their markers.

    python scripts/benchmarks/readme.py

A test holds that the pages say what the result files say.
"""

from __future__ import annotations

import csv
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results"
NAMES = {
    "factored": "**lds, factor pairs**",
    "dense recorder": "the same engine on a dense N×N θ",
    "dense unroll": "plain dense unroll, `create_graph=True`",
    "torchopt unroll": "dense unroll with TorchOpt's Adam",
}
ENGINE_NAMES = {
    "plain unroll": "plain unroll, `create_graph=True`",
    "torchopt": "TorchOpt",
    "higher": "higher",
    "betty": "Betty",
    "torch checkpoint": "`torch.utils.checkpoint` around each step",
    "torch checkpoint, reentrant": "the same, `use_reentrant=True`",
    "bergson": "bergson",
    "lds": "**lds**",
    "lds KeepGraphs": "lds, `KeepGraphs` of all steps",
    "lds KeepStates": "lds, `KeepStates()`",
    "lds Checkpoint": "lds, `Checkpoint()`",
    "lds Binomial": "lds, `Binomial(10)`",
    "lds Offload": "lds, `Offload()`",
    "lds Disk": "lds, `Disk(folder)`",
}
EXACTNESS_NAMES = {
    "lds": "**lds**, any memory policy",
    "plain unroll": "plain unroll of torch.optim's formulas",
    "torch checkpoint": "`torch.utils.checkpoint` around each step",
    "torchopt": "TorchOpt",
    "torchopt, eps_root": "TorchOpt, `eps_root` set",
    "higher": "higher",
    "betty": "Betty",
    "boat": "BOAT",
    "bergson": "bergson",
}


def outer_step() -> str:
    report = json.loads((RESULTS / "outer_step.json").read_text())
    taus = sorted({row["tau"] for row in report["rows"]})
    cells = {(row["case"], row["tau"]): row for row in report["rows"]}
    head = "| one outer step on Cora | " + " | ".join(f"τ = {tau}" for tau in taus) + " | peak memory |"
    lines = [head, "|---|" + "--:|" * (len(taus) + 1)]
    for case, name in NAMES.items():
        found = [cells[case, tau] for tau in taus if (case, tau) in cells]
        if found:
            steps = [f"{row['seconds']:.3f} s ({row['ratio']:.0f}×)" for row in found]
            lines.append(f"| {name} | {' | '.join(steps)} | {max(row['peak_rss_mb'] for row in found):.0f} MiB |")
    return "\n".join(lines)


def scaling() -> str:
    report = json.loads((RESULTS / "scaling.json").read_text())
    lines = ["| structure | nodes | one outer step, τ = 5 | peak memory |", "|---|--:|--:|--:|"]
    for kind, rows in report["rows"].items():
        lines += [
            f"| {kind} | {row['nodes']:,} | {row['seconds']:.2f} s | {row['peak_rss_mb']:.0f} MiB |"
            for row in rows[-2:]
        ]
    exponents = ", ".join(f"N^{value:.2f} on {kind}" for kind, value in report["exponents"].items())
    return "\n".join([*lines, "", f"Time grows as {exponents}. Machine: {report['machine']}."])


def breakdown() -> str:
    report = json.loads((RESULTS / "breakdown.json").read_text())
    parts = ", ".join(f"{name} {value:.0f} ms" for name, value in report["milliseconds"].items())
    return (
        f"Over an outer epoch on Cora (τ = 5, one thread), an outer step takes {parts}. Its hypergradient differs from "
        f"the dense one by {report['relative_difference']:.0e} in float32."
    )


def accuracy() -> str:
    """Return LDS next to the GCN that starts from the same edges, and the paper's own figure."""
    found: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for experiment in ("table1", "missing_edges"):
        with (RESULTS / experiment / "table.csv").open() as file:
            for row in csv.DictReader(file):
                method = row["method"].removeprefix("knn-")
                given = f"{100 * float(row['retain']):.0f} %" if experiment == "missing_edges" else "none: kNN graph"
                cells = found[row["dataset"], given]
                if method in ("gcn", "lds") and row["mean"]:
                    cells[method] = f"{float(row['mean']):.1f} ± {float(row['std']):.1f}"
                if method == "lds" and row["source"].startswith("LDS paper"):
                    cells["published"] = f"{float(row['published_mean']):.1f} ± {float(row['published_std']):.1f}"
    lines = ["| data set | edges given | GCN | LDS | LDS, as published |", "|---|---|--:|--:|--:|"]
    for (dataset, given), cells in found.items():
        lines.append(f"| {dataset} | {given} | {cells['gcn']} | {cells['lds']} | {cells.get('published', '')} |")
    return "\n".join(lines)


def table(experiment: str) -> str:
    """Return the table that an experiment has written."""
    return (RESULTS / experiment / "table.md").read_text().rstrip()


def choices() -> str:
    """Return, for kNN-LDS, how well early-stopping nodes tell settings apart, and how far splits do."""
    with (RESULTS / "table1" / "results.csv").open() as file:
        runs = [row for row in csv.DictReader(file) if row["method"] == "knn-lds"]
    lines = ["| data set | settings | tie on early stopping | their test accuracy, % | validation | by split |"]
    lines.append("|---|" + "--:|" * 5)
    for dataset in dict.fromkeys(row["dataset"] for row in runs):
        settings: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        splits = defaultdict(list)
        for row in (row for row in runs if row["dataset"] == dataset):
            here = settings[tuple(row[name] for name in ("tau", "outer_lr", "k", "metric"))]
            for split in ("es", "test", "val"):
                here[split].append(100 * float(row[f"{split}_accuracy"]))
            splits[row["seed"]].append(100 * float(row["test_accuracy"]))
        best = max(statistics.fmean(found["es"]) for found in settings.values())
        ties = [found for found in settings.values() if statistics.fmean(found["es"]) >= best - 1e-9]
        spans = [[statistics.fmean(found["test"]) for found in ties], [statistics.fmean(v) for v in splits.values()]]
        tests, by_split = (f"{min(values):.1f} to {max(values):.1f}" for values in spans)
        fitted = statistics.fmean(statistics.fmean(found["val"]) for found in ties)
        cells = [dataset, len(settings), f"{len(ties)} at {best:.1f}", tests, f"{fitted:.1f}", by_split]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def night() -> str:
    """Return how long the experiments take."""
    report = json.loads((RESULTS / "night.json").read_text())
    lines = [
        "| experiment | runs | hours, as recorded beside other work | hours on a quiet machine |",
        "|---|--:|--:|--:|",
    ]
    rows = report["hours"] | {
        "together": {n: sum(r[n] for r in report["hours"].values()) for n in ("runs", "recorded", "quiet")}
    }
    for name, row in rows.items():
        lines.append(f"| {name} | {row['runs']} | {row['recorded']:.1f} | {row['quiet']:.1f} |")
    return "\n".join([*lines, "", f"{report['jobs']} runs at a time; {report['machine']}."])


def truncation() -> str:
    """Return accuracy, cost and fidelity of each horizon."""
    folder = RESULTS / "truncation"
    with (folder / "ablation.csv").open() as runs, (folder / "fidelity.csv").open() as depths:
        groups: dict[str, list[dict[str, str]]] = defaultdict(list)
        for row in csv.DictReader(runs):
            groups[row["horizon"]].append(row)
        fidelity = {row["depth"]: row for row in csv.DictReader(depths)}
    lines = ["| horizon | seeds | test accuracy, % | early stopping, % | seconds | MiB | relative error | cosine |"]
    lines.append("|--:|" + "--:|" * 7)
    for horizon, rows in groups.items():
        splits = [[100 * float(row[f"{split}_accuracy"]) for row in rows] for split in ("test", "es")]
        accuracies = [f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}" for values in splits]
        costs = [statistics.median(float(row[name]) for row in rows) for name in ("seconds", "peak_rss_mb")]
        errors = [float(fidelity[horizon][name]) for name in ("relative_error", "cosine")]
        cells = [horizon, len(rows), *accuracies, *(f"{c:.0f}" for c in costs), *(f"{e:.2f}" for e in errors)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def engine(path: Path = RESULTS / "engine.json") -> str:
    report = json.loads(path.read_text())
    cells = {(row["case"], row["updater"], row["steps"]): row for row in report["rows"]}
    parts = []
    for updater, title in {"momentum": "SGD with momentum", "adam": "Adam"}.items():
        steps = sorted({t for case, u, t in cells if u == updater and case in ENGINE_NAMES})
        head = f"| T steps of {title} | " + " | ".join(f"T = {t}" for t in steps) + f" | memory, T = {steps[-1]} |"
        lines = [head, "|---|" + "--:|" * (len(steps) + 1)]
        for case, name in ENGINE_NAMES.items():
            found = [cells.get((case, updater, t)) for t in steps]
            if any(found):
                times = [f"{r['cpu']:.2f} s ({r['cpu_ratio']:.2f}×)" if r else "" for r in found]
                memory = f"{found[-1]['peak_mib']:.0f} MiB" if found[-1] else ""
                lines.append(f"| {name} | {' | '.join(times)} | {memory} |")
        parts.append("\n".join(lines))
    overheads = [f"{r['overhead_us']:.0f} µs ({r['updater']})" for r in report["rows"] if r["case"] == "overhead"]
    flat = defaultdict(list)
    for row in sorted(report["rows"], key=lambda r: r["steps"]):
        if row["case"].startswith("flat"):
            flat[row["case"].removeprefix("flat, ")].append(f"{row['peak_mib']:.0f} MiB at T = {row['steps']:,}")
    lines = ["CPU time on one thread; in parentheses, over that of a plain unroll right after it."]
    lines += (
        [f"On ten weights, a step costs {' or '.join(overheads)} more than in a plain unroll."] if overheads else []
    )
    lines += [f"With {name.replace('Checkpoint', '`Checkpoint()`')}: {', '.join(rows)}." for name, rows in flat.items()]
    return "\n\n".join([*parts, "\n".join(lines)])


def longest(cases: Sequence[str]) -> str:
    """Return time and memory of some cases at the largest T that was measured."""
    rows = json.loads((RESULTS / "engine.json").read_text())["rows"]
    steps = max(row["steps"] for row in rows if row["case"] == "plain unroll")
    cells = {(row["case"], row["updater"]): row for row in rows if row["steps"] == steps}
    lines = [f"| T = {steps} | SGD with momentum | memory | Adam | memory |", "|---|" + "--:|" * 4]
    for case in cases:
        found = [cells[case, updater] for updater in ("momentum", "adam")]
        figures = [f"{r['cpu']:.1f} s ({r['cpu_ratio']:.2f}×) | {r['peak_mib']:.0f} MiB" for r in found]
        lines.append(f"| {ENGINE_NAMES[case]} | {' | '.join(figures)} |")
    return "\n".join(lines)


def derived() -> str:
    report = json.loads((RESULTS / "derived.json").read_text())
    lines = [
        f"| {report['steps']} steps of a GCN on a dense Â, 2,708 nodes | time | peak of the process |",
        "|---|--:|--:|",
    ]
    lines += [f"| {r['case']} | {r['seconds']:.1f} s | {r['peak_rss_mb']:,.0f} MiB |" for r in report["rows"]]
    return "\n".join(lines)


def learners() -> str:
    """Return what learning a structure costs by other packages and by ours, and what a whole training would."""
    rows = json.loads((RESULTS / "learners.json").read_text())["rows"]
    with (RESULTS / "missing_edges" / "results.csv").open() as file:
        runs = [r for r in csv.DictReader(file) if (r["dataset"], r["method"]) == ("cora", "lds")]
    steps = sorted(int(r["outer_steps"]) for r in runs if float(r["retain"]) == 1)
    lines = ["| on Cora | trained for | CPU time | a step | all steps at this pace | peak memory |"]
    lines.append("|---|---|" + "--:|" * 4)
    for row in rows:
        step = row["cpu"] / row["steps"]
        if row["case"] == "lds":
            name, length = "**lds**", f"{row['outer_epochs']} outer epochs, {row['steps']} outer steps"
            whole = f"{steps[0] * step:,.0f} to {steps[-1] * step:,.0f} s"
        else:
            name, length = f"{row['case'].split()[1].upper()} by OpenGSL", f"{row['steps']} of {row['of']:,} epochs"
            whole = f"{row['of'] * step:,.0f} s"
        times = f"{row['cpu']:.0f} s | {step:.2f} s | {whole}"
        lines.append(f"| {name} | {length} | {times} | {row['peak_rss_mb']:,.0f} MiB |")
    lines += ["", f"In the experiments, lds ends after {steps[0]:,} to {steps[-1]:,} outer steps."]
    return "\n".join(lines)


def worst_error(rows: list[dict[str, Any]]) -> str:
    """Return the largest error of rows of `exactness.py`, with that against the package's own formula."""
    if any("failed" in r for r in rows):
        return "fails"
    if not rows or any("error" not in r for r in rows):
        return "–" if rows else ""

    def worst(name: str) -> str:
        error = max((float(r[name]) for r in rows), key=lambda e: (e != e, e))
        return "NaN" if error != error else f"{error:.0e}" if error else "0"

    return worst("error") + (f" ({worst('own_error')})" if "own_error" in rows[0] else "")


def exactness(path: Path = RESULTS / "exactness.json") -> str:
    rows = json.loads(path.read_text())["rows"]
    columns = {
        "SGD, momentum, Nesterov": (("sgd", "momentum", "nesterov"), "plain", False),
        "Adam": (("adam",), "plain", False),
        "AdamW": (("adamw",), "plain", False),
        "RMSprop": (("rmsprop",), "plain", False),
        "dropout": (("momentum",), "dropout", False),
        "minibatches": (("momentum",), "minibatches", False),
        "minibatches by numpy": (("momentum",), "minibatches, numpy", False),
        "zero gradient, Adam": (("adam",), "zero gradient", False),
        "unused parameter": (("momentum",), "unused parameter", False),
        "2 of 5 steps": (("momentum",), "plain", True),
    }
    lines = [f"| relative error | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
    for prefix, name in EXACTNESS_NAMES.items():
        found = [r for r in rows if r["method"] == prefix or (prefix == "lds" and r["method"].startswith("lds"))]
        cells = []
        for updaters, setting, truncated in columns.values():
            part = [r for r in found if r["updater"] in updaters and r["setting"] == setting]
            cells.append(worst_error([r for r in part if (r["horizon"] is not None) == truncated]) or "–")
        if not all("absent" in r for r in found):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "In parentheses: against the package's own formula, where its ε has another place."])


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"outer_step": outer_step, "scaling": scaling, "breakdown": breakdown, "accuracy": accuracy},
    "docs/experiments.md": {
        "choices": choices,
        "truncation": truncation,
        "night": night,
        **{name: partial(table, name) for name in ("table1", "missing_edges", "beyond", "learned_graph")},
    },
    "docs/own-data.md": {"retrain": partial(table, "retrain")},
    "docs/hypergradients.md": {"engine": engine, "exactness": exactness, "derived": derived},
    "docs/choosing.md": {
        "memory": partial(longest, [case for case in ENGINE_NAMES if case.startswith(("plain", "lds"))]),
        "scaling": scaling,
        "outer_step": outer_step,
    },
    "docs/comparison.md": {
        "peers": partial(longest, ("plain unroll", "torchopt", "higher", "betty", "lds", "lds Checkpoint")),
        "learners": learners,
    },
}


def render(page: str, text: str) -> str:
    """Return the text of a page with every table written anew."""
    for name, table in TABLES[page].items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        if not re.search(pattern, text, flags=re.DOTALL):
            raise ValueError(f"{page} needs the markers <!-- {name} --> and <!-- end -->")
        text = re.sub(pattern, lambda m, t=table: f"{m[1]}{t()}\n{m[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    for page in TABLES:
        path = ROOT / page
        path.write_text(render(page, path.read_text()))
