"""What LDS makes of a graph: expected edges, edge probabilities and homophily before and after.

    python experiments/learned_graph.py [--quick]

Trains LDS on Cora with half of its edges and kNN-LDS on wine, or reads the runs where they have finished. Writes
table.csv, table.md, histogram.csv and picture.png to experiments/results/learned_graph/. Needs the raw files of Cora,
see `lds data fetch`, and matplotlib.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from homophily import BINS, Portrait, mean_over, portrait
from tables import as_markdown, provenance, write

from lds.graph import AllPairs
from lds.run import TrainConfig, load_data, train_once
from lds.run._learner import make_learner

HERE = Path(__file__).resolve().parent
RUNS = (TrainConfig("cora", "lds", retain=0.5), TrainConfig("wine", "knn-lds"))
QUICK = (TrainConfig("cora", "lds", retain=0.5, max_epochs=2), TrainConfig("wine", "knn-lds", max_epochs=2))
NODE_FIGURES = ("node_within", "node_between", "node_homophily")
LABELS = ["0", *(f"≤{bound:g}" for bound in BINS)]


def portraits(config: TrainConfig, run: Path) -> tuple[dict[str, Portrait], dict[str, torch.Tensor]]:
    """Return the structure before and after a run, and the test nodes that are classified right and wrong."""
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    data = load_data(config)
    structure = AllPairs(data.num_nodes, make_learner(config, data).graph(data))
    before = portrait(structure, data.y)
    structure.restore_(checkpoint["theta"])
    right = checkpoint["logits"].argmax(1) == data.y
    nodes = {"correct": data.test_mask & right, "wrong": data.test_mask & ~right}
    return {"before": before, "after": portrait(structure, data.y)}, nodes


def rows(
    config: TrainConfig, found: dict[str, Portrait], nodes: dict[str, torch.Tensor]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of the table and of the histogram."""
    table, histogram = [], []
    for moment, graph in found.items():
        place = {"dataset": config.dataset, "method": config.method, "retain": config.retain, "moment": moment}
        figures = {name: getattr(graph, name) for name in ("expected_edges", "within", "between", "edge_homophily")}
        for name, mask in nodes.items():
            figures[f"nodes_{name}"] = int(mask.sum())
            figures |= {f"{figure}_{name}": mean_over(getattr(graph, figure), mask) for figure in NODE_FIGURES}
        table.append(place | figures)
        for part, counts in zip(("within", "between"), graph.histogram, strict=True):
            histogram.append(place | {"pairs": part} | dict(zip(LABELS, counts, strict=True)))
    return table, histogram


def draw(table: list[dict[str, Any]], histogram: list[dict[str, Any]], path: Path) -> None:
    """Draw a row a run: pairs by probability, and homophily of correctly and wrongly classified nodes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(table) // 2, 2, figsize=(11, 3.5 * len(table) // 2), squeeze=False)
    for line, (left, right) in enumerate(axes):
        run = table[2 * line : 2 * line + 2]
        for row in histogram[4 * line : 4 * line + 4]:
            counts = [row[label] for label in LABELS]
            style = {"marker": "x", "ls": ""} if row["moment"] == "before" else {"marker": "o", "ls": "-"}
            color = "C0" if row["pairs"] == "within" else "C1"
            shares = [count / sum(counts) for count in counts]
            left.plot(LABELS, shares, color=color, label=f"{row['pairs']}, {row['moment']}", **style)
        left.set(yscale="log", xlabel="edge probability θ", ylabel="share of the pairs")
        left.set_title(f"{run[0]['method']} on {run[0]['dataset']}: pairs within and between classes")
        left.legend(loc="lower left")
        for shift, row in enumerate(run):
            heights = [row["node_homophily_correct"], row["node_homophily_wrong"], row["edge_homophily"]]
            right.bar([x + 0.4 * shift for x in range(3)], heights, 0.4, label=row["moment"])
        right.set_xticks([0.2, 1.2, 2.2], ["correct nodes", "wrong nodes", "all edges"])
        right.set(ylabel="homophily", ylim=(0, 1))
        right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def markdown(table: list[dict[str, Any]]) -> str:
    """Return the table for people: a line on all pairs, then one on the test nodes of each kind."""
    columns = ["run", "", "expected edges", "edge homophily", "test nodes", "θ within classes", "between", "homophily"]
    lines = []
    for row in table:
        graph = [f"{row['expected_edges']:,.0f}", f"{row['edge_homophily']:.2f}"]
        whole = [f"{row['within']:.2g}", f"{row['between']:.2g}", ""]
        lines.append([f"{row['method']} on {row['dataset']}", row["moment"], *graph, "all pairs", *whole])
        for name in ("correct", "wrong"):
            within, between, homophily = (row[f"{figure}_{name}"] for figure in NODE_FIGURES)
            figures = [f"{within:.2g}", f"{between:.2g}", f"{homophily:.2f}"]
            lines.append(["", "", "", "", f"{row[f'nodes_{name}']} {name}", *figures])
    return as_markdown(pd.DataFrame(lines, columns=columns), right=[*columns[2:4], *columns[5:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two outer epochs at most")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results")
    options = parser.parse_args()
    out = options.out or HERE / "results" / ("learned_graph-quick" if options.quick else "learned_graph")
    table: list[dict[str, Any]] = []
    histogram: list[dict[str, Any]] = []
    results = []
    for config in QUICK if options.quick else RUNS:
        run = out / "runs" / f"{config.dataset}-{config.method}"
        results.append(train_once(config, run))
        for lines, new in zip((table, histogram), rows(config, *portraits(config, run)), strict=True):
            lines += new
    pd.DataFrame(histogram).to_csv(out / "histogram.csv", index=False, lineterminator="\n")
    draw(table, histogram, out / "picture.png")
    write(table, list(table[0]), markdown(table) + provenance("learned_graph", results, quick=options.quick), out)


if __name__ == "__main__":
    main()
