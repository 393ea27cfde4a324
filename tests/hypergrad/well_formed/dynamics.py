"""Updaters of every kind, learned coefficients, warm starts and horizons; and methods other than the sweep."""

from typing import NamedTuple

import torch

from lds.hypergrad import Derived, FiniteDifference, Forward, Implicit, Reverse, record
from lds.updaters import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    ClipByNorm,
    ClipByValue,
    GradientUpdater,
    Lion,
    RMSprop,
    State,
    gradient,
)
from lds.updaters.schedules import Cosine, Exponential, PerStep
from tests.hypergrad.well_formed.base import EACH, WellFormed, case, normals
from tests.oracles import DOUBLE, Problem, regression, ridge


def over_regression(name, make, dtypes=EACH, steps=5, tol=None, **options):
    def build(dtype):
        return WellFormed(regression(dtype=dtype), make(), steps, options, tol=tol)

    case(*dtypes, name=name)(build)


def learned(name):
    return lambda outer: outer[name]


BETAS = (lambda o: o["betas"][0], lambda o: o["betas"][1])

over_regression("SGD with a learned rate and momentum", lambda: SGD(learned("lr"), momentum=learned("momentum")))
over_regression("Nesterov", lambda: SGD(learned("lr"), momentum=learned("momentum"), nesterov=True))
over_regression("SGD with weight decay", lambda: SGD(0.05, weight_decay=learned("lr")))
over_regression("Adam with learned betas", lambda: Adam(learned("lr"), betas=BETAS))
over_regression("AdamW", lambda: AdamW(learned("lr"), betas=BETAS, weight_decay=learned("lr")))
over_regression("RMSprop", lambda: RMSprop(learned("lr"), momentum=learned("momentum")))
over_regression("Adagrad", lambda: Adagrad(learned("lr")))
over_regression("Lion", lambda: Lion(learned("lr")))
over_regression("ClipByNorm that clips", lambda: ClipByNorm(SGD(learned("lr")), 0.1))
over_regression("ClipByNorm that does not", lambda: ClipByNorm(SGD(learned("lr")), 1e6))
over_regression("ClipByValue", lambda: ClipByValue(SGD(learned("lr"), momentum=0.5), 0.05))
over_regression("a cosine schedule", lambda: SGD(Cosine(learned("lr"), 0.0, steps=5)))
over_regression("an exponential schedule", lambda: SGD(Exponential(learned("lr"), learned("momentum"))))
over_regression("a rate of each param", lambda: SGD(PerParam()))
over_regression("no steps", lambda: SGD(0.1), steps=0)
over_regression("one step", lambda: SGD(0.1), steps=1)
over_regression("horizon of none", lambda: SGD(0.1), steps=4, method=Reverse(0))
over_regression("horizon of one", lambda: Adam(0.01), steps=4, method=Reverse(1))
over_regression("horizon of three", lambda: SGD(0.1, momentum=0.9), steps=7, method=Reverse(3))
over_regression("horizon beyond the start", lambda: SGD(0.1), steps=3, method=Reverse(9))
over_regression("forward mode", lambda: Adam(0.01), (DOUBLE,), method=Forward())
over_regression("central differences", lambda: SGD(0.05), (DOUBLE,), steps=2, tol=1e-6, method=FiniteDifference())


class PerParam:
    """A rate for every tensor of params, by a schedule of one's own."""

    def at(self, step, outer):
        lr = outer["lr"]
        return {"layers": [{"w": lr, "b": 2 * lr}, (lr / 2,)], "scale": lr / (1 + step)}


@case()
def dropout_and_adam(dtype):
    return WellFormed(regression(dropout=0.5, dtype=dtype), Adam(lambda o: o["lr"]), 6, {"seed": 9})


@case(*EACH)
def learned_rates_of_each_step(dtype):
    problem = regression(dtype=dtype)
    return WellFormed(
        problem._replace(outer={**problem.outer, "lrs": torch.full((5,), 0.05, dtype=dtype)}),
        SGD(PerStep(lambda o: o["lrs"])),
        steps=5,
    )


@case(*EACH)
def warm_start_of_adam(dtype):
    problem, updater = regression(dropout=0.3, dtype=dtype), Adam(lambda o: o["lr"])
    first = record(problem.inner, *problem[2:], updater=updater, steps=4, seed=2)
    return WellFormed(problem, updater, 4, {"seed": 2, "state": first.final_state})


@case(*EACH)
def warm_start_of_momentum_at_a_horizon(dtype):
    problem, updater = regression(dtype=dtype), SGD(0.05, momentum=lambda o: o["momentum"])
    first = record(problem.inner, *problem[2:], updater=updater, steps=4)
    return WellFormed(problem, updater, 6, {"state": first.final_state, "method": Reverse(2)})


class Heavy(NamedTuple):
    """Slots of one's own: a tensor like each param, a counter and a flag."""

    velocity: dict
    count: torch.Tensor
    active: bool


class HeavyBall:
    def init(self, params):
        return Heavy({k: torch.zeros_like(w) for k, w in params.items()}, torch.zeros((), dtype=torch.int64), True)

    def step(self, state, outer, inner):
        grads = gradient(inner, state.params, outer)
        v = {k: outer["momentum"] * u + grads[k] for k, u in state.slots.velocity.items()}
        params = {k: w - outer["lr"] / (1 + 0.1 * state.slots.count) * v[k] for k, w in state.params.items()}
        return State(params, Heavy(v, state.slots.count + 1, state.slots.active))


class Projected:
    """A step of descent, projected to the unit ball or onto the box of outer['bound']."""

    def __init__(self, ball):
        self.ball = ball

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        w = state.params["w"] - 0.3 * gradient(inner, state.params, outer)["w"]
        if self.ball:
            return State({"w": w * (outer["bound"] / w.norm()).clamp(max=1.0)})
        return State({"w": torch.minimum(torch.maximum(w, -outer["bound"]), outer["bound"])})


class Proximal:
    """ISTA: a step of descent, then soft thresholding, after which many weights are zero."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        w = state.params["w"] - 0.2 * gradient(inner, state.params, outer)["w"]
        return State({"w": w.sign() * (w.abs() - 0.2 * outer["bound"].exp()).relu()})


class Hyper(GradientUpdater):
    """Hypergradient descent: the rate itself is in the slots, and rises where gradients agree."""

    def init(self, params):
        return params["w"].new_tensor(0.05), torch.zeros_like(params["w"])

    def update(self, grads, state, outer):
        lr, before = state.slots
        lr = lr + outer["momentum"] * 1e-3 * (grads["w"] * before).sum()
        return State({"w": state.params["w"] - lr * grads["w"]}, (lr, grads["w"]))


class Midpoint:
    """Two inner gradients a step: the midpoint rule of Runge and Kutta."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        half = {"w": state.params["w"] - 0.5 * outer["lr"] * gradient(inner, state.params, outer)["w"]}
        return State({"w": state.params["w"] - outer["lr"] * gradient(inner, half, outer)["w"]})


class Newton:
    """A damped step of Newton, whose Hessian is differentiated again."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        with torch.enable_grad():
            w = state.params["w"]
            grads = gradient(inner, {"w": w}, outer)["w"]
            rows = [torch.autograd.grad(g, w, create_graph=True)[0] for g in grads]
        hessian = torch.stack(rows) + outer["lr"] * torch.eye(len(w), dtype=w.dtype)
        return State({"w": w - 0.5 * torch.linalg.solve(hessian, grads)})


class Noisy:
    """Langevin dynamics: noise of a learned temperature."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        w = state.params["w"]
        noise = torch.randn(w.shape, dtype=w.dtype)
        return State({"w": w - 0.1 * gradient(inner, state.params, outer)["w"] + 0.1 * outer["lr"].sqrt() * noise})


class Averaged:
    """Stochastic weight averages of a learned decay, returned in the slots; F reads only the weights."""

    def init(self, params):
        return {k: w.clone() for k, w in params.items()}

    def step(self, state, outer, inner):
        grads = gradient(inner, state.params, outer)
        mean = {k: outer["momentum"] * m + (1 - outer["momentum"]) * state.params[k] for k, m in state.slots.items()}
        return State({k: m - outer["lr"] * grads[k] for k, m in mean.items()}, mean)


UPDATERS = {
    "momentum in slots of one's own": HeavyBall,
    "projection to a ball": lambda: Projected(ball=True),
    "projection to a box": lambda: Projected(ball=False),
    "soft thresholding": Proximal,
    "a rate in the slots": Hyper,
    "midpoint steps": Midpoint,
    "Newton steps": Newton,
    "Langevin noise": Noisy,
    "averaged weights": Averaged,
}


def own(name, make):
    def build(dtype):
        normal = normals(dtype)
        x, y, x_val, y_val = normal(10, 4), normal(10), normal(10, 4), normal(10)
        outer = {"lr": 0.2, "momentum": 0.7, "bound": 0.5, "log_penalty": -2.0}
        return WellFormed(
            Problem(
                lambda p, o: (
                    (x @ p["w"] - y).square().mean()
                    + (x @ p["w"]).pow(4).mean() / 10
                    + o["log_penalty"].exp() * p["w"].square().sum()
                ),
                lambda p, o: (x_val @ p["w"] - y_val).square().mean() + 0.01 * sum(v**2 for v in o.values()),
                {"w": normal(4) / 3},
                {k: torch.tensor(v, dtype=dtype) for k, v in outer.items()},
            ),
            make(),
            steps=5,
        )

    case(*EACH, name=name)(build)


for _name, _make in UPDATERS.items():
    own(_name, _make)


class FixedPoint:
    """A layer that is defined by z = tanh(A z + U x + b), with its weights as θ: no loss is lowered."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        a, u, x = outer
        return State(torch.tanh(state.params @ a + x @ u))


def equilibrium(method, tol):
    def build(dtype):
        normal = normals(dtype)
        a, u, x = normal(4, 4) / 6, normal(3, 4), normal(5, 3)
        problem = Problem(
            lambda z, o: z.sum(), lambda z, o: z.square().sum(), torch.zeros(5, 4, dtype=dtype), (a, u, x)
        )
        return WellFormed(problem, FixedPoint(), 80, {"method": method}, expected=unrolled(problem), tol=tol)

    def unrolled(problem):
        theta = [t.clone().requires_grad_() for t in problem.outer]
        z = problem.params
        for _ in range(80):
            z = torch.tanh(z @ theta[0] + theta[2] @ theta[1])
        return torch.autograd.grad(z.square().sum(), theta)

    return build


case(name="an equilibrium layer, unrolled")(equilibrium(Reverse(), 1e-9))
case(name="an equilibrium layer, implicit")(equilibrium(Implicit("fixed_point", tol=1e-13), 1e-9))


def implicit_ridge(solver):
    def build(dtype):
        problem, _, expected = ridge()
        return WellFormed(problem, SGD(0.5), 300, {"method": Implicit(solver, tol=1e-12)}, expected=expected)

    return build


for _solver in ("cg", "neumann", "fixed_point", "dense"):
    case(name=f"implicit ridge, {_solver}")(implicit_ridge(_solver))


def implicit_logistic(solver):
    """Regularised logistic regression, a penalty for each weight, against the Hessian by hand."""

    def build(dtype):
        normal = normals(dtype)
        x, x_val = normal(30, 4), normal(20, 4)
        y, y_val = x[:, 0].sign(), x_val[:, 0].sign()
        theta = torch.full((4,), -1.0, dtype=dtype)

        def loss(w, x, y):
            return torch.nn.functional.softplus(-y * (x @ w)).mean()

        def inner(w, o):
            return loss(w, x, y) + (o.exp() * w.square()).sum() / 2

        w = torch.zeros(4, dtype=dtype)
        for _ in range(30):
            w = w - torch.linalg.solve(torch.func.hessian(inner)(w, theta), torch.func.grad(inner)(w, theta))
        v = torch.linalg.solve(torch.func.hessian(inner)(w, theta), torch.func.grad(loss)(w, x_val, y_val))
        return WellFormed(
            Problem(inner, lambda w, o: loss(w, x_val, y_val), torch.zeros(4, dtype=dtype), theta),
            SGD(1.0),
            200,
            {"method": Implicit(solver, tol=1e-12)},
            expected=-v * theta.exp() * w,
        )

    return build


for _solver in ("cg", "neumann", "fixed_point", "dense"):
    case(name=f"implicit logistic regression, {_solver}")(implicit_logistic(_solver))


@case(*EACH)
def a_derived_kernel(dtype):
    """Kernel ridge regression by descent, the kernel matrix computed once from a bandwidth."""
    normal = normals(dtype)
    x, y = normal(8, 2), normal(8)
    squares = (x[:, None] - x[None]).square().sum(-1)
    return WellFormed(
        Problem(
            lambda a, k: (k @ a - y).square().mean() + 0.01 * a @ k @ a,
            lambda a, k: (k @ a - y.flip(0)).square().mean(),
            torch.zeros(8, dtype=dtype),
            Derived(lambda t: torch.exp(-squares * t.exp()), torch.tensor(-0.5, dtype=dtype)),
        ),
        steps=6,
    )
