"""Learn a learning-rate schedule, one outer variable a step, against the best constant and the best cosine.

    python examples/learning_rate_schedule.py

The inner problem is minibatch SGD with momentum on digits, and θ_t the logarithm of the rate of its step t. The
minibatches are drawn inside the inner objective: the engine replays the draws of `seed` in its sweep, and every
hypergradient here has a seed of its own, so that θ suits no particular order of the examples.

All rates are measured by the same validation loss after as many steps, over the same seeds. The best constant and the
best cosine are the best of a grid on these very seeds; θ is learned on others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lds.hypergrad import Derived, functional, hypergradient, record
from lds.updaters import SGD, PyTree
from lds.updaters.schedules import Cosine, PerStep

PICTURE = Path(__file__).parent / "pictures" / "learning_rate_schedule.png"
TRAIN, VALIDATION, TEST = slice(0, 1000), slice(1000, 1400), slice(1400, None)
MEASURED = 10_000  # The first seed to measure with, beyond all that θ is learned on.


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run the example; return the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--steps", type=int, default=40, help="inner steps, and so rates to learn")
    parser.add_argument("--outer-steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=4, help="hypergradients to average in an outer step")
    parser.add_argument("--grid", type=int, default=13, help="rates to try from 0.05 to 1")
    parser.add_argument("--measured", type=int, default=20, help="seeds to measure with")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)

    digits = load_digits()
    order = torch.randperm(len(digits.target))
    x = torch.tensor(digits.data / 16, dtype=torch.float32)[order]
    y = torch.tensor(digits.target)[order]
    params, network = functional(nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)))

    def inner(params: PyTree, rates: Tensor) -> Tensor:
        batch = torch.randint(0, TRAIN.stop, (16,))
        return cross_entropy(network(params, x[batch]), y[batch])

    def validation_loss(params: PyTree, rates: Tensor) -> Tensor:
        return cross_entropy(network(params, x[VALIDATION]), y[VALIDATION])

    updater = SGD(lr=PerStep(lambda rates: rates), momentum=0.9)

    def losses(rates: Tensor) -> Tensor:
        """Return validation and test loss after training, a row a seed."""
        rows = []
        for seed in range(MEASURED, MEASURED + args.measured):
            run = record(inner, params, rates, updater=updater, steps=args.steps, horizon=0, seed=seed)
            output = network(run.final_state.params, x)
            rows.append(torch.stack([cross_entropy(output[part], y[part]) for part in (VALIDATION, TEST)]))
        return torch.stack(rows)

    peaks = torch.logspace(-1.3, 0, args.grid).tolist()
    constants = [torch.full((args.steps,), peak) for peak in peaks]
    cosines = [torch.tensor([Cosine(p, 0.0, args.steps).at(t, None) for t in range(args.steps)]) for p in peaks]
    by_peak = {"constant": [losses(rates) for rates in constants], "cosine": [losses(rates) for rates in cosines]}
    curves = {name: [float(found[:, 0].mean()) for found in tried] for name, tried in by_peak.items()}
    best = {name: curve.index(min(curve)) for name, curve in curves.items()}

    theta = (constants[best["constant"]] / 2).log()  # Not at the best constant: θ has to find its size, too.
    optimizer = torch.optim.Adam([theta], lr=0.1)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.outer_steps)
    for k in range(args.outer_steps):
        grads = []
        for seed in range(k * args.seeds, (k + 1) * args.seeds):
            outer = Derived(torch.exp, theta)
            result = hypergradient(inner, validation_loss, params, outer, updater=updater, steps=args.steps, seed=seed)
            # A rate beyond the edge of stability makes hypergradients explode; one seed must not decide the step.
            grads.append(result.grad / max(1.0, float(result.grad.norm()) / 0.3))
        theta.grad = torch.stack(grads).mean(0)
        optimizer.step()
        annealing.step()
    rates = {"constant": constants[best["constant"]], "cosine": cosines[best["cosine"]], "learned": theta.exp()}
    found = {name: losses(values) for name, values in rates.items()}

    # A constant rate moves all rates of the schedule at once: its hypergradient is the sum of theirs.
    log_rate = rates["constant"].log()
    problem = {"params": params, "steps": args.steps, "seed": MEASURED}
    each = hypergradient(inner, validation_loss, outer=Derived(torch.exp, log_rate), updater=updater, **problem)
    one = Derived(torch.exp, log_rate[0])
    whole = hypergradient(inner, validation_loss, outer=one, updater=SGD(lr=lambda r: r, momentum=0.9), **problem)
    sum_error = float(abs(each.grad.sum() - whole.grad) / each.grad.abs().sum())

    print(f"mean loss after {args.steps} steps, ± standard error over {args.measured} seeds")
    for name, values in rates.items():
        (validation, test), (error, test_error) = found[name].mean(0), found[name].std(0) / args.measured**0.5
        print(f"{name:8} validation {validation:.3f} ± {error:.3f}, test {test:.3f} ± {test_error:.3f}", end="")
        print(f", rates {values.min():.3f} to {values.max():.3f}")
    wins = {name: int((found["learned"][:, 1] < found[name][:, 1]).sum()) for name in curves}
    print(f"learned has the lower test loss on {wins['constant']} seeds (constant), {wins['cosine']} (cosine)")
    print(f"sum of the {args.steps} hypergradients against that of one constant rate: {sum_error:.1e}")

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    colors = {"constant": "tab:gray", "cosine": "tab:orange", "learned": "tab:blue"}
    for name, values in rates.items():
        left.plot(values.numpy(), color=colors[name], label=name)
    left.set(xlabel="inner step", ylabel="learning rate", title="Schedules", ylim=(0, None))
    left.legend()
    for name, curve in curves.items():
        right.semilogx(peaks, curve, ".-", color=colors[name], label=name)
    right.axhline(float(found["learned"][:, 0].mean()), color=colors["learned"], label="learned")
    right.set(xlabel="learning rate, or its peak", ylabel="validation loss", ylim=(0, 1))
    right.set_title(f"After {args.steps} steps, {args.measured} seeds")
    right.legend(loc="lower left")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=120)
    means = {name: table.mean(0).tolist() for name, table in found.items()}
    figures = {f"{name}_validation": mean[0] for name, mean in means.items()}
    return {**figures, **{f"{name}_test": mean[1] for name, mean in means.items()}, "sum_error": sum_error}


if __name__ == "__main__":
    main()
