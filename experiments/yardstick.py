"""How far free edge probabilities fit the outer loss: an exact bilevel problem, without sampling or truncation.

    python experiments/yardstick.py [--quick]

The inner problem is ridge regression on features that were propagated twice over the expected graph, solved in closed
form; the outer loss is the squared leave-one-out error on training and validation nodes, in closed form too, so that
its gradient in θ is exact. θ, on kNN pairs of k 20 that start from a kNN graph of k 10, takes projected gradient steps.
Writes table.csv and table.md to experiments/results/yardstick/: outer loss and test accuracy before and after.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tables import HERE, Row, as_markdown, provenance, write
from torch import Tensor

from lds.data import load
from lds.graph import KNNGraph
from lds.run._environment import versions

RIDGE = 0.1
PROPAGATIONS = 2


class Yardstick:
    """The exact problem on one data set.

    Args:
        x: features, float64 of shape [N, F].
        targets: one-hot labels, shape [N, C].
        labelled: nodes that the ridge regression is fitted on.
        pairs: candidates i < j, shape [2, P].
    """

    def __init__(self, x: Tensor, targets: Tensor, labelled: Tensor, pairs: Tensor) -> None:
        self.x, self.targets, self.labelled, self.pairs = x, targets, labelled, pairs

    def propagated(self, theta: Tensor) -> Tensor:
        """Return Â^K X on the expected graph, shape [N, F]."""
        n = len(self.x)
        a = theta.new_zeros(n, n).index_put(tuple(self.pairs), theta)
        a = a + a.T + torch.eye(n, dtype=theta.dtype)
        scale = a.sum(1).rsqrt()
        h = self.x
        for _ in range(PROPAGATIONS):
            h = scale[:, None] * (a @ (scale[:, None] * h))
        return h

    def solve(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return predictions of all nodes, shape [N, C], and the mean squared leave-one-out error.

        With H the rows of labelled nodes and S = H (HᵀH + λI)⁻¹ Hᵀ, the error of node i left out is
        (y_i − ŷ_i) / (1 − S_ii).
        """
        h = self.propagated(theta)
        h = torch.cat([h, h.new_ones(len(h), 1)], 1)
        own = h[self.labelled]
        y = self.targets[self.labelled]
        gram = own.T @ own + RIDGE * torch.eye(own.shape[1], dtype=own.dtype)
        weights = torch.linalg.solve(gram, own.T @ y)
        leverage = (own * torch.linalg.solve(gram, own.T).T).sum(1)
        left_out = (y - own @ weights) / (1 - leverage)[:, None]
        return h @ weights, left_out.square().sum(1).mean()

    def learn(self, theta: Tensor, *, steps: int, lr: float) -> Tensor:
        """Return θ after projected gradient steps with the exact gradient."""
        for _ in range(steps):
            theta = theta.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.solve(theta)[1], theta)
            theta = (theta - lr * gradient).clamp(0, 1).detach()
        return theta


def problem(name: str, seed: int) -> tuple[Yardstick, Tensor, Any]:
    """Return the problem on a data set, the initial θ, and the data."""
    data = load(name, seed=seed)
    pairs, start = KNNGraph(20)(data), KNNGraph(10)(data)
    n = data.num_nodes
    theta = torch.isin(pairs[0] * n + pairs[1], start[0] * n + start[1]).double()
    targets = torch.nn.functional.one_hot(data.y, data.num_classes).double()
    labelled = (data.train_mask | data.val_mask).nonzero().flatten()
    return Yardstick(data.x.double(), targets, labelled, pairs), theta, data


def run(name: str, seed: int, steps: int, lr: float) -> Row:
    """Return outer loss and accuracies before and after learning."""
    began = time.perf_counter()
    exact, theta, data = problem(name, seed)
    row: Row = {"dataset": name, "seed": seed, "steps": steps}
    for moment in ("before", "after"):
        if moment == "after":
            theta = exact.learn(theta, steps=steps, lr=lr)
        predicted, loss = exact.solve(theta)
        row[f"outer_loss_{moment}"] = float(loss)
        for part in ("es", "test"):
            mask = data[f"{part}_mask"]
            row[f"{part}_{moment}"] = 100 * float((predicted[mask].argmax(1) == data.y[mask]).double().mean())
    return row | {"seconds": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results")
    options = parser.parse_args()
    out = options.out or HERE / "results" / ("yardstick-quick" if options.quick else "yardstick")
    out.mkdir(parents=True, exist_ok=True)
    seeds = range(2 if options.quick else 20)
    rows = [run(name, seed, 100, 10.0) for name in ("wine", "breast_cancer", "iris") for seed in seeds]
    found = pd.DataFrame(rows)
    shown = found.groupby("dataset", sort=False).mean().drop(columns=["seed", "steps"])
    texts = pd.DataFrame({name: shown[name].map(f"{{:.{3 if 'loss' in name else 1}f}}".format) for name in shown})
    texts = texts.rename(columns=lambda name: name.replace("_", " ")).reset_index()
    text = as_markdown(texts, right=list(texts.columns[1:]))
    results = [{"seed": seed, "versions": versions()} for seed in seeds]
    write(rows, list(found), text + provenance("yardstick", results, quick=options.quick), out)


if __name__ == "__main__":
    main()
