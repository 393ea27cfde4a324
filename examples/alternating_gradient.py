"""Descend f(θ, φ) = (θᵀθ)(φᵀφ) in turns: θ along its gradient, φ along the Jacobian of that gradient.

    python examples/alternating_gradient.py

One turn is θ ← θ − η g with g = ∂f/∂θ, then φ ← φ − η Jᵀg with J = ∂g/∂φ. The second is a hypergradient: the inner
problem takes one step of size 1 from the displacement δ = 0, so that δ = −g; the outer objective ½‖δ‖² then has the
costate δ = −g, the step has the derivative ∂δ/∂φ = −J, and their product is Jᵀg. Starting at δ = 0 and not at θ keeps
the digits of g where it is small beside θ. The closed form is Jᵀg = 4 (θφᵀ)ᵀ · 2 (φᵀφ) θ.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lds.hypergrad import hypergradient
from lds.updaters import SGD

Pair: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
PICTURE = Path(__file__).parent / "pictures" / "alternating_gradient.png"


def f(theta: Tensor, phi: Tensor) -> Tensor:
    """Return (θᵀθ)(φᵀφ)."""
    return (theta @ theta) * (phi @ phi)


def gradients(theta: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    """Return g = ∂f/∂θ and Jᵀg, by one step of the engine."""
    result = hypergradient(
        lambda delta, phi: f(theta + delta, phi),
        lambda delta, phi: delta @ delta / 2,
        torch.zeros_like(theta),
        phi,
        updater=SGD(lr=1.0),
        steps=1,
    )
    return -result.params, result.grad


def closed_form(theta: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same by formula."""
    g = 2 * (phi @ phi) * theta
    return g, 4 * torch.outer(theta, phi).T @ g


def descend(pair: Pair, theta: Tensor, phi: Tensor, lr: float, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Return the iterates of the alternating descent along what `pair(theta, phi)` returns."""
    iterates = [(theta, phi)]
    for _ in range(steps):
        g, jtg = pair(theta, phi)
        theta, phi = theta - lr * g, phi - lr * jtg
        iterates.append((theta, phi))
    return iterates


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run the example; return the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=0.002, help="η")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)

    start = torch.randn(3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    iterates = descend(gradients, *start, lr=args.lr, steps=args.steps)
    by_formula = descend(closed_form, *start, lr=args.lr, steps=args.steps)

    values = [float(f(*pair)) for pair in iterates]
    errors = [[float((a - b).norm()) for a, b in zip(gradients(*x), closed_form(*x), strict=True)] for x in iterates]
    drift = [
        max(float((a - b).norm()) for a, b in zip(x, y, strict=True)) for x, y in zip(iterates, by_formula, strict=True)
    ]
    figures = {
        "f_first": values[0],
        "f_last": values[-1],
        "error_g": max(e for e, _ in errors),
        "error_jtg": max(e for _, e in errors),
        "drift": max(drift),
    }
    print(f"f fell from {values[0]:.3g} to {values[-1]:.3g} in {args.steps} turns")
    print(f"largest error of g {figures['error_g']:.1e}, of Jᵀg {figures['error_jtg']:.1e}")
    print(f"largest distance from the iterates of the closed form {figures['drift']:.1e}")

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.semilogy(values)
    left.set(xlabel="turn", ylabel="f(θ, φ)", title="Alternating descent")
    # An error of exactly zero has no place on a log axis.
    floor = 1e-18
    right.semilogy([max(e, floor) for _, e in errors], ".", ms=4, label="error of Jᵀg (0 drawn as 1e-18)")
    right.semilogy([max(d, floor) for d in drift], label="distance of the iterates")
    right.axhline(1e-12, color="gray", ls=":", label="1e-12")
    right.set(xlabel="turn", ylabel="2-norm", title="Engine against closed form", ylim=(floor / 3, 1e-8))
    right.legend(loc="upper right")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=120)
    return figures


if __name__ == "__main__":
    main()
