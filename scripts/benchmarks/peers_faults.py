"""Derivatives that other packages get wrong, each against differences of the same package's own run.

    pip install higher==0.2.1 torchopt==0.7.3
    python scripts/benchmarks/peers_faults.py
    python scripts/benchmarks/peers_faults.py --all -k SGD

Two weights take some steps on a smooth objective, by an optimizer of higher, TorchOpt, torch.optim with
`differentiable=True`, or lds. What is differentiated is a smooth function of the last weights: in each coefficient of
the optimizer that the package takes as a tensor, in a variable of the objective, and in the initial weights. The
derivative by autograd is compared with central differences of the very same program, in float64, so that another place
of ε is no fault. The cases "g = 0" have a weight that the objective does not depend on, as a dead unit has. At the end,
what becomes of the running statistics of BatchNorm. docs/comparison.md quotes this.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lds.hypergrad import functional, unroll
from lds.updaters import SGD

D = torch.float64
STEPS = 3
# Relative error above which a derivative counts as wrong; differences are right to some 1e-9.
WRONG = 1e-5
# From the coefficients, the variable of the objective and w_0 to w_T.
Run = Callable[[dict[str, Any], Tensor, Tensor], Tensor]
W0 = torch.tensor([1.2, -0.7], dtype=D)
# Coefficients that are differentiated in, beside what each optimizer has by default.
COEFFICIENTS: dict[str, dict[str, float]] = {
    "SGD": {"lr": 0.1},
    "SGD, momentum": {"lr": 0.1, "momentum": 0.9},
    "SGD, decay": {"lr": 0.1, "weight_decay": 0.1},
    "Adam": {"lr": 0.1, "beta1": 0.9, "beta2": 0.999},
    "Adam, amsgrad": {"lr": 0.1},
    "AdamW": {"lr": 0.1, "weight_decay": 0.1},
    "Adamax": {"lr": 0.1, "beta1": 0.9, "beta2": 0.999},
    "NAdam": {"lr": 0.1},
    "RAdam": {"lr": 0.1},
    "Adagrad": {"lr": 0.1},
    "Adadelta": {"lr": 1.0, "rho": 0.8},
    "RMSprop": {"lr": 0.1, "alpha": 0.9},
    "RMSprop, centered": {"lr": 0.1},
    "ASGD": {"lr": 0.1},
}


def loss(w: Tensor, c: Tensor) -> Tensor:
    """Return the inner objective: coupled, not quadratic, and with no weight's gradient near zero."""
    return (w[0] - c) ** 2 * (1 + 0.3 * w[1] ** 2) + (w[1] + 2 * c).pow(4) / 10 + w.sin().sum() / 5


def flat(w: Tensor, c: Tensor) -> Tensor:
    """Return an objective with an input that is zero, so that the gradient in its weight is zero."""
    prediction = w @ torch.tensor([1.0, 0.0], dtype=D)
    return (prediction - c) ** 2 + 0.1 * prediction.pow(4)


def judged(w: Tensor) -> Tensor:
    """Return the outer objective."""
    return (w * torch.tensor([1.0, 0.5], dtype=D)).sin().sum() + w.square().sum() / 3


def settings(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the coefficients as torch.optim and TorchOpt name them."""
    found = {key: value for key, value in given.items() if key not in ("beta1", "beta2")}
    if "beta1" in given:
        found["betas"] = (given["beta1"], given["beta2"])
    options = {"SGD, decay": {"momentum": 0.0}, "Adam, amsgrad": {"amsgrad": True}}
    return found | options.get(name, {}) | ({"centered": True} if name == "RMSprop, centered" else {})


def of_higher(name: str, objective: Callable[..., Tensor], steps: int) -> Run:
    import higher

    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(W0.clone())

        def forward(self, c: Tensor) -> Tensor:
            return objective(self.w, c)

    def run(coefficients: dict[str, Any], c: Tensor, w0: Tensor) -> Tensor:
        module = Weights()
        plain = settings(name, {key: float(value) for key, value in coefficients.items()})
        override = {key: [value] for key, value in settings(name, coefficients).items()}
        optimizer = getattr(torch.optim, name.split(",")[0])(module.parameters(), **plain)
        with higher.innerloop_ctx(module, optimizer, override=override) as (model, inner):
            model.update_params([w0])
            for _ in range(steps):
                inner.step(model(c))
            return model.w  # type: ignore[no-any-return]

    return run


def of_torch(name: str, objective: Callable[..., Tensor], steps: int) -> Run:
    def run(coefficients: dict[str, Any], c: Tensor, w0: Tensor) -> Tensor:
        w = w0.clone()
        optimizer = getattr(torch.optim, name.split(",")[0])(
            [w], **settings(name, coefficients), differentiable=True, foreach=False
        )
        for _ in range(steps):
            (w.grad,) = torch.autograd.grad(objective(w.clone(), c), w, create_graph=True)
            optimizer.step()
        return w

    return run


def of_torchopt(name: str, objective: Callable[..., Tensor], steps: int) -> Run:
    import torchopt

    def run(coefficients: dict[str, Any], c: Tensor, w0: Tensor) -> Tensor:
        optimizer = getattr(torchopt, name.split(",")[0].lower())(**settings(name, coefficients))
        w = w0.clone()
        state = optimizer.init(w)
        for _ in range(steps):
            (grad,) = torch.autograd.grad(objective(w, c), w, create_graph=True)
            updates, state = optimizer.update(grad, state, params=w, inplace=False)
            w = torchopt.apply_updates(w, updates, inplace=False)
        return w

    return run


def of_lds(name: str, objective: Callable[..., Tensor], steps: int) -> Run:
    import lds.updaters

    def run(coefficients: dict[str, Any], c: Tensor, w0: Tensor) -> Tensor:
        learned: Any = {key: lambda outer, key=key: outer[key] for key in coefficients}
        updater = getattr(lds.updaters, name.split(",")[0])(**settings(name, learned))
        outer = {key: torch.as_tensor(value, dtype=D) for key, value in coefficients.items()} | {"c": c}
        return unroll(  # type: ignore[no-any-return]
            lambda w, outer: objective(w, outer["c"]), w0, outer, updater=updater, steps=steps
        )

    return run


PACKAGES: dict[str, Callable[[str, Callable[..., Tensor], int], Run]] = {
    "higher": of_higher,
    "torch.optim": of_torch,
    "torchopt": of_torchopt,
    "lds": of_lds,
}


def derivatives(run: Run, coefficients: dict[str, float]) -> dict[str, tuple[float, float] | str]:
    """Return the derivative in each variable, by autograd and by differences, or why there is none."""
    variables = {key: torch.tensor(value, dtype=D) for key, value in coefficients.items()}
    variables |= {"c": torch.tensor(0.4, dtype=D), "w0": W0.clone()}

    def value(chosen: str, tensor: Tensor) -> Tensor:
        given = {**variables, chosen: tensor}
        # One coefficient is a tensor, the others are plain numbers: packages that mix up the two are not to blame.
        numbers = {key: given[key] if key == chosen else float(given[key]) for key in coefficients}
        return judged(run(numbers, given["c"], given["w0"].clone().requires_grad_()))

    found: dict[str, tuple[float, float] | str] = {}
    for key, at in variables.items():
        direction = torch.ones_like(at)
        leaf = at.clone().requires_grad_()
        try:
            if key == "w0":
                numbers: dict[str, Any] = dict(coefficients)
                result = judged(run(numbers, variables["c"], leaf))
            else:
                result = value(key, leaf)
            (grad,) = torch.autograd.grad(result, leaf, allow_unused=True)
        except (RuntimeError, TypeError, ValueError, AttributeError, KeyError) as problem:
            found[key] = f"{type(problem).__name__}: {str(problem).splitlines()[0][:90]}"
            continue
        slope = 0.0 if grad is None else float((grad * direction).sum())
        quotients = []
        for h in (1e-5, 2e-5):
            up, down = (float(value(key, at + sign * h * direction).detach()) for sign in (1, -1))
            quotients.append((up - down) / (2 * h))
        found[key] = slope, (4 * quotients[0] - quotients[1]) / 3
    return found


def table(options: argparse.Namespace) -> None:
    """Print a line for each derivative that is wrong, or all."""
    problems = (("", loss, STEPS), (", 1 step", loss, 1), (", g = 0", flat, STEPS))
    for package, make in PACKAGES.items():
        for name, coefficients in COEFFICIENTS.items():
            for suffix, objective, steps in problems:
                label = f"{package:12s}{name + suffix:26s}"
                if options.k not in label:
                    continue
                try:
                    found = derivatives(make(name, objective, steps), coefficients)
                except AttributeError:
                    continue
                for key, pair in found.items():
                    if isinstance(pair, str):
                        if options.all:
                            print(f"{label} d/d{key:13s} none: {pair}")
                        continue
                    got, expected = pair
                    error = abs(got - expected) / max(abs(expected), 1e-4)
                    if options.all or not error <= WRONG:
                        show(label, key, got, expected)


def statistics() -> None:
    """Print the derivative of a trained net in evaluation mode, which goes through its running statistics."""
    torch.manual_seed(0)
    x, y = torch.randn(20, 3, dtype=D) * 2 + 1, torch.randn(20, 1, dtype=D)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).to(D)

    def of_higher(c: Tensor) -> Tensor:
        import higher

        module = copy.deepcopy(net)
        with higher.innerloop_ctx(module, torch.optim.SGD(module.parameters(), lr=0.1)) as (model, optimizer):
            for _ in range(STEPS):
                optimizer.step((model(c * x) - y).square().mean())
            model.eval()
            loss: Tensor = (model(x) - y).square().mean()
            return loss

    def of_torchopt(c: Tensor) -> Tensor:
        import torchopt

        module = copy.deepcopy(net)
        optimizer = torchopt.MetaSGD(module, lr=0.1)
        for _ in range(STEPS):
            optimizer.step((module(c * x) - y).square().mean())
        loss: Tensor = (module.eval()(x) - y).square().mean()
        return loss

    def of_lds(c: Tensor) -> Tensor:
        module = copy.deepcopy(net)
        params, call = functional(module, buffers=True)

        def inner(params: Any, c: Tensor) -> Tensor:
            module.train()
            return (call(params, c * x) - y).square().mean()

        w = unroll(inner, params, c, updater=SGD(0.1), steps=STEPS)
        module.eval()
        loss: Tensor = (call(w, x) - y).square().mean()
        return loss

    for name, run in {"higher": of_higher, "torchopt": of_torchopt, "lds": of_lds}.items():
        at = torch.tensor(1.3, dtype=D, requires_grad=True)
        (grad,) = torch.autograd.grad(run(at), at)
        up, down = (float(run(at.detach() + h).detach()) for h in (1e-5, -1e-5))
        slope = (up - down) / 2e-5
        show(f"{name:12s}{'BatchNorm, evaluated':26s}", "c", float(grad), slope)


def show(label: str, variable: str, got: float, expected: float) -> None:
    """Print a derivative twice."""
    print(f"{label} d/d{variable:13s} autograd {got:12.5g}   differences {expected:12.5g}")


def main() -> None:
    """Print what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="print what is right, too, and what a package refuses")
    parser.add_argument("-k", default="", help="only lines with this in them")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "higher", "torchopt")))
    table(options)
    if not options.k:
        statistics()


if __name__ == "__main__":
    main()
