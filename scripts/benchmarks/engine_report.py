"""Rows, tables and the plot of `engine.py`."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

Record = dict[str, Any]
TITLES = {"momentum": "SGD with momentum 0.9", "adam": "Adam"}


def rows(runs: list[Record]) -> list[Record]:
    """Return medians over rounds."""
    groups: dict[tuple[str, str, int], list[Record]] = defaultdict(list)
    for r in runs:
        groups[r["case"], r["updater"], r["steps"]].append(r)
    table = []
    for (case, updater, steps), group in groups.items():
        row: Record = {"case": case, "updater": updater, "steps": steps, "rounds": len(group)}
        names = [name for name, value in group[0].items() if isinstance(value, float)]
        table.append(row | {name: statistics.median(r[name] for r in group) for name in names})
    return table


def tables(report: Record, order: list[str]) -> str:
    """Return Markdown tables of everything."""
    table, parts = report["rows"], []
    cells = {(r["case"], r["updater"], r["steps"]): r for r in table}
    for updater, title in TITLES.items():
        steps = sorted({r["steps"] for r in table if r["updater"] == updater and r["case"] in order})
        lines = [f"{title}: CPU (wall) time over plain unroll, CPU seconds, MiB, distance to plain unroll", ""]
        lines += [f"| | {' | '.join(f'T = {t}' for t in steps)} |", "|---|" + "---|" * len(steps)]
        for case in order:
            found = [cells.get((case, updater, t)) for t in steps]
            if any(found):
                lines.append(f"| {case} | {' | '.join(_cell(r) if r else '' for r in found)} |")
        parts.append("\n".join(lines))
    parts.append("\n".join(_extra(r) for r in table if r["case"] not in order))
    parts.append("\n".join(f"{case}: absent, {reason}" for case, reason in report["absent"].items()))
    parts.append("\n".join(f"{r['case']}, {r['updater']}, T = {r['steps']}: {r['failed']}" for r in report["failed"]))
    return "\n\n".join(part for part in parts if part)


def _cell(row: Record) -> str:
    ratios = f"{row['cpu_ratio']:.2f}× ({row['wall_ratio']:.2f}×)"
    return f"{ratios}, {row['cpu']:.3f} s, {row['peak_mib']:.0f} MiB, {row['difference']:.0e}"


def _extra(row: Record) -> str:
    what = f"{row['case']}, {row['updater']}, T = {row['steps']:,}: "
    if row["case"] != "overhead":
        return what + f"{row['cpu']:.2f} s, {row['peak_mib']:.0f} MiB"
    return what + (
        f"{row['lds_us']:.0f} µs a step, plain {row['plain_us']:.0f} µs, overhead {row['overhead_us']:.0f} µs, "
        f"distance {row['difference']:.0e}"
    )


def plot(table: list[Record], order: list[str], path: Path) -> None:
    """Draw the ratio of CPU times and peak memory against T, a row of panels an updater."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    figure, axes = plt.subplots(len(TITLES), 2, figsize=(10.5, 7.5), layout="constrained", sharex=True, squeeze=False)
    cases = [case for case in order if any(r["case"] == case for r in table)]
    ours = [case for case in cases if case.startswith("lds")]
    others = [case for case in cases if case not in ours]
    styles = {case: (plt.cm.viridis(i / max(len(ours), 1)), "-") for i, case in enumerate(ours)}
    styles |= {case: (plt.cm.autumn(0.8 * i / max(len(others), 1)), "--") for i, case in enumerate(others)}
    for panels, (updater, title) in zip(axes, TITLES.items(), strict=True):
        labels = ("CPU time over plain unroll", "peak memory, MiB")
        for axis, name, label in zip(panels, ("cpu_ratio", "peak_mib"), labels, strict=True):
            for i, case in enumerate(cases):
                found = [r for r in table if r["case"] == case and r["updater"] == updater and name in r]
                found.sort(key=lambda r: r["steps"])
                color, line = styles[case]
                axis.loglog(
                    [r["steps"] for r in found],
                    [max(r[name], 0.1) for r in found],
                    line,
                    color=color,
                    marker="osD^v<>Pxh*p"[i % 12],
                    markersize=5,
                    label=case,
                )
            axis.set_title(f"{title}: {label}", fontsize=10)
            axis.grid(alpha=0.3, which="both")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5) if name == "cpu_ratio" else (1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_locator(NullLocator())
    steps = sorted({r["steps"] for r in table if r["case"] in order})
    for axis in axes[-1]:
        axis.set_xlabel("inner steps T")
        axis.set_xticks(steps, [str(t) for t in steps])
        axis.xaxis.set_minor_locator(NullLocator())
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=9, frameon=False)
    figure.savefig(path, dpi=150)
