"""Time and memory of an outer step (τ = 5) against the number of nodes: all pairs, and ten candidate pairs a node.

    python scripts/benchmarks/scaling.py
    python scripts/benchmarks/scaling.py --kind candidates --threads 1

Every size runs in a fresh process; writes OUT.json and a log-log plot OUT.png with the fitted exponents. Random graphs
with 2.25 edges a node, 500 features of 10 % density, 60 training and 250 validation nodes: at 19,717 nodes, the sizes
of Pubmed. On candidate pairs the objectives are the learner's, which look at the active part of a graph; "all rows"
looks at the whole graph, with the same draws. Peak memory is that of the steps with data and θ in memory, and, from the
candidates on, of making θ too.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from harness import RESULTS, Row, fresh_peak, medians, peak_mib, run, take_kernel, timed, write

SIZES = {
    "all": {
        "all pairs": (1_000, 2_000, 5_000, 10_000, 19_717),
        "all pairs, torch": (1_000, 2_000, 5_000, 10_000, 19_717),
    },
    "candidates": {
        "candidate pairs": (10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000),
        "candidate pairs, all rows": (10_000, 20_000, 50_000, 100_000, 200_000),
    },
}
OUT = {"all": RESULTS / "scaling", "candidates": RESULTS / "candidates"}
LABELS = {
    "seconds": "seconds",
    "cpu": "CPU seconds",
    "peak_rss_mb": "peak memory of the process, MiB",
}


def measure(kind: str, nodes: int) -> Row:
    from cases import Problem, all_pairs, engine_step, learner_step, synthetic

    from lds.graph import CandidatePairs, _candidate_graph, random_pairs

    kind = take_kernel(kind)
    edges = round(2.248 * nodes)
    data = synthetic(nodes, edges)
    if kind == "all pairs":
        return timed(engine_step(Problem.of(data), all_pairs(data), 5), repeats=5, warm_up=1)
    if kind.endswith("all rows"):
        _candidate_graph.ACTIVE_SHARE = 0
    before, began = fresh_peak(), time.process_time()
    more = random_pairs(nodes, 10 * nodes - edges, seed=1)
    structure = CandidatePairs(nodes, data.edge_index, candidates=more)
    del more
    made, seconds, _ = peak_mib(), time.process_time() - began, fresh_peak()
    step = learner_step(data, structure, 5)
    row = timed(step, repeats=5, warm_up=1)
    touched, _ = step().grad["structure"].entries()
    row["touched"] = structure.pairs.shape[1] if touched is None else touched.numel()
    peak = peak_mib()
    return row | {
        "candidates": structure.pairs.shape[1],
        "data_mb": before,
        "structure_cpu": seconds,
        "step_rss_mb": peak,
        "peak_rss_mb": max(made, peak),
    }


def exponent(rows: list[Row], key: str) -> float:
    """Slope of the log of seconds over log nodes, for the larger half of the sizes."""
    import numpy as np

    largest = rows[min(len(rows) // 2, len(rows) - 2) :]
    return float(np.polyfit(np.log([r["nodes"] for r in largest]), np.log([r[key] for r in largest]), 1)[0])


def plot(table: dict[str, list[Row]], seconds: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for axis, key, place in zip(axes, (seconds, "peak_rss_mb"), ("lower right", "upper left"), strict=True):
        for (kind, rows), marker in zip(table.items(), "os^"[: len(table)], strict=True):
            name = f"{kind}, ~ N^{exponent(rows, key):.2f}" if key == seconds else kind
            axis.loglog([r["nodes"] for r in rows], [r[key] for r in rows], marker=marker, label=name)
        axis.set_xlabel("nodes N")
        axis.set_ylabel(LABELS[key])
        axis.grid(alpha=0.3, which="both")
        axis.legend(loc=place, fontsize=8)
    figure.suptitle("One outer step of LDS, τ = 5")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=SIZES, default="all", help="all pairs, or candidate pairs")
    parser.add_argument("--out", type=Path, help="path of the results, less .json and .png")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--up-to", type=int, default=2_000_000, help="the largest number of nodes")
    options = parser.parse_args()
    out = OUT[options.kind] if options.out is None else options.out
    kinds = SIZES[options.kind]
    specs = [{"kind": kind, "nodes": n} for kind, sizes in kinds.items() for n in sizes if n <= options.up_to]
    rows = run(__file__, specs, options.rounds, threads=options.threads)
    table = medians(rows, ["kind", "nodes"])
    print(table.to_string(index=False, float_format="{:.3f}".format))
    by_kind = {kind: group.to_dict("records") for kind, group in table.groupby("kind", sort=False)}
    # What a thread takes is the same on a machine that others use.
    seconds = "cpu" if options.threads == 1 else "seconds"
    exponents = {kind: exponent(rows, seconds) for kind, rows in by_kind.items()}
    print("fitted exponents:", ", ".join(f"{kind} N^{value:.2f}" for kind, value in exponents.items()))
    write(out.with_suffix(".json"), threads=options.threads, exponents=exponents, rows=by_kind)
    plot(by_kind, seconds, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
