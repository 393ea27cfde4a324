"""Time and memory of hypergradients through T inner steps: plain unrolling, other packages, every memory policy of lds.

    python scripts/benchmarks/engine.py                    # writes experiments/results/engine.json and .png
    python scripts/benchmarks/engine.py --quick            # minutes; writes runs/engine-quick.json and .png
    python scripts/benchmarks/engine.py --cases lds --updaters adam --steps 20 --rounds 1 --out runs/engine-one

An MLP (64-256-256-10, 1,000 samples, cross-entropy) is trained for T steps; the outer variables are a log-L2 penalty
for every weight. Every case runs in a fresh process on one thread, and a plain unroll right after it in the same
process: ratios are between these two. Rounds go over all cases in turn, and medians are reported. Memory is the peak
above that after a call with two steps. CPU time is what other work on the machine disturbs least; wall time is in the
results, too. They are written after every case: run again to continue. Cases whose package or policy is not there are
listed; `peers.py` says how to install the packages.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import peers
import torch
from harness import RESULTS, ROOT, Row, fresh_peak, medians, peak_mib, run, timed, write
from torch import Tensor
from unrolls import (
    MissingError,
    Rule,
    Task,
    Tree,
    UnsupportedError,
    checkpointed,
    gradients,
    gradients_differ,
    lds_hypergradient,
    lds_updater,
    leaves,
    plain,
    ten_weights,
)

STEPS, QUICK_STEPS = (5, 20, 100, 400), (5, 20)
# Updater, steps and quick steps of the cases that are no hypergradient of the problem above.
EXTRA = {
    "overhead": (("momentum", "adam"), (1000,), (200,)),
    "flat, horizon 20": (("momentum",), (100, 1_000, 10_000), (100,)),
    "flat, Checkpoint": (("momentum",), (100, 1_000, 10_000), (100,)),
}
TITLES = {"momentum": "SGD with momentum 0.9", "adam": "Adam"}
# Packages differ in the place of ε, and weights of tiny gradient dominate: at ε = 1e-8 their formulas are 60 % apart.
RULES = {"momentum": Rule("momentum", 0.05, momentum=0.9), "adam": Rule("adam", 1e-3, eps=1e-12)}
SIZES = (64, 256, 256, 10)
CASES: dict[str, Callable[[Task, Rule, int], Tree]] = {
    "plain unroll": plain,
    "torchopt": peers.torchopt,
    "higher": peers.higher,
    "betty": peers.betty,
    "hypertorch": peers.hypertorch,
    "torch checkpoint": checkpointed,
    "torch checkpoint, reentrant": partial(checkpointed, reentrant=True),
    "bergson": peers.bergson,
    "lds": lds_hypergradient,
    "lds KeepGraphs": partial(lds_hypergradient, memory="KeepGraphs", budget=32 * 2**30),
    "lds KeepStates": partial(lds_hypergradient, memory="KeepStates"),
    "lds KeepGradients": partial(lds_hypergradient, memory="KeepGradients"),
    "lds traced, KeepGradients": partial(lds_hypergradient, memory="KeepGradients", traced=True),
    "lds Checkpoint": partial(lds_hypergradient, memory="Checkpoint"),
    "lds Binomial": partial(lds_hypergradient, memory="Binomial", snapshots=10),
    "lds Offload": partial(lds_hypergradient, memory="Offload"),
    "lds Disk": partial(lds_hypergradient, memory="Disk"),
}
FLAT = {
    "flat, horizon 20": partial(lds_hypergradient, horizon=20),
    "flat, Checkpoint": partial(lds_hypergradient, memory="Checkpoint"),
}


def mlp(samples: int = 1000) -> Task:
    """An MLP with a log-L2 penalty for every weight, on data from a random teacher."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    params = {}
    for i, (fan_in, fan_out) in enumerate(pairwise(SIZES)):
        params |= {f"w{i}": normal(fan_in, fan_out) * (2 / fan_in) ** 0.5, f"b{i}": torch.zeros(fan_out)}
    outer = {name: torch.full_like(value, -6.0) for name, value in params.items()}
    teacher = normal(SIZES[0], SIZES[-1])
    x, x_val = normal(samples, SIZES[0]), normal(samples, SIZES[0])
    y, y_val = (x @ teacher).argmax(1), (x_val @ teacher).argmax(1)
    layers = len(SIZES) - 1

    def logits(params: Tree, x: Tensor) -> Tensor:
        for i in range(layers):
            x = torch.addmm(params[f"b{i}"], x, params[f"w{i}"])
            x = torch.relu(x) if i < layers - 1 else x
        return x

    def inner(params: Tree, outer: Tree) -> Tensor:
        penalty = sum((outer[name].exp() * params[name].square()).sum() for name in params)
        return torch.nn.functional.cross_entropy(logits(params, x), y) + 0.5 * penalty

    def outer_objective(params: Tree, outer: Tree) -> Tensor:
        return torch.nn.functional.cross_entropy(logits(params, x_val), y_val)

    return Task(params, outer, inner, outer_objective)


def measure(case: str, updater: str, steps: int) -> Row:
    """Return times, their ratios to plain unrolling, peak memory and distance to its result; or why there are none."""
    rule = RULES[updater]
    calls = []
    try:
        if case == "overhead":
            return overhead(rule, steps)
        solve = CASES[case] if case in CASES else FLAT[case]
        task = mlp() if case in CASES else mlp(samples=50)
        solve(task, rule, 2)
        for _ in range({5: 5, 20: 3}.get(steps, 1)):
            base = fresh_peak()
            grads, ours = timed_result(lambda: solve(task, rule, steps))
            calls.append({"wall": ours["seconds"], "cpu": ours["cpu"], "peak_mib": peak_mib() - base})
            if case in CASES:  # Right after it, for the speed of the machine changes within minutes.
                fresh_peak()
                expected, theirs = timed_result(lambda: plain(task, rule, steps))
                calls[-1] |= {
                    "wall_ratio": ours["seconds"] / theirs["seconds"],
                    "cpu_ratio": ours["cpu"] / theirs["cpu"],
                    "difference": gradients_differ(grads, expected),
                }
    except (MissingError, UnsupportedError) as reason:
        return {"absent": str(reason)}
    found: Row = pd.DataFrame(calls).median().to_dict()
    return found


def overhead(rule: Rule, steps: int, repeats: int = 7) -> Row:
    """Return CPU µs a step of lds with its defaults, of a plain unroll of the same updater, and what lies between."""
    from lds.updaters import State

    task, updater = ten_weights(), lds_updater(rule)

    def unrolled() -> Tree:
        theta, params = leaves(task.outer), leaves(task.params)
        state = State(params, updater.init(params))
        for t in range(steps):
            params, slots = updater.step(state, theta, task.inner)[:2]
            state = State(params, slots, t + 1)
        return gradients(task.outer_objective(state.params, theta), theta)

    pairs = []
    for _ in range(repeats + 1):
        grads, ours = timed_result(lambda: lds_hypergradient(task, rule, steps))
        expected, theirs = timed_result(unrolled)
        lds_us, plain_us = (found["cpu"] / steps * 1e6 for found in (ours, theirs))
        pairs.append({"lds_us": lds_us, "plain_us": plain_us, "overhead_us": lds_us - plain_us})
    found: Row = pd.DataFrame(pairs[1:]).median().to_dict()  # The first warmed up.
    return found | {"difference": gradients_differ(grads, expected)}


def timed_result(function: Callable[[], Any]) -> tuple[Any, Row]:
    """Return what a function returns, and its times."""
    results = []
    times = timed(lambda: results.append(function()))
    return results[0], times


def planned(cases: list[str], updaters: list[str], steps: list[int], quick: bool) -> list[Row]:
    """Return what a round measures, in order."""
    specs = [{"case": c, "updater": u, "steps": t} for t in steps for u in updaters for c in cases if c in CASES]
    for case, (known, full, short) in EXTRA.items():
        if case in cases:
            specs += [
                {"case": case, "updater": u, "steps": t}
                for u in updaters
                if u in known
                for t in (short if quick else full)
            ]
    return specs


def tables(table: pd.DataFrame) -> str:
    """Return tables of everything."""
    if table.empty:
        return ""
    parts = []
    unrolled = table[table["case"].isin(CASES)]
    for updater, group in unrolled.groupby("updater", sort=False):
        cells = group.apply(
            lambda r: (
                f"{r['cpu_ratio']:.2f}× ({r['wall_ratio']:.2f}×), {r['cpu']:.3f} s, {r['peak_mib']:.0f} MiB, "
                f"{r['difference']:.0e}"
            ),
            axis=1,
        )
        wide = group.assign(cell=cells).pivot(index="case", columns="steps", values="cell")
        wide = wide.reindex([case for case in CASES if case in wide.index]).fillna("").add_prefix("T = ")
        parts.append(
            f"{TITLES[str(updater)]}: CPU (wall) time over plain unroll, CPU s, memory, distance to plain unroll"
        )
        parts.append(wide.rename_axis(index=None, columns=None).to_string())
    rest = table[~table["case"].isin(CASES)].dropna(axis=1, how="all")
    if not rest.empty:
        parts.append(rest.to_string(index=False, na_rep="", float_format="{:.2f}".format))
    return "\n\n".join(parts)


def plot(table: pd.DataFrame, path: Path) -> None:
    """Draw the ratio of CPU times and peak memory against T, a row of panels an updater."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    figure, axes = plt.subplots(len(TITLES), 2, figsize=(10.5, 7.5), layout="constrained", sharex=True, squeeze=False)
    cases = [case for case in CASES if (table["case"] == case).any()]
    ours = [case for case in cases if case.startswith("lds")]
    others = [case for case in cases if case not in ours]
    styles = {case: (plt.cm.viridis(i / max(len(ours), 1)), "-") for i, case in enumerate(ours)}
    styles |= {case: (plt.cm.autumn(0.8 * i / max(len(others), 1)), "--") for i, case in enumerate(others)}
    for panels, (updater, title) in zip(axes, TITLES.items(), strict=True):
        labels = ("CPU time over plain unroll", "peak memory, MiB")
        for axis, name, label in zip(panels, ("cpu_ratio", "peak_mib"), labels, strict=True):
            for i, case in enumerate(cases):
                found = table[(table["case"] == case) & (table["updater"] == updater)].sort_values("steps")
                color, line = styles[case]
                axis.loglog(
                    found["steps"],
                    found[name].clip(lower=0.1),
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
    steps = sorted(set(table["steps"][table["case"].isin(CASES)]))
    for axis in axes[-1]:
        axis.set_xlabel("inner steps T")
        axis.set_xticks(steps, [str(t) for t in steps])
        axis.xaxis.set_minor_locator(NullLocator())
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=9, frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="T = 5 and 20, one round")
    parser.add_argument("--rounds", type=int, help="default: 3, with --quick 1")
    parser.add_argument("--cases", nargs="+", choices=[*CASES, *EXTRA], default=[*CASES, *EXTRA], metavar="CASE")
    parser.add_argument("--updaters", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--steps", nargs="+", type=int, help="default: 5, 20, 100 and 400, with --quick 5 and 20")
    parser.add_argument("--out", type=Path, help="path of the results, less .json and .png")
    parser.add_argument("--fresh", action="store_true", help="do not continue from what was measured before")
    options = parser.parse_args()
    out = options.out or (ROOT / "runs/engine-quick" if options.quick else RESULTS / "engine")
    path = out.with_suffix(".json")
    before = [] if options.fresh or not path.exists() else json.loads(path.read_text())["runs"]

    def save(rows: list[Row]) -> None:
        measured = [r for r in rows if not {"absent", "failed"} & r.keys()]
        table = medians(measured, ["case", "updater", "steps"]) if measured else pd.DataFrame()
        absent = {r["case"]: r["absent"] for r in rows if "absent" in r}
        failed = [r for r in rows if "failed" in r]
        # Without what was measured of other cases only.
        lines = [{name: x for name, x in row.items() if x == x} for row in table.to_dict("records")]
        write(path, threads=1, absent=absent, failed=failed, runs=measured, rows=lines)
        tables_of.update(table=table, absent=absent, failed=failed)

    tables_of: dict[str, Any] = {}
    steps = list(QUICK_STEPS if options.quick else STEPS) if options.steps is None else options.steps
    specs = planned(options.cases, options.updaters, steps, options.quick)
    rounds = options.rounds or (1 if options.quick else 3)
    save(run(__file__, specs, rounds, known=before, keep=save))
    print(tables(tables_of["table"]))
    for case, reason in tables_of["absent"].items():
        print(f"{case}: absent, {reason}")
    for row in tables_of["failed"]:
        print(f"{row['case']}, {row['updater']}, T = {row['steps']}: {row['failed']}")
    if not tables_of["table"].empty and "cpu_ratio" in tables_of["table"]:
        plot(tables_of["table"], out.with_suffix(".png"))


if __name__ == "__main__":
    main()
