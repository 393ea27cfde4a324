"""A learned optimizer: the step of the updater is a small network, whose weights are the outer variables.

    python examples/learned_optimizer.py

As in Andrychowicz et al., "Learning to learn by gradient descent by gradient descent" (2016). One network of two hidden
layers, the same for every weight w_i, looks at the gradient g_i and at its running means and says the step:

    w ← w − 0.1 · network(g/√v, m/√v, log √v, t/T)

with m, v the running means of g and g² that Adam has. The problems to learn from train a classifier of digits from a
random start, on 200 random digits and with every pixel scaled by a random factor, so that each is ill-conditioned in
its own way. A problem takes T = 100 steps of minibatches. The outer variables take a step every 20, after a sweep over
these alone, and the trajectory goes on from its last state.

The held-out problems have other digits, starts and factors, and are solved by nets of the same size, or three times as
wide for twice as long. The rivals are SGD with momentum and Adam, each with a constant and with a cosine rate. Their
rate, and the momentum or β₂, are the best of a grid on problems to learn from, by the same measure: the training loss
at the end. It is a training loss that is compared; how well the nets generalize is another matter.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lds.errors import NumericalError
from lds.hypergrad import Batches, ModuleCall, functional, hypergradient, record
from lds.updaters import SGD, Adam, GradientUpdater, Objective, PyTree, State, Updater
from lds.updaters.schedules import Cosine

PICTURE = Path(__file__).parent / "pictures" / "learned_optimizer.png"
LEARN_FROM, HELD_OUT = slice(0, 1000), slice(1000, None)
STEPS, SEGMENT = 100, 20
TRIED, MEASURED = 100_000, 200_000  # The first problems to choose settings on, and to measure on.


class Means(NamedTuple):
    """Slots: running means of g and g², a dict each."""

    m: dict[str, Tensor]
    v: dict[str, Tensor]


class Learned(GradientUpdater):
    """Φ: the step is what `call(outer, features)` says, for every weight by itself; T is `steps`."""

    def __init__(self, call: ModuleCall, steps: int = STEPS) -> None:
        self.call, self.steps = call, steps

    def init(self, params: PyTree) -> Means:
        """Return zeros."""
        return Means(*({name: torch.zeros_like(w) for name, w in params.items()} for _ in range(2)))

    def update(self, grads: PyTree, state: State, outer: PyTree) -> State:
        """Return the next state."""
        t, params = state.step + 1, {}
        m = {name: 0.9 * state.slots.m[name] + 0.1 * g for name, g in grads.items()}
        v = {name: 0.99 * state.slots.v[name] + 0.01 * g.square() for name, g in grads.items()}
        for name, w in state.params.items():
            # Without ε inside, the root has no derivative where a weight never had a gradient.
            root = (v[name] / (1 - 0.99**t) + 1e-12).sqrt()
            time = torch.full_like(w, state.step / self.steps)
            features = [grads[name] / root, m[name] / (1 - 0.9**t) / root, root.log() / 10, time]
            params[name] = w - 0.1 * self.call(outer, torch.stack(features, -1)).squeeze(-1)
        return State(params, Means(m, v))


class Problem(NamedTuple):
    """A classifier to train.

    Attributes:
        inner: loss on a minibatch.
        whole: loss on all of its digits.
        params: random start.
        batches: minibatches.
        seed: of their order.
    """

    inner: Callable[[PyTree, PyTree, PyTree], Tensor]
    whole: Objective
    params: PyTree
    batches: Batches
    seed: int


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run the example; return the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--problems", type=int, default=40, help="problems to learn from")
    parser.add_argument("--seeds", type=int, default=3, help="optimizers to learn")
    parser.add_argument("--grid", type=int, default=9, help="rates to try")
    parser.add_argument("--tried", type=int, default=4, help="problems to choose settings on")
    parser.add_argument("--measured", type=int, default=20, help="held-out problems to measure on")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)

    digits = load_digits()
    order = torch.randperm(len(digits.target))
    x = torch.tensor(digits.data / 16, dtype=torch.float32)[order]
    y = torch.tensor(digits.target)[order]

    def problem(seed: int, part: slice, width: int = 16) -> Problem:
        """Return a problem of 200 digits."""
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10))
        params, call = functional(network)
        chosen = torch.randperm(len(y[part]))[:200]
        images, labels = x[part][chosen] * (3 * torch.rand(64) - 2).exp(), y[part][chosen]

        def inner(params: PyTree, outer: PyTree, batch: PyTree) -> Tensor:
            return cross_entropy(call(params, batch[0]), batch[1])

        def whole(params: PyTree, outer: PyTree) -> Tensor:
            return cross_entropy(call(params, images), labels)

        return Problem(inner, whole, params, Batches((images, labels), batch_size=32), seed)

    def curve(updater: Updater, outer: PyTree, on: Problem, steps: int = STEPS) -> list[float]:
        """Return the loss on all digits of a problem every tenth step."""
        losses, state = [float(on.whole(on.params, None))], None
        for _ in range(0, steps, 10):
            run = record(
                on.inner,
                on.params,
                outer,
                updater=updater,
                steps=10,
                horizon=0,
                seed=on.seed,
                state=state,
                batches=on.batches,
            )
            state = run.final_state
            losses.append(float(on.whole(state.params, None)))
        return losses

    network = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    _, call = functional(network)

    def learn(seed: int) -> tuple[PyTree, list[float]]:
        """Return the weights of the optimizer, and the loss at the end of each problem."""
        torch.manual_seed(seed)
        for layer in network:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        theta, _ = functional(network)
        # Small steps at first: those of a random network may lead to where all gradients vanish.
        theta = {name: 0.1 * w if name.startswith("4.") else w for name, w in theta.items()}
        optimizer = torch.optim.Adam(theta.values(), lr=3e-3)
        annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.problems)
        ends = []
        for k in range(args.problems):
            on, state = problem(1000 * seed + k, LEARN_FROM), None
            for _ in range(0, STEPS, SEGMENT):
                result = hypergradient(
                    on.inner,
                    on.whole,
                    on.params,
                    theta,
                    updater=Learned(call),
                    steps=SEGMENT,
                    seed=on.seed,
                    state=state,
                    batches=on.batches,
                )
                state = result.state
                for name, leaf in theta.items():
                    leaf.grad = result.grad[name]
                nn.utils.clip_grad_norm_(theta.values(), 1.0)
                optimizer.step()
            ends.append(result.outer_loss)
            annealing.step()
        return theta, ends

    def rival(name: str, setting: tuple[float, float], steps: int) -> Updater:
        """Return one of the optimizers that are compared with."""
        kind, schedule = name.split(", ")
        rate, mean = setting
        lr = Cosine(rate, 0.0, steps) if schedule == "cosine" else rate
        return Adam(lr, betas=(0.9, mean)) if kind == "Adam" else SGD(lr, momentum=mean)

    def mean_end(name: str, setting: tuple[float, float]) -> float:
        """Return the loss at the end, the mean over problems to learn from; infinity where one diverges."""
        train, losses = partial(record, updater=rival(name, setting, STEPS), steps=STEPS, horizon=0), []
        try:
            for on in tried:
                run = train(on.inner, on.params, None, seed=on.seed, batches=on.batches)
                losses.append(float(on.whole(run.final_state.params, None)))
            return sum(losses) / len(losses)
        except NumericalError:
            return float("inf")

    tried = [problem(TRIED + k, LEARN_FROM) for k in range(args.tried)]
    grids = {
        "SGD": list(product(torch.logspace(-1.5, 0.5, args.grid).tolist(), (0.8, 0.9, 0.95))),
        "Adam": list(product(torch.logspace(-2.5, 0, args.grid).tolist(), (0.9, 0.99, 0.999))),
    }
    best: dict[str, tuple[float, float]] = {}
    for kind, schedule in product(grids, ("constant", "cosine")):
        name = f"{kind}, {schedule}"
        best[name] = min(grids[kind], key=partial(mean_end, name))
    learned, curves = zip(*(learn(seed) for seed in range(args.seeds)), strict=True)

    kinds = {"held-out problems": (16, STEPS), "three times as wide, twice as long": (48, 2 * STEPS)}
    figures: dict[str, float] = {}
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    left, *panels = figure.subplots(1, 3)
    for (kind, (width, steps)), axes in zip(kinds.items(), panels, strict=True):
        held_out = [problem(MEASURED + k, HELD_OUT, width) for k in range(args.measured)]
        paths = {name: [curve(rival(name, best[name], steps), None, on, steps) for on in held_out] for name in best}
        each = [[curve(Learned(call, steps), theta, on, steps) for on in held_out] for theta in learned]
        found = {name: torch.tensor(path) for name, path in paths.items()} | {"learned": torch.tensor(each).mean(0)}
        print(f"{kind}: training loss after {steps} steps, ± standard error over {args.measured} problems")
        for name, path in found.items():
            end = path[:, -1]
            figures[f"{kind}, {name}"] = float(end.mean())
            setting = "rate {:.3f}, {}".format(*best[name]) if name in best else f"mean of {args.seeds} learned"
            wins = int((found["learned"][:, -1] < end).sum())
            print(f"   {name:14} {end.mean():.4f} ± {end.std() / len(end) ** 0.5:.4f}, {setting}", end="")
            print("" if name == "learned" else f"; learned is lower on {wins}")
            color = "tab:green" if name == "learned" else "tab:blue" if "Adam" in name else "tab:gray"
            style = ":" if "constant" in name else "-"
            axes.semilogy(range(0, steps + 1, 10), path.mean(0), style, color=color, label=name)
        means = [f"{float(torch.tensor(path)[:, -1].mean()):.4f}" for path in each]
        print(f"   each of the learned: {', '.join(means)}")
        axes.set(xlabel="step", title=kind)
        axes.title.set_fontsize(10)
    panels[0].set(ylabel="training loss")
    panels[0].legend(fontsize=7)
    for ends in curves:
        left.semilogy(ends, color="tab:green", alpha=0.6)
    left.set(xlabel="problem", ylabel=f"loss after {STEPS} steps", title="Learning to optimize")
    left.title.set_fontsize(10)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)
    return {**figures, "loss_first": curves[0][0], "loss_last": curves[0][-1]}


if __name__ == "__main__":
    main()
