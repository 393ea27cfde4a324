"""Time and memory of an outer step (τ = 5) against the number of nodes: all pairs, and ten candidate pairs a node.

    python scripts/benchmarks/scaling.py --out experiments/results/scaling

Every size runs in a fresh process; writes OUT.json and a log-log plot OUT.png with the fitted exponents. Random graphs
with 2.25 edges a node, 500 features of 10 % density, 60 training and 250 validation nodes: at 19,717 nodes, the sizes
of Pubmed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import RESULTS, Row, medians, run, take_kernel, timed, write

SIZES = {
    "all pairs": (1_000, 2_000, 5_000, 10_000, 19_717),
    "all pairs, torch": (1_000, 2_000, 5_000, 10_000, 19_717),
    "candidate pairs": (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000),
}


def measure(kind: str, nodes: int) -> Row:
    from cases import Problem, all_pairs, engine_step, synthetic

    from lds.graph import CandidatePairs, random_pairs

    kind = take_kernel(kind)
    edges = round(2.248 * nodes)
    data = synthetic(nodes, edges)
    if kind == "all pairs":
        structure = all_pairs(data)
    else:
        more = random_pairs(nodes, 10 * nodes - edges, seed=1)
        structure = CandidatePairs(nodes, data.edge_index, candidates=more)
    return timed(engine_step(Problem.of(data), structure, 5), repeats=5, warm_up=1)


def exponent(rows: list[Row]) -> float:
    """Slope of log seconds over log nodes, for the larger half of the sizes."""
    import numpy as np

    largest = rows[min(len(rows) // 2, len(rows) - 2) :]
    return float(np.polyfit(np.log([r["nodes"] for r in largest]), np.log([r["seconds"] for r in largest]), 1)[0])


def plot(table: dict[str, list[Row]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for axis, key, label in zip(
        axes, ("seconds", "peak_rss_mb"), ("seconds", "peak memory of the process, MiB"), strict=True
    ):
        for (kind, rows), marker in zip(table.items(), "ovs", strict=True):
            name = f"{kind}, ~ N^{exponent(rows):.2f}" if key == "seconds" else kind
            axis.loglog([r["nodes"] for r in rows], [r[key] for r in rows], marker=marker, label=name)
        axis.set_xlabel("nodes N")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    figure.suptitle("One outer step of LDS, τ = 5")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "scaling", help="path of the results, less .json and .png"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--up-to", type=int, default=200_000, help="the largest number of nodes")
    options = parser.parse_args()
    specs = [{"kind": kind, "nodes": n} for kind, sizes in SIZES.items() for n in sizes if n <= options.up_to]
    rows = run(__file__, specs, options.rounds, threads=options.threads)
    table = medians(rows, ["kind", "nodes"])
    print(table.to_string(index=False, float_format="{:.3f}".format))
    by_kind = {kind: group.to_dict("records") for kind, group in table.groupby("kind", sort=False)}
    exponents = {kind: exponent(rows) for kind, rows in by_kind.items()}
    print("fitted exponents:", ", ".join(f"{kind} N^{value:.2f}" for kind, value in exponents.items()))
    write(options.out.with_suffix(".json"), threads=options.threads, exponents=exponents, rows=by_kind)
    plot(by_kind, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
