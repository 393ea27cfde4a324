"""The smallest bilevel problem: min_w (w − θ²)² under the outer objective F = 2w*, whose hypergradient is 4θ.

    python examples/implicit_scalar.py

The minimum is w* = θ², so F = 2θ² and dF/dθ = 4θ. Unrolling T steps of gradient descent from w = 0 with step size η
gives 4θ (1 − (1 − 2η)^T): it is the exact derivative of the w_T that was reached, not of w*. Implicit differentiation
takes w_T for w*, and a `PremiseWarning` tells where it is not. (Here it is right even there, since the Hessian 2 and
the mixed derivative −4θ are the same at every w.)
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
from lds.hypergrad import HypergradientResult, Implicit, Method, Reverse, hypergradient
from lds.updaters import SGD

PICTURE = Path(__file__).parent / "pictures" / "implicit_scalar.png"
RATE = 0.1


def solve(theta: Tensor, method: Method[Any], steps: int) -> HypergradientResult[Any]:
    """Return the hypergradient after some inner steps from w = 0."""
    return hypergradient(
        lambda w, theta: (w - theta**2) ** 2,
        lambda w, theta: 2 * w,
        torch.zeros_like(theta),
        theta,
        updater=SGD(lr=RATE),
        steps=steps,
        method=method,
    )


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run the example; return the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--inner-steps", type=int, default=60)
    parser.add_argument("--outer-steps", type=int, default=40)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)

    theta = start = torch.tensor(1.5, dtype=torch.float64)
    path, errors = [theta.item()], {"implicit": 0.0, "unrolled": 0.0}
    for _ in range(args.outer_steps):
        implicit, unrolled = (solve(theta, method, args.inner_steps).grad for method in (Implicit(), Reverse()))
        for name, grad in (("implicit", implicit), ("unrolled", unrolled)):
            errors[name] = max(errors[name], float(abs(grad / (4 * theta) - 1)))
        theta = theta - 0.1 * implicit
        path.append(theta.item())

    lengths = range(0, args.inner_steps + 1, 3)
    off: dict[str, list[float]] = {"implicit": [], "unrolled": []}
    warned = []
    for steps in lengths:
        off["unrolled"].append(float(abs(solve(start, Reverse(), steps).grad - 4 * start)))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", PremiseWarning)
            off["implicit"].append(float(abs(solve(start, Implicit(), steps).grad - 4 * start)))
        warned.append(bool(caught))
    formula = [float(4 * start) * (1 - 2 * RATE) ** steps for steps in lengths]
    formula_error = max(abs(a - b) for a, b in zip(off["unrolled"], formula, strict=True))

    print(f"θ went from {path[0]} to {path[-1]:.1e} in {args.outer_steps} outer steps, at the rate 1 − 0.1 · 4 = 0.6")
    for name, error in errors.items():
        print(f"largest relative error of the {name} hypergradient against 4θ: {error:.1e}")
    print(f"the unrolled one is off by 4θ (1 − 2η)^T, to {formula_error:.1e}")
    print(f"Implicit() warned below {lengths[warned.index(False)]} inner steps")

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.semilogy(path, ".-", label="θ")
    left.semilogy([path[0] * 0.6**k for k in range(len(path))], "k:", label="1.5 · 0.6$^k$")
    left.set(xlabel="outer step k", ylabel="θ", title="Descent of F = 2w*")
    left.legend()
    floor = 1e-17  # Zero has no place on a log axis.
    right.semilogy(lengths, off["unrolled"], "o", color="tab:orange", label="unrolled")
    right.semilogy(lengths, formula, "k:", label="4θ (1 − 2η)$^T$")
    for value, label, face in ((False, "implicit", "tab:blue"), (True, "implicit, PremiseWarning", "none")):
        points = [(n, max(e, floor)) for n, e, w in zip(lengths, off["implicit"], warned, strict=True) if w == value]
        right.semilogy(*zip(*points, strict=True), "s", ms=5, color="tab:blue", mfc=face, label=label)
    right.set(xlabel="inner steps T", ylabel="|hypergradient − 4θ|", title="At θ = 1.5 (0 drawn as 1e-17)")
    right.legend(loc=(0.15, 0.15))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=120)
    return {
        "theta": path[-1],
        "implicit_error": errors["implicit"],
        "unrolled_error": errors["unrolled"],
        "formula_error": formula_error,
        "silent_from": lengths[warned.index(False)],
    }


if __name__ == "__main__":
    main()
