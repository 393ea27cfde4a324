"""Learn a weight decay for every parameter of a network on digits, against the best decay that is one for all.

    python examples/weight_decay_per_parameter.py

The outer variables are a pytree like the parameters: the logarithms of the coefficients. `Derived` takes their exp once
an outer step, not once an inner step. Every outer step trains the network from scratch, sweeps back over all of it, and
hands the hypergradient to `torch.optim.Adam`.

2,410 coefficients fit 600 validation examples: the validation loss falls far below the test loss, which is the figure
to judge by. What a network gets that is just trained on the validation examples as well is printed for comparison.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lds.hypergrad import Derived, functional, hypergradient, record
from lds.updaters import SGD, Objective, PyTree

PICTURE = Path(__file__).parent / "pictures" / "weight_decay_per_parameter.png"
TRAIN, VALIDATION, TEST = slice(0, 200), slice(200, 800), slice(800, None)
TRAIN_AND_VALIDATION = slice(0, 800)


def exp(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return exp of every tensor."""
    return {name: x.exp() for name, x in tensors.items()}


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run the example; return the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--inner-steps", type=int, default=100)
    parser.add_argument("--outer-steps", type=int, default=60)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)

    digits = load_digits()
    order = torch.randperm(len(digits.target))
    x = torch.tensor(digits.data / 16, dtype=torch.float32)[order]
    y = torch.tensor(digits.target)[order]
    params, network = functional(nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)))

    def loss_on(part: slice) -> Objective:
        return lambda params, decay: cross_entropy(network(params, x[part]), y[part])

    inner, validation_loss, test_loss = loss_on(TRAIN), loss_on(VALIDATION), loss_on(TEST)
    updater = SGD(lr=0.5, momentum=0.9, weight_decay=lambda decay: decay)

    def measure(decay: PyTree, part: slice = TRAIN) -> dict[str, float]:
        """Train from scratch; return what is measured at the end."""
        run = record(loss_on(part), params, decay, updater=updater, steps=args.inner_steps, horizon=0)
        end = run.final_state.params
        right = (network(end, x[TEST]).argmax(1) == y[TEST]).float().mean()
        return {
            "validation": float(validation_loss(end, decay)),
            "test": float(test_loss(end, decay)),
            "accuracy": float(right),
        }

    def uniform(decay: float) -> dict[str, Tensor]:
        return {name: torch.full_like(p, decay) for name, p in params.items()}

    candidates = torch.logspace(-4, -1.5, 11).tolist()
    best = min(candidates, key=lambda decay: measure(uniform(decay))["validation"])

    theta = {name: decay.log() for name, decay in uniform(best).items()}
    optimizer = torch.optim.Adam(theta.values(), lr=0.05)
    curve = []
    for _ in range(args.outer_steps):
        outer = Derived(exp, theta)
        result = hypergradient(inner, validation_loss, params, outer, updater=updater, steps=args.inner_steps)
        curve.append((result.outer_loss, float(test_loss(result.params, None))))
        # The engine returns hypergradients and writes to no .grad: an optimizer is fed by hand.
        for name, leaf in theta.items():
            leaf.grad = result.grad[name]
        optimizer.step()
    learned = exp(theta)

    rows = {
        f"best uniform decay, {best:.1e}": measure(uniform(best)),
        "learned decay": measure(learned),
        "best uniform decay, trained on validation too": measure(uniform(best), TRAIN_AND_VALIDATION),
    }
    for name, row in rows.items():
        losses = f"validation loss {row['validation']:.3f}, test loss {row['test']:.3f}"
        print(f"{name}: {losses}, test accuracy {row['accuracy']:.3f}")
    print(", ".join(f"{name}: median {decay.median():.1e}" for name, decay in learned.items()))

    figure = Figure(figsize=(9, 3), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1.1, 1])
    for values, name in zip(zip(*curve, strict=True), ("validation", "test"), strict=True):
        left.plot(values, label=name)
    left.set(xlabel="outer step", ylabel="loss after training", title="Start: best uniform decay", ylim=(0, None))
    left.legend()
    middle.boxplot([d.flatten().log10().numpy() for d in learned.values()], orientation="horizontal", showfliers=False)
    start = math.log10(best)
    middle.axvline(start, color="gray", ls=":")
    middle.set_yticks(range(1, 5), ["weight 1", "bias 1", "weight 2", "bias 2"])
    middle.set(xlabel="log$_{10}$ decay", title="Learned decay (dotted: start)")
    image = right.imshow(
        learned["0.weight"].log10().mean(0).reshape(8, 8).numpy(), cmap="RdBu_r", norm=CenteredNorm(start)
    )
    right.set(xticks=[], yticks=[], title="First layer, by pixel")
    figure.colorbar(image, ax=right, label="mean log$_{10}$ decay")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=120)
    _, after, with_validation = rows.values()
    before = rows[f"best uniform decay, {best:.1e}"]
    return {
        "validation_before": before["validation"],
        "validation_after": after["validation"],
        "test_before": before["test"],
        "test_after": after["test"],
        "accuracy_before": before["accuracy"],
        "accuracy_after": after["accuracy"],
        "accuracy_more_data": with_validation["accuracy"],
    }


if __name__ == "__main__":
    main()
