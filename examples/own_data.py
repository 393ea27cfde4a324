"""Your own table: learn its graph, export it, and train a plain GCN of torch_geometric on it.

    python examples/own_data.py

Wine, 178 rows of 13 features in 3 classes, stands in for a table of your own. It is written to a CSV file with the raw
features and the names of the classes, and all else goes by commands, for each of 5 seeds:

    lds train --data wine.csv --label cultivar --scale standard --method knn-lds --out run
    lds export run --format pt

The same GCN, which knows nothing of this package, is then trained on the exported graph, on the kNN graph that learning
started from, and without edges; each at its best epoch on the validation and early-stopping rows. Nothing is tuned.
Learning has looked at the validation rows through the graph, so only the test rows compare. They come out even here:
91 % of the kNN edges are right from the start, and the GCN does as well without any.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_wine
from torch import Tensor
from torch_geometric.nn import GCN

from lds.cli import main as lds
from lds.data import read
from lds.graph import KNNGraph

PICTURE = Path(__file__).parent / "pictures" / "own_data.png"


def write_table(path: Path) -> None:
    """Write what a user may have: raw features and a column with the names of the classes."""
    wine = load_wine()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*wine.feature_names, "cultivar"])
        writer.writerows([*row, wine.target_names[label]] for row, label in zip(wine.data, wine.target, strict=True))


def plain_gcn(data: Any, edge_index: Tensor, edge_weight: Tensor | None, seed: int) -> float:
    """Return the test accuracy of a GCN of torch_geometric at its best epoch on the validation rows."""
    torch.manual_seed(seed)
    model = GCN(data.num_features, 16, num_layers=2, out_channels=data.num_classes, dropout=0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    selection = data.val_mask | data.es_mask
    best = (-1.0, 0.0, 0.0)
    for _ in range(200):
        model.train()
        optimizer.zero_grad()
        logits = model(data.x, edge_index, edge_weight=edge_weight)
        torch.autograd.backward(torch.nn.functional.cross_entropy(logits[data.train_mask], data.y[data.train_mask]))
        optimizer.step()
        model.eval()
        with torch.no_grad():
            logits = model(data.x, edge_index, edge_weight=edge_weight)
        right = (logits.argmax(1) == data.y).double()
        loss = float(torch.nn.functional.cross_entropy(logits[selection], data.y[selection]))
        best = max(best, (float(right[selection].mean()), -loss, float(right[data.test_mask].mean())))
    return best[2]


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run the example; return the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)

    accuracies: dict[str, list[float]] = {"exported graph": [], "kNN graph": [], "no edges": []}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "wine.csv"
        write_table(table)
        own = ["--data", str(table), "--label", "cultivar", "--scale", "standard"]
        for seed in range(args.seeds):
            run = Path(folder) / f"run-{seed}"
            options = ["--method", "knn-lds", "--max-epochs", str(args.epochs), "--seed", str(seed)]
            if lds(["train", *own, *options, "--progress", "false", "--out", str(run)]) or lds(["export", str(run)]):
                raise SystemExit(2)
            # A file of this process's own making: nobody else can have put code into it.
            learned = torch.load(run / "learned_graph.pt", weights_only=False)
            data = read(table, label="cultivar", scale="standard", seed=seed)
            pairs = KNNGraph(k=10)(data)
            knn = torch.cat([pairs, pairs.flip(0)], 1)
            graphs = {
                "exported graph": (learned.edge_index, learned.edge_weight),
                "kNN graph": (knn, None),
                "no edges": (data.edge_index, None),
            }
            for name, (edge_index, edge_weight) in graphs.items():
                accuracies[name].append(plain_gcn(data, edge_index, edge_weight, seed))

    figures = {name: float(np.mean(values)) for name, values in accuracies.items()}
    for name, values in accuracies.items():
        print(f"plain GCN, {name}: {100 * figures[name]:.1f} ± {100 * np.std(values):.1f} % over {args.seeds} seeds")
    weight = learned.edge_weight
    same = (data.y[learned.edge_index[0]] == data.y[learned.edge_index[1]]).to(weight.dtype)
    figures["within"] = float((same * weight).sum() / weight.sum())
    figures["within_knn"] = float((data.y[knn[0]] == data.y[knn[1]]).double().mean())
    print(
        f"within a class, last seed: kNN {100 * figures['within_knn']:.1f} %, exported {100 * figures['within']:.1f} %"
    )

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.5, 1, 1])
    for place, (name, values) in enumerate(accuracies.items()):
        color = "tab:green" if name == "exported graph" else "tab:gray"
        left.plot([100 * value for value in values], [place] * len(values), "o", color=color, alpha=0.4)
        left.plot(100 * figures[name], place, "|", color="black", ms=18)
    left.set_yticks(range(len(accuracies)), list(accuracies))
    left.invert_yaxis()
    left.set(xlabel="accuracy on test rows (%)", title=f"plain GCN, {args.seeds} seeds")
    for axes, edges, weights, title in (
        (middle, knn, torch.ones(knn.shape[1]), "kNN graph"),
        (right, learned.edge_index, weight, "exported graph"),
    ):
        adjacency = torch.zeros(data.num_nodes, data.num_nodes)
        adjacency[edges[0], edges[1]] = weights
        axes.imshow(adjacency.numpy(), cmap="Greys", vmin=0, vmax=1)  # Wine comes ordered by class.
        axes.set(xticks=[], yticks=[], title=title)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=120)
    return figures


if __name__ == "__main__":
    main()
