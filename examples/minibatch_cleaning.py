"""Data hyper-cleaning by minibatches: a weight per example, learned while one network trains through a loader.

    python examples/minibatch_cleaning.py

As in hyper_cleaning.py, 40 % of 600 training labels are wrong, and 300 examples have clean labels. There, every outer
step trains anew on all examples. Here, one network with batch normalisation trains on minibatches of 50, and every 12
steps, an epoch, the weights of the examples take a step: the trajectory goes on from the last state, and so do the
batches. A batch brings the indices of its examples, by which the inner objective finds their weights. The running
statistics of the batch normalisation are part of the state, and the outer objective uses them.
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

from lds.hypergrad import Batches, Derived, functional, hypergradient
from lds.updaters import SGD, PyTree

PICTURE = Path(__file__).parent / "pictures" / "minibatch_cleaning.png"
TRAIN, VALIDATION = slice(0, 600), slice(600, 900)
TEST = slice(900, None)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run the example; return the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--corrupted", type=float, default=0.4, help="share of wrong training labels")
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)

    digits = load_digits()
    order = torch.randperm(len(digits.target))
    x = torch.tensor(digits.data / 16, dtype=torch.float32)[order]
    y = torch.tensor(digits.target)[order]
    truth = y[TRAIN]
    corrupted = torch.zeros(len(truth), dtype=torch.bool)
    corrupted[: int(args.corrupted * len(truth))] = True  # The order is random already.
    labels = torch.where(corrupted, (truth + torch.randint(1, 10, truth.shape)) % 10, truth)

    network = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    start, call = functional(network, buffers=True)
    batches = Batches((torch.arange(600), x[TRAIN], labels), batch_size=50)

    def inner(params: PyTree, weights: Tensor, batch: PyTree) -> Tensor:
        index, x, y = batch
        network.train()
        return (weights[index] * cross_entropy(call(params, x), y, reduction="none")).mean()

    def validation_loss(params: PyTree, weights: Tensor) -> Tensor:
        network.eval()
        return cross_entropy(call(params, x[VALIDATION]), y[VALIDATION])

    def accuracy(params: PyTree) -> float:
        network.eval()
        return float((call(params, x[TEST]).argmax(1) == y[TEST]).float().mean())

    def train(theta: Tensor, optimizer: torch.optim.Optimizer | None) -> list[float]:
        """Train for all epochs; return the test accuracy after each."""
        accuracies, state = [], None
        for _ in range(args.epochs):
            result = hypergradient(
                inner,
                validation_loss,
                start,
                Derived(torch.sigmoid, theta),
                updater=SGD(lr=0.1, momentum=0.9),
                steps=len(batches),
                state=state,
                batches=batches,
            )
            state = result.state
            accuracies.append(accuracy(result.params))
            if optimizer is not None:
                theta.grad = result.grad
                optimizer.step()
        return accuracies

    plain = train(torch.zeros(600), None)
    theta = torch.zeros(600)
    learned = train(theta, torch.optim.Adam([theta], lr=0.3))
    weights = torch.sigmoid(theta)
    auc = float(roc_auc_score(corrupted, -weights))
    print(f"test accuracy after {args.epochs} epochs: all labels {plain[-1]:.3f}, learned weights {learned[-1]:.3f}")
    print(f"all labels at their best: {max(plain):.3f} after epoch {plain.index(max(plain)) + 1}")
    print(f"AUC of spotting a wrong label by its weight: {auc:.3f}")

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    groups = [weights[~corrupted].numpy(), weights[corrupted].numpy()]
    left.hist(groups, bins=20, range=(0, 1), label=["right label", "wrong label"], color=["tab:blue", "tab:red"])
    left.set(xlabel="learned weight sigmoid(θ$_i$)", ylabel="training examples", title=f"AUC {auc:.3f}")
    left.legend(loc="upper center")
    epochs = range(1, args.epochs + 1)
    right.plot(epochs, [100 * a for a in plain], color="tab:gray", label="all labels alike")
    right.plot(epochs, [100 * a for a in learned], color="tab:green", label="weights learned on the way")
    right.set(xlabel="epoch", ylabel="test accuracy (%)")
    right.legend()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=120)
    return {"auc": auc, "plain": plain[-1], "learned": learned[-1]}


if __name__ == "__main__":
    main()
