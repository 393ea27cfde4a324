"""Differentiate an argmin: x*(θ) = argmin_x f_θ(x) + x²/16 for a small tanh network f_θ.

    python examples/argmin_network.py

The outer objective is x itself, so the hypergradient is dx*/dθ: by implicit differentiation, by the sweep through all
steps of gradient descent, and by central differences. Without the term x²/16 this network goes on falling towards
x = −∞: there is no argmin, and no gradient of it. Numbers come out nevertheless, and grow with the number of steps;
`Implicit` says by a `PremiseWarning` that they mean nothing.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lds.errors import PremiseWarning
from lds.hypergrad import FiniteDifference, HypergradientResult, Implicit, Method, Reverse, hypergradient
from lds.updaters import SGD

PICTURE = Path(__file__).parent / "pictures" / "argmin_network.png"
LENGTHS = (10, 30, 100, 300, 1000)


def network(x: Tensor, theta: dict[str, Tensor]) -> Tensor:
    """Return f_θ at every x."""
    return torch.tanh(x[..., None] * theta["a"] + theta["b"]) @ theta["v"]


def differentiate(theta: dict[str, Tensor], term: float, steps: int, method: Method[Any]) -> HypergradientResult[Any]:
    """Return x_T and dx_T/dθ for f_θ(x) + term · x², from x = 0."""
    return hypergradient(
        lambda x, theta: network(x, theta) + term * x**2,
        lambda x, theta: x,
        torch.zeros((), dtype=torch.float64),
        theta,
        updater=SGD(lr=0.5),
        steps=steps,
        method=method,
    )


def flat(grad: dict[str, Tensor]) -> Tensor:
    """Return all of a gradient as one vector."""
    return torch.cat(list(grad.values()))


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run the example; return the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--steps", type=int, default=200, help="inner steps of the comparison")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(5)  # One of the seeds with a network that has no minimum.
    theta = {name: torch.randn(6, dtype=torch.float64) for name in ("a", "b", "v")}

    methods: dict[str, Method[Any]] = {
        "implicit": Implicit(),
        "unrolled": Reverse(),
        "finite differences": FiniteDifference(),
    }
    results = {name: differentiate(theta, 1 / 16, args.steps, method) for name, method in methods.items()}
    grads = {name: flat(result.grad) for name, result in results.items()}
    minimum = float(results["implicit"].params)
    unrolled_error = float((grads["implicit"] - grads["unrolled"]).norm() / grads["implicit"].norm())
    difference_error = float((grads["implicit"] - grads["finite differences"]).norm() / grads["implicit"].norm())
    print(f"with x²/16: x* = {minimum:.4f}, ‖dx*/dθ‖ = {grads['implicit'].norm():.4f}")
    print(f"implicit against unrolled {unrolled_error:.1e}, against finite differences {difference_error:.1e}")

    norms: dict[tuple[float, str], list[float]] = {}
    iterates: dict[float, list[float]] = {1 / 16: [], 0.0: []}
    warned: dict[float, list[bool]] = {1 / 16: [], 0.0: []}
    for term in iterates:
        for steps in LENGTHS:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", PremiseWarning)
                implicit = differentiate(theta, term, steps, Implicit())
            unrolled = differentiate(theta, term, steps, Reverse())
            norms.setdefault((term, "implicit"), []).append(float(flat(implicit.grad).norm()))
            norms.setdefault((term, "unrolled"), []).append(float(flat(unrolled.grad).norm()))
            iterates[term].append(float(implicit.params))
            warned[term].append(bool(caught))
    message = str(caught[-1].message)
    for row in zip(LENGTHS, iterates[0.0], norms[0.0, "implicit"], norms[0.0, "unrolled"], strict=True):
        print("without, {:4} steps: x = {:7.3f}, norm {:.1f} implicit, {:.1f} unrolled".format(*row))
    print(f"PremiseWarning: {message}")

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    x = torch.linspace(-16, 6, 400, dtype=torch.float64)
    for term, color, label in ((1 / 16, "tab:blue", "f(x) + x²/16"), (0.0, "tab:red", "f(x)")):
        points = torch.tensor([0.0, *iterates[term]], dtype=torch.float64)
        left.plot(x.numpy(), (network(x, theta) + term * x**2).numpy(), color=color, label=label)
        left.plot(points.numpy(), (network(points, theta) + term * points**2).numpy(), "o", ms=4, color=color)
        right.loglog(LENGTHS, norms[term, "unrolled"], ":", color=color)
        right.loglog(LENGTHS, norms[term, "implicit"], "-", color=color)
        faces = ["none" if w else color for w in warned[term]]
        right.scatter(LENGTHS, norms[term, "implicit"], edgecolors=color, facecolors=faces, zorder=3)
    left.set(xlabel="x", ylabel="inner objective", title="Iterates (dots)", ylim=(-2, 7))
    left.legend(loc="upper right")
    for offset, (name, grad) in zip((-0.27, 0.0, 0.27), grads.items(), strict=True):
        middle.bar([i + offset for i in range(len(grad))], grad.numpy(), width=0.27, label=name)
    middle.set(xlabel="entry of θ", ylabel="dx*/dθ", title="With x²/16", ylim=(None, 4))
    middle.legend(loc="upper center")
    for style, label in (("k-", "implicit"), ("k:", "unrolled")):
        right.plot([], [], style, label=label)
    right.plot([], [], "o", color="k", mfc="none", label="PremiseWarning")
    right.set(xlabel="inner steps", ylabel="‖hypergradient‖", title="With (blue), without (red)", ylim=(1, 600))
    right.legend(loc="upper left")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)
    return {
        "minimum": minimum,
        "unrolled_error": unrolled_error,
        "difference_error": difference_error,
        "warned_without": float(all(warned[0.0])),
        "warned_with": float(any(warned[1 / 16][-2:])),
        "names_infinity": float("infinity" in message),
    }


if __name__ == "__main__":
    main()
