"""Write the tables of the README and of docs/ from the result files, between their markers.

    python scripts/benchmarks/readme.py

A test holds that the pages say what the result files say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results"
NAMES = {
    "factored": "**lds, factor pairs**",
    "factored, torch": "the same without compiled code",
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
    "lds KeepGradients": "lds, `KeepGradients()`",
    "lds traced, KeepGradients": "lds, `Traced(…)`, `KeepGradients()`",
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


def markdown(table: pd.DataFrame, left: int = 1) -> str:
    """Return a table in Markdown, the first `left` columns to the left and the others to the right."""
    rule = "|" + "---|" * left + "--:|" * (table.shape[1] - left)
    return "\n".join([_line(table.columns), rule, *map(_line, table.astype(str).to_numpy())])


def _line(cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def report(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def wide(cells: pd.DataFrame, names: dict[str, str], title: str, columns: str) -> pd.DataFrame:
    """Return the texts of the column `cell`, a row a case that has a name, a column a value of another column."""
    found = cells.pivot(index="case", columns=columns, values="cell")
    found = found.reindex([case for case in names if case in found.index]).fillna("")
    found.index = found.index.map(names)
    return found.rename_axis(index=title, columns=None)


def outer_step() -> str:
    rows = pd.DataFrame(report("outer_step")["rows"])
    rows["cell"] = [f"{s:.3f} s ({r:.0f}×)" for s, r in zip(rows["seconds"], rows["ratio"], strict=True)]
    table = wide(rows, NAMES, "one outer step on Cora", "tau").add_prefix("τ = ")
    peaks = rows.groupby("case")["peak_rss_mb"].max().rename(index=NAMES)
    table["peak memory"] = peaks[table.index].map("{:.0f} MiB".format)
    return markdown(table.reset_index())


def scaling() -> str:
    """Return the two largest sizes of all pairs, and those of candidate pairs that were measured on all rows, too."""
    found, candidates = report("scaling"), report("candidates")
    sparse = pd.concat([pd.DataFrame(rows).assign(seconds=lambda x: x["cpu"]) for rows in candidates["rows"].values()])
    largest = sparse["nodes"].isin({sparse["nodes"].max(), sparse[sparse["kind"].str.endswith("rows")]["nodes"].max()})
    rows = pd.concat([pd.DataFrame(found["rows"]["all pairs"][-2:]), sparse[largest]])
    table = pd.DataFrame(
        {
            "structure": rows["kind"],
            "nodes": rows["nodes"].map("{:,}".format),
            "one outer step, τ = 5": rows["seconds"].map("{:.2f} s".format),
            "peak memory": rows["peak_rss_mb"].map("{:.0f} MiB".format),
        }
    )
    return (
        f"{markdown(table)}\n\nTime grows as N^{found['exponents']['all pairs']:.2f} on all pairs, "
        f"N^{candidates['exponents']['candidate pairs']:.2f} on candidate pairs. All pairs: two threads, "
        f"{found['machine']}; candidate pairs: CPU seconds of one thread, {candidates['machine']}."
    )


def large_graphs() -> str:
    """Return time and memory of candidate pairs by size, and what a step touches."""
    found = report("candidates")
    active, whole = (pd.DataFrame(rows).set_index("nodes") for rows in found["rows"].values())
    whole = whole.reindex(active.index)
    table = pd.DataFrame(
        {
            "nodes": [f"{n:,}" for n in active.index],
            "candidates": active["candidates"].map("{:,.0f}".format),
            "with a gradient": active["touched"].map("{:,.0f}".format),
            "outer step": active["cpu"].map("{:.2f} s".format),
            "… over all rows": whole["cpu"].map(lambda x: "" if pd.isna(x) else f"{x:.2f} s"),
            "peak memory": active["peak_rss_mb"].map("{:.0f} MiB".format),
            "… of the steps": active["step_rss_mb"].map("{:.0f} MiB".format),
            "… over all rows ": whole["step_rss_mb"].map(lambda x: "" if pd.isna(x) else f"{x:.0f} MiB"),
            "making θ": active["structure_cpu"].map("{:.1f} s".format),
        }
    )
    return f"{markdown(table)}\n\nCPU seconds of one thread. Machine: {found['machine']}."


def breakdown() -> str:
    found = report("breakdown")
    parts = ", ".join(f"{name} {value:.0f} ms" for name, value in found["milliseconds"].items())
    return (
        f"Over an outer epoch on Cora (τ = 5, one thread), an outer step takes {parts}. Its hypergradient differs from "
        f"the dense one by {found['relative_difference']:.0e} in float32."
    )


def accuracy() -> str:
    """Return LDS next to the GCN on the edges that it starts from, with fewer and the same labels, and the paper."""
    found = {name: pd.read_csv(RESULTS / name / "table.csv") for name in ("table1", "missing_edges")}
    given = found["missing_edges"]["retain"].map("{:.0%}".format).str.replace("%", " %")
    rows = pd.concat([found["table1"].assign(given="none: kNN graph"), found["missing_edges"].assign(given=given)])
    rows["method"] = rows["method"].str.removeprefix("knn-")
    columns = {
        "GCN": ("gcn", ""),
        "GCN, same labels as LDS": ("gcn (train+val)", ""),
        "LDS": ("lds", ""),
        "LDS, as published": ("lds", "published_"),
    }
    rows = rows[rows["method"].isin([method for method, _ in columns.values()]) & (rows["dataset"] != "iris")]
    table = rows[["dataset", "given"]].drop_duplicates().reset_index(drop=True)
    for column, (method, prefix) in columns.items():
        chosen = rows[(rows["method"] == method) & rows[f"{prefix}mean"].notna()]
        if prefix:
            chosen = chosen[chosen["source"].fillna("").str.startswith("LDS paper")]
        cells = {
            (r.dataset, r.given): f"{getattr(r, f'{prefix}mean'):.1f} ± {getattr(r, f'{prefix}std'):.1f}"
            for r in chosen.itertuples()
        }
        table[column] = [cells.get(key, "") for key in zip(table["dataset"], table["given"], strict=True)]
    options = pd.read_csv(RESULTS / "learners" / "table.csv").query("chosen == 'yes'")
    cells = {(r.dataset, _given(r.graph)): f"{r.test:.1f} ± {r.test_std:.1f}" for r in options.itertuples()}
    found = [cells.get(key, "") for key in zip(table["dataset"], table["given"], strict=True)]
    table.insert(table.shape[1] - 1, "best option, same labels", found)
    return markdown(table.rename(columns={"dataset": "data set", "given": "edges given"}), left=2)


def _given(graph: str) -> str:
    """Return what edges are given, by the graph of a row of learners."""
    return "none: kNN graph" if graph == "kNN" else graph.split("%")[0] + " %"


def table(experiment: str, name: str = "table.md") -> str:
    """Return a table that an experiment has written."""
    return (RESULTS / experiment / name).read_text().rstrip()


def choices() -> str:
    """Return, for kNN-LDS, how well early-stopping nodes tell settings apart, and how far splits do."""
    runs = pd.read_csv(RESULTS / "table1" / "results.csv")
    runs = runs[runs["method"] == "knn-lds"].copy()
    accuracies = [f"{split}_accuracy" for split in ("es", "test", "val")]
    runs[accuracies] *= 100
    rows = []
    for dataset, group in runs.groupby("dataset", sort=False):
        settings = group.groupby(["tau", "outer_lr", "k", "metric", "scale"], dropna=False)[accuracies].mean()
        best = settings["es_accuracy"].max()
        ties = settings[settings["es_accuracy"] >= best - 1e-9]
        splits = group.groupby("seed")["test_accuracy"].mean()
        rows.append(
            {
                "data set": dataset,
                "settings": len(settings),
                "tie on early stopping": f"{len(ties)} at {best:.1f}",
                "their test accuracy, %": _span(ties["test_accuracy"]),
                "validation": f"{ties['val_accuracy'].mean():.1f}",
                "by split": _span(splits),
            }
        )
    return markdown(pd.DataFrame(rows))


def _span(values: pd.Series) -> str:
    return f"{values.min():.1f} to {values.max():.1f}"


def night() -> str:
    """Return how long the experiments take."""
    found = report("night")
    hours = pd.DataFrame(found["hours"]).T
    hours.loc["together"] = hours.sum()
    table = pd.DataFrame(
        {
            "experiment": hours.index,
            "runs": hours["runs"].map("{:.0f}".format),
            "hours, as recorded beside other work": hours["recorded"].map("{:.1f}".format),
            "hours on a quiet machine": hours["quiet"].map("{:.1f}".format),
        }
    )
    return f"{markdown(table)}\n\n{found['jobs']} runs at a time; {found['machine']}."


def truncation() -> str:
    """Return accuracy, cost and fidelity of each horizon."""
    runs, fidelity = (pd.read_csv(RESULTS / "truncation" / f"{name}.csv") for name in ("ablation", "fidelity"))
    groups = runs.groupby("horizon", sort=False)
    mean, std, median = groups.mean(numeric_only=True), groups.std(numeric_only=True), groups.median(numeric_only=True)
    fidelity = fidelity.set_index("depth").loc[mean.index]

    def plus_minus(name: str) -> list[str]:
        return [f"{100 * m:.1f} ± {100 * s:.1f}" for m, s in zip(mean[name], std[name], strict=True)]

    table = pd.DataFrame(
        {
            "horizon": mean.index,
            "seeds": groups.size(),
            "test accuracy, %": plus_minus("test_accuracy"),
            "early stopping, %": plus_minus("es_accuracy"),
            "seconds": median["seconds"].map("{:.0f}".format),
            "MiB": median["peak_rss_mb"].map("{:.0f}".format),
            "relative error": fidelity["relative_error"].map("{:.2f}".format),
            "cosine": fidelity["cosine"].map("{:.2f}".format),
        }
    )
    return markdown(table, left=0)


def engine(path: Path = RESULTS / "engine.json") -> str:
    rows = pd.DataFrame(json.loads(path.read_text())["rows"])
    known = rows[rows["case"].isin(ENGINE_NAMES)].copy()
    known["cell"] = known["cpu_ratio"].map("{:.2f}×".format)
    parts = []
    for updater, title in {"momentum": "SGD with momentum", "adam": "Adam"}.items():
        group = known[known["updater"] == updater]
        last = group["steps"].max()
        table = wide(group, ENGINE_NAMES, f"T steps of {title}", "steps").add_prefix("T = ")
        peaks = group[group["steps"] == last].set_index("case")["peak_mib"].rename(index=ENGINE_NAMES)
        table[f"memory, T = {last}"] = peaks.map("{:.0f} MiB".format).reindex(table.index, fill_value="")
        parts.append(markdown(table.reset_index()))
    lines = ["CPU time on one thread, over that of a plain unroll right after it in the same process."]
    costs = [f"{r.overhead_us:.0f} µs ({r.updater})" for r in rows[rows["case"] == "overhead"].itertuples()]
    lines += [f"On ten weights, a step costs {' or '.join(costs)} more than in a plain unroll."] if costs else []
    flat = rows[rows["case"].str.startswith("flat")].sort_values("steps")
    for case, group in flat.groupby("case", sort=False):
        name = case.removeprefix("flat, ").replace("Checkpoint", "`Checkpoint()`")
        peaks = [f"{r.peak_mib:.0f} MiB at T = {r.steps:,}" for r in group.itertuples()]
        lines.append(f"With {name}: {', '.join(peaks)}.")
    return "\n\n".join([*parts, "\n".join(lines)])


def longest(cases: Sequence[str]) -> str:
    """Return time and memory of some cases at the largest T that was measured."""
    rows = pd.DataFrame(report("engine")["rows"])
    steps = rows["steps"][rows["case"] == "plain unroll"].max()
    rows = rows[rows["steps"] == steps].set_index(["updater", "case"])
    cases = [case for case in cases if {("momentum", case), ("adam", case)} <= set(rows.index)]
    table = pd.DataFrame({f"T = {steps}": [ENGINE_NAMES[case] for case in cases]})
    for updater, title in {"momentum": "SGD with momentum", "adam": "Adam"}.items():
        found = rows.loc[updater].loc[cases]
        # Rows may come from different days and machines; what ran beside a row, in the same process, does not.
        table[title] = found["cpu_ratio"].map("{:.2f}×".format).to_list()
        table.insert(table.shape[1], "memory", [f"{peak:.0f} MiB" for peak in found["peak_mib"]], allow_duplicates=True)
    return markdown(table)


def derived() -> str:
    found = report("derived")
    rows = pd.DataFrame(found["rows"])
    title = f"{found['steps']} steps of a GCN on a dense Â, 2,708 nodes"
    times, peaks = rows["seconds"].map("{:.1f} s".format), rows["peak_rss_mb"].map("{:,.0f} MiB".format)
    return markdown(pd.DataFrame({title: rows["case"], "time": times, "peak of the process": peaks}))


def maml() -> str:
    """Return time and memory of an outer step of MAML, by method and number of inner steps."""
    rows = pd.DataFrame(report("maml")["rows"])
    table = pd.DataFrame({"inner steps": rows["steps"], "method": rows["method"]})
    table["time"] = [
        f"{seconds:.3g} s ({ratio:.2f}×)" for seconds, ratio in zip(rows["seconds"], rows["ratio"], strict=True)
    ]
    table["memory"] = ["" if pd.isna(mib) else f"{mib:.0f} MiB" for mib in rows["mib"]]
    return markdown(table.sort_values("inner steps", kind="stable"))


def learners() -> str:
    """Return what learning a structure costs by other packages and by ours, and what a whole training would."""
    runs = pd.read_csv(RESULTS / "missing_edges" / "results.csv")
    runs = runs[(runs["dataset"] == "cora") & (runs["method"] == "lds") & (runs["retain"] == 1)]
    least, most = int(runs["outer_steps"].min()), int(runs["outer_steps"].max())
    rows = []
    for row in report("learners")["rows"]:
        step = row["cpu"] / row["steps"]
        if row["case"] == "lds":
            name, length = "**lds**", f"{row['outer_epochs']} outer epochs, {row['steps']} outer steps"
            whole = f"{least * step:,.0f} to {most * step:,.0f} s"
        else:
            name, length = f"{row['case'].split()[1].upper()} by OpenGSL", f"{row['steps']} of {row['of']:,} epochs"
            whole = f"{row['of'] * step:,.0f} s"
        rows.append(
            {
                "on Cora": name,
                "trained for": length,
                "CPU time": f"{row['cpu']:.0f} s",
                "a step": f"{step:.2f} s",
                "all steps at this pace": whole,
                "peak memory": f"{row['peak_rss_mb']:,.0f} MiB",
            }
        )
    table = markdown(pd.DataFrame(rows), left=2)
    return f"{table}\n\nIn the experiments, lds ends after {least:,} to {most:,} outer steps."


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
    lines = []
    for prefix, name in EXACTNESS_NAMES.items():
        found = [r for r in rows if r["method"] == prefix or (prefix == "lds" and r["method"].startswith("lds"))]
        if all("absent" in r for r in found):
            continue
        cells = {"relative error": name}
        for column, (updaters, setting, truncated) in columns.items():
            part = [r for r in found if r["updater"] in updaters and r["setting"] == setting]
            cells[column] = worst_error([r for r in part if (r["horizon"] is not None) == truncated]) or "–"
        lines.append(cells)
    note = "In parentheses: against the package's own formula, where its ε has another place."
    return f"{markdown(pd.DataFrame(lines))}\n\n{note}"


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"outer_step": outer_step, "accuracy": accuracy},
    "docs/results.md": {
        "choices": choices,
        "truncation": truncation,
        "night": night,
        **{
            name: partial(table, name)
            for name in ("table1", "missing_edges", "beyond", "learned_graph", "auto", "yardstick", "robustness")
        },
        "rules": partial(table, "auto", "rules.md"),
        "options": partial(table, "learners"),
        "tried": partial(table, "tried"),
    },
    "docs/own-data.md": {"retrain": partial(table, "retrain")},
    "docs/large-graphs.md": {"large_graphs": large_graphs},
    "docs/hypergradients.md": {"engine": engine, "exactness": exactness, "derived": derived},
    "docs/unroll.md": {"maml": maml},
    "docs/choosing.md": {
        "memory": partial(longest, [case for case in ENGINE_NAMES if case.startswith(("plain", "lds"))]),
        "scaling": scaling,
        "outer_step": outer_step,
        "breakdown": breakdown,
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
