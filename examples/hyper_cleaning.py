"""Data hyper-cleaning: find the wrong labels among training digits by the hypergradient in a weight per example.

    python examples/hyper_cleaning.py

40 % of 600 training labels are replaced by wrong ones. The outer variables are one θ_i a training example; the inner
objective is the mean of the losses under the weights sigmoid(θ_i), and the outer objective is the loss on 300 examples
with clean labels. An example whose weight ought to shrink is one that pulls the classifier away from these.

The classifier is linear: with a hidden layer of 32 it works likewise, at an AUC of about 0.9, as a network that fits
wrong labels one by one tells less about them. The 300 clean examples are enough to train on by themselves; so the
comparison has a row with these alone, and rows with these added.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lds.hypergrad import Derived, functional, hypergradient, record
from lds.updaters import SGD, Objective, PyTree

PICTURE = Path(__file__).parent / "pictures" / "hyper_cleaning.png"
TRAIN, VALIDATION = slice(0, 600), slice(600, 900)
TEST = slice(900, None)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run the example; return the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--corrupted", type=float, default=0.4, help="share of wrong training labels")
    parser.add_argument("--outer-steps", type=int, default=30)
    parser.add_argument("--inner-steps", type=int, default=50)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)

    digits = load_digits()
    order = torch.randperm(len(digits.target))
    x = torch.tensor(digits.data / 16, dtype=torch.float32)[order]
    y = torch.tensor(digits.target)[order]
    x_train, truth = x[TRAIN], y[TRAIN]
    corrupted = torch.zeros(len(truth), dtype=torch.bool)
    corrupted[: int(args.corrupted * len(truth))] = True  # The order is random already.
    wrong = (truth + torch.randint(1, 10, truth.shape)) % 10
    labels = torch.where(corrupted, wrong, truth)

    params, network = functional(nn.Linear(64, 10))

    def weighted_loss(x: Tensor, y: Tensor) -> Objective:
        def loss(params: PyTree, weights: Tensor) -> Tensor:
            losses = cross_entropy(network(params, x), y, reduction="none")
            return weights @ losses / weights.sum()

        return loss

    inner = weighted_loss(x_train, labels)

    def validation_loss(params: PyTree, weights: Tensor) -> Tensor:
        return cross_entropy(network(params, x[VALIDATION]), y[VALIDATION])

    updater = SGD(lr=0.5, momentum=0.9)
    theta = torch.zeros(len(truth))
    optimizer = torch.optim.Adam([theta], lr=0.3)
    losses = []
    for _ in range(args.outer_steps):
        outer = Derived(torch.sigmoid, theta)
        result = hypergradient(inner, validation_loss, params, outer, updater=updater, steps=args.inner_steps)
        losses.append(result.outer_loss)
        theta.grad = result.grad  # The engine returns hypergradients; what to do with them is the caller's.
        optimizer.step()
    weights = torch.sigmoid(theta)

    both_x, both_y = torch.cat([x_train, x[VALIDATION]]), torch.cat([labels, y[VALIDATION]])

    def accuracy(train_weights: Tensor, validation_weight: float) -> float:
        """Return the test accuracy after training from scratch, on the validation examples too."""
        weights = torch.cat([train_weights, torch.full((len(both_y) - len(labels),), validation_weight)])
        objective = weighted_loss(both_x, both_y)
        end = record(objective, params, weights, updater=updater, steps=args.inner_steps, horizon=0).final_state.params
        return float((network(end, x[TEST]).argmax(1) == y[TEST]).float().mean())

    all_labels, right_labels = torch.ones_like(weights), (~corrupted).float()
    accuracies = {
        "all labels": accuracy(all_labels, 0),
        "right labels": accuracy(right_labels, 0),
        "learned weights": accuracy(weights, 0),
        "validation": accuracy(0 * all_labels, 1),
        "all labels + validation": accuracy(all_labels, 1),
        "learned weights + validation": accuracy(weights, 1),
    }
    auc = float(roc_auc_score(corrupted, -weights))
    print(f"validation loss {losses[0]:.3f} -> {losses[-1]:.3f} in {args.outer_steps} outer steps")
    print("test accuracy: " + ", ".join(f"{name} {value:.3f}" for name, value in accuracies.items()))
    print(f"AUC of spotting a wrong label by its weight: {auc:.3f}")

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    groups = [weights[~corrupted].numpy(), weights[corrupted].numpy()]
    left.hist(groups, bins=20, range=(0, 1), label=["right label", "wrong label"], color=["tab:blue", "tab:red"])
    left.set(xlabel="learned weight sigmoid(θ$_i$)", ylabel="training examples", title=f"AUC {auc:.3f}")
    left.legend(loc="upper center")
    bars = right.barh(list(accuracies), [100 * value for value in accuracies.values()], color="tab:gray")
    for bar, name in zip(bars, accuracies, strict=True):
        bar.set_color("tab:green" if "learned" in name else "tab:gray")
    right.bar_label(bars, fmt="%.1f", padding=-30, color="white")
    right.set(xlabel="test accuracy (%)", title="Trained on", xlim=(60, 100))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=120)
    return {"auc": auc, "loss_first": losses[0], "loss_last": losses[-1], **accuracies}


if __name__ == "__main__":
    main()
