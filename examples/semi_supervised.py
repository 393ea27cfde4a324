"""Classify with a few labels: `LDSClassifier` next to the semi-supervised classifiers of scikit-learn.

    python examples/semi_supervised.py

Wine has 178 rows of 13 features in 3 classes; 10 labels a class are kept, drawn anew for every seed, and accuracy is
measured on all other rows. Nothing is tuned: every method that uses a kNN graph has 10 neighbours, all else is its
default, but that fits end after 5 outer epochs. The row with a fixed graph is the same classifier with outer_lr=0, the
one that tells what learning the graph itself brings: nothing here, where 91 % of the kNN edges are right from the start
and 15 held-out labels are all there is to learn a graph from.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelPropagation, LabelSpreading, SelfTrainingClassifier

from lds import LDSClassifier

PICTURE = Path(__file__).parent / "pictures" / "semi_supervised.png"
LABELS, NEIGHBORS = 10, 10


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run the example; return the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)

    x, truth = load_wine(return_X_y=True)
    x = StandardScaler().fit_transform(x)
    accuracies: dict[str, list[float]] = {}
    for seed in range(args.seeds):
        random = np.random.RandomState(seed)
        kept = np.concatenate([random.permutation(np.flatnonzero(truth == c))[:LABELS] for c in range(3)])
        y = np.full_like(truth, -1)
        y[kept] = truth[kept]
        learned = LDSClassifier(n_neighbors=NEIGHBORS, max_epochs=args.epochs, random_state=seed)
        fixed = LDSClassifier(n_neighbors=NEIGHBORS, max_epochs=1, outer_lr=0, random_state=seed)
        methods = {
            "LDSClassifier": learned,
            "LDSClassifier, fixed graph": fixed,
            "LabelSpreading": LabelSpreading(kernel="knn", n_neighbors=NEIGHBORS),
            "LabelPropagation": LabelPropagation(kernel="knn", n_neighbors=NEIGHBORS),
            "SelfTraining, logistic": SelfTrainingClassifier(LogisticRegression()),
        }
        for name, method in methods.items():
            method.fit(x, y)
            # SelfTrainingClassifier has the pseudo-labels there, not its answer for every row.
            answer = method.predict(x) if name.startswith("Self") else method.transduction_
            accuracies.setdefault(name, []).append(float((answer == truth)[y == -1].mean()))

    figures = {name: float(np.mean(values)) for name, values in accuracies.items()}
    for name, values in accuracies.items():
        print(f"{name}: {100 * figures[name]:.1f} ± {100 * np.std(values):.1f} % over {args.seeds} seeds")
    row, col = learned.graph_.nonzero()
    same = truth[row] == truth[col]
    within = float(learned.graph_.data[same].sum() / learned.graph_.sum())
    row, col = fixed.graph_.nonzero()
    within_fixed = float((truth[row] == truth[col]).mean())
    print(f"edges within a class, last seed: kNN graph {100 * within_fixed:.1f} %, learned {100 * within:.1f} %")

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.5, 1, 1])
    for place, (name, values) in enumerate(accuracies.items()):
        color = "tab:green" if name == "LDSClassifier" else "tab:gray"
        left.plot([100 * value for value in values], [place] * len(values), "o", color=color, alpha=0.4)
        left.plot(100 * figures[name], place, "|", color="black", ms=18)
    left.set_yticks(range(len(accuracies)), list(accuracies))
    left.invert_yaxis()
    left.set(xlabel="accuracy on unlabelled rows (%)", title=f"{LABELS} labels a class, {args.seeds} seeds")
    for axes, graph, title in ((middle, fixed.graph_, "kNN graph"), (right, learned.graph_, "learned probabilities")):
        axes.imshow(graph.toarray(), cmap="Greys", vmin=0, vmax=1)  # Wine comes ordered by class.
        axes.set(xticks=[], yticks=[], title=title)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=120)
    return {"within": within, "within_fixed": within_fixed, **figures}


if __name__ == "__main__":
    main()
