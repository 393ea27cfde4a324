"""A plain GCN retrained on the graph that LDS has learned: Cora with a quarter of its edges.

    python experiments/retrain.py [--quick]

LDS learns a structure for each seed, or its run is read where it has finished. The same GCN of torch_geometric, which
knows nothing of this package, is then trained from 5 sets of initial weights on the edges that were kept, and on the
learned ones: those above θ = 0.5 and the 5 most probable ones of each node, weighted by θ, and a sample.
Writes table.csv and table.md to experiments/results/retrain/. Needs the raw files of Cora, see `lds data fetch`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tables import Row, as_markdown, frame, plus_minus, provenance, write

from lds._statistics import mean, paired
from lds.learner import extract
from lds.run import TrainConfig, load_data, read_structure, train_once

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "examples"))

from own_data import plain_gcn  # noqa: E402

GRAPHS: Mapping[str, Mapping[str, Any]] = {"θ > 0.5": {}, "top 5": {"top_k": 5}, "sample": {"sample": 0}}
WEIGHTS = 5
COLUMNS = ("trained", "seeds", "mean", "std", "difference", "half_width")


def accuracies(config: TrainConfig, run: Path) -> dict[str, float]:
    """Return test accuracies in percent: of LDS itself, and of the plain GCN by the graph that it is trained on."""
    found = {"LDS": 100 * train_once(config, run)["test_accuracy"]}
    data = load_data(config)
    structure = read_structure(run)
    graphs = {"kept edges": (data.edge_index, None)}
    for name, choice in GRAPHS.items():
        learned = extract(structure, **choice)
        graphs[name] = (learned.edge_index, learned.edge_weight)
    for name, (edge_index, edge_weight) in graphs.items():
        tests = [100 * plain_gcn(data, edge_index, edge_weight, seed) for seed in range(WEIGHTS)]
        found[f"GCN on {name}"] = mean(tests).mean
    return found


def make_rows(found: Sequence[Mapping[str, float]]) -> list[Row]:
    """Return a row a graph, compared with the edges that were kept, seed by seed."""
    base = [one["GCN on kept edges"] for one in found]
    rows = []
    for name in found[0]:
        ours = [one[name] for one in found]
        row: Row = {"trained": name, "seeds": len(ours), "mean": mean(ours).mean, "std": mean(ours).std}
        if ours != base:
            difference = paired(ours, base).difference
            row |= {"difference": difference.mean, "half_width": difference.half_width}
        rows.append(row)
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """Return the table for people."""
    found = frame(rows, COLUMNS)
    shown = found[["trained", "seeds"]].assign(
        **{
            "test accuracy, %": plus_minus(found, "mean", "std"),
            "less GCN on kept edges (± 95 %)": plus_minus(found, "difference", "half_width"),
        }
    )
    return as_markdown(shown, right=shown.columns[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds, one outer epoch")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results")
    options = parser.parse_args()
    out = options.out or HERE / "results" / ("retrain-quick" if options.quick else "retrain")
    seeds, epochs = ((0, 1), 1) if options.quick else (range(5), None)
    configs = [TrainConfig("cora", "lds", retain=0.25, max_epochs=epochs, seed=seed) for seed in seeds]
    runs = {out / "runs" / str(config.seed): config for config in configs}
    rows = make_rows([accuracies(config, run) for run, config in runs.items()])
    results = [train_once(config, run) for run, config in runs.items()]
    text = markdown(rows) + provenance("retrain", results, quick=options.quick)
    write(rows, COLUMNS, text, out)


if __name__ == "__main__":
    main()
