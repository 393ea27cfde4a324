"""Architecture search: DARTS on a small cell for digits, of first and second order.

    python examples/darts_cell.py

Liu et al., "DARTS: Differentiable Architecture Search" (ICLR 2019). Every edge of a cell is a mixture of operations,
weighted by softmax(α). Weights w lower the training loss, α the validation loss after the step of w:

    w ← w − η ∇_w L(w, α),    α ← α − Adam(d/dα F(w − η ∇_w L(w, α), α))

One call gives both: `hypergradient(..., steps=1)` takes the step and returns the derivative, and the next call goes on
from its state; DARTS takes the step a second time, with the new α. With `Reverse(horizon=0)` it is the direct gradient,
which is DARTS of first order. The derivative of second order has the product −η ∂²L/∂α∂w · ∂F/∂w, exact here; DARTS
takes a central difference of ∇_α L for it, at w ± εv with v = ∂F/∂w and ε = 0.01/‖v‖. Both are compared once, at other
ε too, in single and in double precision.

In the end each node keeps the best operation of its two strongest edges. The networks found are trained anew on
training and validation digits together, next to cells drawn from the same space at random, and to the cell that one
would try first, with convolutions only. Test digits are for the last figure alone. Settings are DARTS' own, but for
larger rates of w and α, as all is short; none was chosen on test digits.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lds.hypergrad import Batches, Reverse, functional, hypergradient, record
from lds.updaters import SGD, ClipByNorm, Coefficient, Objective, PyTree, Updater, gradient
from lds.updaters.schedules import Cosine

PICTURE = Path(__file__).parent / "pictures" / "darts_cell.png"
TRAIN, VALIDATION, TEST = slice(0, 200), slice(200, 300), slice(300, None)
BOTH = slice(0, 300)
NODES, WIDTH = 3, 6
RATE = 0.1
SCALES = [10.0**k for k in range(-6, 1)]  # ε ‖v‖; DARTS has 0.01.
EDGES = [(i, j) for j in range(1, NODES + 1) for i in range(j)]  # Node 0 is the input of the cell.

Cell = dict[tuple[int, int], str]  # The operation of each edge that is there.


def convolution(size: int) -> nn.Module:
    """Return a convolution as DARTS has it: ReLU first, normalisation without weights of its own last."""
    layers = nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, size, padding=size // 2, bias=False)
    return nn.Sequential(*layers, nn.BatchNorm2d(WIDTH, affine=False))


OPERATIONS: dict[str, Callable[[], nn.Module]] = {
    "conv 3×3": lambda: convolution(3),
    "conv 1×1": lambda: convolution(1),
    "max pool": lambda: nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(WIDTH, affine=False)),
    "average pool": lambda: nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.BatchNorm2d(WIDTH, affine=False)),
    "skip": nn.Identity,
}
NAMES = list(OPERATIONS)


class Network(nn.Module):
    """A stem, the cell, and a linear layer on the means of all nodes; with `cell` only these operations."""

    def __init__(self, cell: Cell | None = None) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH))
        chosen = {edge: NAMES if cell is None else [cell[edge]] for edge in EDGES if cell is None or edge in cell}
        self.edges = nn.ModuleDict(
            {f"{i}{j}": nn.ModuleList(OPERATIONS[name]() for name in names) for (i, j), names in chosen.items()}
        )
        self.head = nn.Linear(NODES * WIDTH, 10)

    def forward(self, x: Tensor, alpha: Tensor | None = None) -> Tensor:
        """Return logits; `alpha` has a row for each edge and a column for each operation, and one for none."""
        nodes = [self.stem(x)]
        weights = None if alpha is None else alpha.softmax(1)
        for j in range(1, NODES + 1):
            node = torch.zeros_like(nodes[0])
            for row, (i, end) in enumerate(EDGES):
                if end == j and f"{i}{j}" in self.edges:
                    for column, operation in enumerate(self.edges[f"{i}{j}"].children()):
                        y = operation(nodes[i])
                        node = node + (y if weights is None else weights[row, column] * y)
            nodes.append(node)
        logits: Tensor = self.head(torch.cat([node.mean((2, 3)) for node in nodes[1:]], 1))
        return logits


def decide(alpha: Tensor) -> Cell:
    """Return the cell: of the two strongest edges into each node, the best operation other than none."""
    weights = alpha.softmax(1)[:, : len(NAMES)]  # The last column is for none.
    cell: Cell = {}
    for j in range(1, NODES + 1):
        into = sorted((e for e in EDGES if e[1] == j), key=lambda e: -float(weights[EDGES.index(e)].max()))[:2]
        cell |= {edge: NAMES[int(weights[EDGES.index(edge)].argmax())] for edge in into}
    return cell


@torch.no_grad()
def mixed_by_differences(inner: Objective, outer_objective: Objective, w: PyTree, alpha: Tensor) -> list[Tensor]:
    """Return DARTS' estimate of the product, for each ε."""
    grads = gradient(inner, w, alpha)
    v = gradient(outer_objective, {name: x - RATE * grads[name] for name, x in w.items()}, alpha)
    size = float(torch.cat([x.flatten() for x in v.values()]).norm())
    products = []
    for epsilon in (scale / size for scale in SCALES):
        plus, minus = ({name: x + sign * epsilon * v[name] for name, x in w.items()} for sign in (1, -1))
        above, below = (gradient(lambda alpha, w: inner(w, alpha), alpha, w) for w in (plus, minus))
        products.append(-RATE * (above - below) / (2 * epsilon))
    return products


def mixed_exactly(inner: Objective, outer_objective: Objective, w: PyTree, alpha: Tensor) -> Tensor:
    """Return the product: what the hypergradient of one step has beside the direct gradient."""
    call = partial(hypergradient, inner, outer_objective, w, alpha, updater=SGD(RATE), steps=1)
    product: Tensor = call(method=Reverse(horizon=1)).grad - call(method=Reverse(horizon=0)).grad
    return product


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run the example; return the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--search-steps", type=int, default=80)
    parser.add_argument("--steps", type=int, default=300, help="steps of training a cell that was found")
    parser.add_argument("--seeds", type=int, default=5, help="searches of each order; twice as many cells at random")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)

    digits = load_digits()
    order = torch.randperm(len(digits.target))
    x = torch.tensor(digits.images / 16, dtype=torch.float32)[order, None]
    y = torch.tensor(digits.target)[order]

    def training(lr: Coefficient) -> Updater:
        return ClipByNorm(SGD(lr, momentum=0.9, weight_decay=3e-4), max_norm=5.0)

    def search(seed: int, horizon: int) -> tuple[Tensor, list[Tensor], PyTree]:
        """Return α, softmax(α) on the way, and the weights of the mixture."""
        torch.manual_seed(seed)
        params, call = functional(Network())  # In training mode: normalised by the batch, as in DARTS.

        def inner(params: PyTree, alpha: Tensor, batch: PyTree) -> Tensor:
            return cross_entropy(call(params, batch[0], alpha), batch[1])

        def validation_loss(params: PyTree, alpha: Tensor) -> Tensor:
            return cross_entropy(call(params, x[VALIDATION], alpha), y[VALIDATION])

        alpha = 1e-3 * torch.randn(len(EDGES), len(OPERATIONS) + 1)
        optimizer = torch.optim.Adam([alpha], lr=0.05, betas=(0.5, 0.999), weight_decay=1e-3)
        batches, state, path = Batches((x[TRAIN], y[TRAIN]), batch_size=50), None, []
        for _ in range(args.search_steps):
            result = hypergradient(
                inner,
                validation_loss,
                params,
                alpha,
                updater=training(RATE),
                steps=1,
                method=Reverse(horizon=horizon),
                seed=seed,
                state=state,
                batches=batches,
            )
            state, alpha.grad = result.state, result.grad
            optimizer.step()
            path.append(alpha.softmax(1))
        return alpha, path, result.params

    def accuracy(cell: Cell, seed: int) -> float:
        """Train a network with the cell on training and validation digits; return its test accuracy."""
        torch.manual_seed(seed)
        network = Network(cell)
        params, call = functional(network, buffers=True)  # To be evaluated with running statistics.

        def inner(params: PyTree, outer: PyTree, batch: PyTree) -> Tensor:
            return cross_entropy(call(params, batch[0]), batch[1])

        updater = training(Cosine(RATE, 0.0, args.steps))
        batches = Batches((x[BOTH], y[BOTH]), batch_size=50)
        run = record(inner, params, {}, updater=updater, steps=args.steps, horizon=0, seed=seed, batches=batches)
        network.eval()
        with torch.no_grad():
            return float((call(run.final_state.params, x[TEST]).argmax(1) == y[TEST]).float().mean())

    def drawn(seed: int) -> Cell:
        """Return a random cell of the same space."""
        return decide(torch.randn(len(EDGES), len(OPERATIONS) + 1, generator=torch.Generator().manual_seed(seed)))

    searches = {
        name: [search(seed, horizon) for seed in range(args.seeds)]
        for name, horizon in (("second order", 1), ("first order", 0))
    }
    cells = {name: [decide(alpha) for alpha, *_ in found] for name, found in searches.items()}
    cells["at random"] = [drawn(seed) for seed in range(2 * args.seeds)]
    convolutions = torch.zeros(len(EDGES), len(OPERATIONS) + 1)
    convolutions[:, NAMES.index("conv 3×3")] = 1
    cells["conv 3×3 only"] = [decide(convolutions)] * args.seeds
    found = {name: torch.tensor([accuracy(c, s) for s, c in enumerate(tried)]) for name, tried in cells.items()}
    figures = {name: float(values.mean()) for name, values in found.items()}
    for name, values in found.items():
        spread = f" ± {100 * values.std():.1f}" if len(values) > 1 else ""
        print(f"{name}: test accuracy {100 * values.mean():.1f}{spread} % over {len(values)} networks")
        kept = Counter(operation for cell in cells[name] for operation in cell.values())
        print(
            "   kept " + ", ".join(f"{operation} {100 * n / kept.total():.0f} %" for operation, n in kept.most_common())
        )

    errors: dict[torch.dtype, list[float]] = {}
    for dtype in (torch.float32, torch.float64):
        _, call = functional(Network().to(dtype))

        def loss(part: slice) -> Objective:
            images = x[part].to(dtype)  # noqa: B023
            return lambda w, alpha: cross_entropy(call(w, images, alpha), y[part])  # noqa: B023

        alpha, _, weights = searches["second order"][0]
        point = loss(slice(0, 50)), loss(VALIDATION), {n: w.to(dtype) for n, w in weights.items()}, alpha.to(dtype)
        exact = mixed_exactly(*point)
        errors[dtype] = [float((p - exact).norm() / exact.norm()) for p in mixed_by_differences(*point)]
    figures["difference_error"] = errors[torch.float32][SCALES.index(0.01)]
    figures["difference_error_double"] = min(errors[torch.float64])
    print(f"DARTS' difference of the Hessian product against the exact one: {figures['difference_error']:.1e}", end="")
    print(f"; with the best ε {min(errors[torch.float32]):.1e}, in double precision {min(errors[torch.float64]):.1e}")

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.4, 1, 1])
    alpha, path, _ = searches["second order"][0]
    weights = path[-1]
    image = left.imshow(weights.numpy(), cmap="Greens", vmin=0)
    left.set_xticks(range(len(OPERATIONS) + 1), [*NAMES, "none"], rotation=40, ha="right", fontsize=8)
    left.set_yticks(range(len(EDGES)), [f"{i} → {j}" for i, j in EDGES])
    for edge, operation in decide(alpha).items():
        left.text(NAMES.index(operation), EDGES.index(edge), "✓", ha="center", va="center")
    left.set(title="softmax(α), and the cell (✓)", ylabel="edge")
    figure.colorbar(image, ax=left)
    for place, (name, values) in enumerate(found.items()):
        middle.plot(
            100 * values.numpy(), [place] * len(values), "o", color="tab:green" if place < 2 else "tab:gray", alpha=0.4
        )
        middle.plot(100 * figures[name], place, "|", color="black", ms=18)
    middle.set_yticks(range(len(found)), list(found))
    middle.set(xlabel="test accuracy (%)", title="Trained anew", ylim=(len(found) - 0.5, -0.5))
    for (dtype, error), color in zip(errors.items(), ("tab:red", "tab:blue"), strict=True):
        right.loglog(SCALES, error, ".-", color=color, label=str(dtype).removeprefix("torch."))
    right.axvline(0.01, color="gray", ls=":", label="DARTS")
    right.set(xlabel="ε ‖v‖", ylabel="relative error", title="Difference for the product")
    right.legend()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)
    return figures


if __name__ == "__main__":
    main()
