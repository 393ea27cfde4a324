"""Write the tables of the README from the result files, between their markers.

    python scripts/benchmarks/readme.py

A test holds that the README says what the result files say.
"""

from __future__ import annotations

import csv
import json
import re
import statistics
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results"
NAMES = {
    "factored": "**lds, factor pairs**",
    "dense recorder": "the same engine on a dense N×N θ",
    "dense unroll": "plain dense unroll, `create_graph=True`",
    "torchopt unroll": "dense unroll with TorchOpt's Adam",
}
# Franceschi et al., ICML 2019, tables 1 and 2: test accuracy in percent.
PUBLISHED = {
    ("cora", "gcn", 1.0): 79.8,
    ("cora", "lds", 1.0): 84.1,
    ("citeseer", "lds", 1.0): 75.0,
    ("cora", "knn-gcn", 1.0): 66.5,
    ("cora", "knn-lds", 1.0): 71.5,
    ("citeseer", "knn-gcn", 1.0): 68.3,
    ("citeseer", "knn-lds", 1.0): 71.5,
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


def citation() -> str:
    groups: dict[tuple[str, str, float, str], list[float]] = defaultdict(list)
    with (RESULTS / "citation.csv").open() as file:
        for row in csv.DictReader(file):
            k = row["k"] if row["method"].startswith("knn") else ""
            groups[row["dataset"], row["method"], float(row["retain"]), k].append(100 * float(row["test_accuracy"]))
    lines = ["| data set | method | edges kept | seeds | test accuracy, % | published |", "|---|---|--:|--:|--:|--:|"]
    for (dataset, method, retain, k), values in groups.items():
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        name = f"{method}, k = {k}" if k else method
        kept = "" if k else f"{100 * retain:.0f} %"
        published = PUBLISHED.get((dataset, method, retain), "")
        mean = f"{statistics.fmean(values):.1f}{spread}"
        lines.append(f"| {dataset} | {name} | {kept} | {len(values)} | {mean} | {published} |")
    return "\n".join(lines)


TABLES = {"outer_step": outer_step, "scaling": scaling, "breakdown": breakdown, "citation": citation}


def render(text: str) -> str:
    """Return the README with every table written anew."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        if not re.search(pattern, text, flags=re.DOTALL):
            raise ValueError(f"README.md needs the markers <!-- {name} --> and <!-- end -->")
        text = re.sub(pattern, lambda m, t=table: f"{m[1]}{t()}\n{m[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(render(readme.read_text()))
