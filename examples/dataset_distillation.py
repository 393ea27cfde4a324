"""Dataset distillation: learn ten images that a network is trained on in the place of a thousand.

    python examples/dataset_distillation.py

Wang et al., "Dataset Distillation" (2018). The outer variables are one synthetic image a class and the learning rate.
The inner problem trains a network from a random start on these ten images; the outer objective is the loss of the
trained network on 1,000 real images. Every hypergradient has a start of its own, so that the images suit any.

All alternatives are ten images as well, with the same network and as many steps at the best learning rate of a grid:
ten real ones of those 1,000, one a class drawn at random; and the mean of each class, which costs nothing. What all
1,000 give in as many steps is printed beside them. Rates are chosen by the loss on the 1,000 images, which distillation
sees too. Test images play no part before the end, and the starts to measure with are none of those that the images
were learned on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lds.hypergrad import Derived, functional, hypergradient, record
from lds.updaters import SGD, PyTree

PICTURE = Path(__file__).parent / "pictures" / "dataset_distillation.png"
TRAIN, TEST = slice(0, 1000), slice(1000, None)
CLASSES = torch.arange(10)
MEASURED = 100_000  # The first start to measure with, beyond all that images are learned on.


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run the example; return the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--steps", type=int, default=30, help="inner steps")
    parser.add_argument("--outer-steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=5, help="sets of ten images of each kind")
    parser.add_argument("--starts", type=int, default=10, help="networks to measure a set of images with")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)

    digits = load_digits()
    order = torch.randperm(len(digits.target))
    x = torch.tensor(digits.data / 16, dtype=torch.float32)[order]
    y = torch.tensor(digits.target)[order]
    x_train, y_train = x[TRAIN], y[TRAIN]

    network = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    _, call = functional(network)
    updater = SGD(lr=lambda outer: outer["lr"], momentum=0.9)

    def start(seed: int) -> PyTree:
        """Return random weights; the same for one seed."""
        torch.manual_seed(seed)
        for layer in network:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        return functional(network)[0]

    def inner(params: PyTree, outer: PyTree) -> Tensor:
        images = outer["images"]
        return cross_entropy(call(params, images), CLASSES if len(images) == 10 else y_train)

    def real_loss(params: PyTree, outer: PyTree) -> Tensor:
        return cross_entropy(call(params, x_train), y_train)

    def measure(outer: PyTree, figure: Callable[[PyTree], Tensor], first: int, starts: int) -> float:
        """Return the mean of a figure of networks trained on the images."""
        found = []
        for seed in range(first, first + starts):
            run = record(inner, start(seed), outer, updater=updater, steps=args.steps, horizon=0)
            found.append(figure(run.final_state.params))
        return float(torch.stack(found).mean())

    def accuracy(params: PyTree) -> Tensor:
        right: Tensor = call(params, x[TEST]).argmax(1) == y[TEST]
        return right.float().mean()

    def with_best_rate(images: Tensor) -> PyTree:
        """Return the images with the rate of a grid that gives the lowest loss on the real images."""
        candidates = [{"images": images, "lr": lr} for lr in torch.logspace(-2, 0, 9)]
        return min(candidates, key=lambda outer: measure(outer, lambda w: real_loss(w, outer), 50_000, 3))

    def distill(seed: int) -> tuple[PyTree, list[float]]:
        """Learn ten images and a rate; return them and the outer losses."""
        torch.manual_seed(seed)
        theta = {"images": 0.5 + 0.1 * torch.randn(10, 64), "lr": torch.tensor(0.1).log()}
        optimizer = torch.optim.Adam(theta.values(), lr=0.05)
        annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.outer_steps)
        losses = []
        for k in range(args.outer_steps):
            outer = {"images": theta["images"], "lr": Derived(torch.exp, theta["lr"])}
            params = start(1000 * seed + k)
            result = hypergradient(inner, real_loss, params, outer, updater=updater, steps=args.steps)
            losses.append(result.outer_loss)
            for name, leaf in theta.items():
                leaf.grad = result.grad[name]
            optimizer.step()
            annealing.step()
        return {"images": theta["images"], "lr": theta["lr"].exp()}, losses

    def drawn(seed: int) -> Tensor:
        """Return a random real image of each class."""
        torch.manual_seed(seed)
        chosen = [torch.nonzero(y_train == c).flatten() for c in CLASSES]
        return torch.stack([x_train[c[torch.randint(len(c), ())]] for c in chosen])

    distilled, curves = zip(*(distill(seed) for seed in range(args.seeds)), strict=True)
    means = with_best_rate(torch.stack([x_train[y_train == c].mean(0) for c in CLASSES]))
    real = [with_best_rate(drawn(seed)) for seed in range(args.seeds)]
    everything = with_best_rate(x_train)
    sets = {
        "distilled": list(distilled),
        "class means": [means],
        "real, at random": real,
        "all 1,000": [everything],
    }
    found = {
        name: torch.tensor([measure(outer, accuracy, MEASURED, args.starts) for outer in outers])
        for name, outers in sets.items()
    }
    figures = {name: float(values.mean()) for name, values in found.items()}
    for name, values in found.items():
        spread = f" ± {100 * values.std():.1f} % over {len(values)} sets" if len(values) > 1 else " %"
        print(f"{name}: test accuracy {100 * values.mean():.1f}{spread}")
    print(f"learned rates {', '.join(format(float(outer['lr']), '.2f') for outer in distilled)}")

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    shown = ["distilled", "class means", "real, at random"]
    panels = figure.subplot_mosaic([[name, "curves"] for name in shown], width_ratios=[1.7, 1])
    right = panels["curves"]
    for name in shown:
        axes = panels[name]
        images = sets[name][0]["images"].reshape(10, 8, 8)
        strip = nn.functional.pad(images, (0, 1), value=torch.nan).permute(1, 0, 2).reshape(8, 90)[:, :-1]
        axes.imshow(strip.numpy(), cmap="Greys", vmin=-1, vmax=2)
        axes.axis("off")
        axes.set_title(f"{name}: {100 * figures[name]:.1f} %", loc="left", fontsize=10)
    for curve in curves:
        right.semilogy(curve, color="tab:green", alpha=0.5, lw=0.7)
    right.set(xlabel="outer step", ylabel="loss on 1,000 real images", title=f"Distillation, {args.seeds} seeds")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)
    return {**figures, "loss_first": curves[0][0], "loss_last": curves[0][-1]}


if __name__ == "__main__":
    main()
