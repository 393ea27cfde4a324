"""Kinks, zeros, scales, shapes and dtypes: places where a guard that compares differences might be misled."""

import torch
from torch import nn

from lds.hypergrad import functional
from lds.updaters import SGD, Adam
from tests.hypergrad.well_formed.base import EACH, FLOAT, WellFormed, case, normals
from tests.oracles import DOUBLE, Problem

CORNERS = (DOUBLE, FLOAT)


def scalar(name, inner, outer_objective, w, theta, *dtypes, updater=None, steps=3):
    """Register a problem on few numbers."""

    def build(dtype):
        return WellFormed(
            Problem(inner, outer_objective, torch.tensor(w, dtype=dtype), torch.tensor(theta, dtype=dtype)),
            updater or SGD(0.1),
            steps,
        )

    case(*(dtypes or CORNERS), name=name)(build)


def total(w, o):
    return (w - 1).square().sum() + (o * w).sum()


# Right on a kink, where torch takes one of the slopes.
scalar("relu at zero", lambda w, o: ((w * o).relu() - 1).square().sum() + w.sum(), total, [0.0, 0.5], [0.0, 1.0])
scalar("abs at zero", lambda w, o: (w * o).abs().sum() + w.square().sum(), total, [0.0, 0.5], [0.3, 0.0])
scalar("abs of zero weights", lambda w, o: (w - 1).square().sum() + o.exp() @ w.abs(), total, [0.0, 0.0], [0.1, 0.2])
scalar(
    "clamp at its bound",
    lambda w, o: (w.clamp(-0.5, 0.5) - o).square().sum() + w.sum() / 9,
    total,
    [0.5, -0.5],
    [1.0, 0.2],
)
scalar("clamp of theta at its bound", lambda w, o: (w - o.clamp(0, 1)).square().sum(), total, [0.2, 0.4], [0.0, 1.0])
scalar(
    "max of ties", lambda w, o: ((w * o).max() - 1).square() + w.square().sum(), total, [0.5, 0.5, 0.5], [1.0, 1.0, 1.0]
)
scalar("amax of ties", lambda w, o: ((w * o).amax() - 1).square() + w.square().sum(), total, [0.5, 0.5], [1.0, 1.0])
scalar(
    "minimum of ties", lambda w, o: torch.minimum(w, o).sum() + (w * o).square().sum(), total, [0.5, 0.1], [0.5, 0.1]
)
scalar("hard threshold", lambda w, o: ((w > 0.2) * (w - o)).square().sum() + w.sum() / 9, total, [0.3, 0.1], [1.0, 1.0])
scalar("rounding", lambda w, o: (w - o.round()).square().sum() + (w * o).sum(), total, [0.3, 0.1], [0.5, 1.5])
scalar("a norm", lambda w, o: (w - o).norm() + w.square().sum(), total, [0.5, 0.5], [0.5, 0.6])
scalar("sign", lambda w, o: (w.sign() * o - 1).square().sum() + (w * o).square().sum(), total, [0.0, -0.2], [0.3, 0.4])
scalar(
    "floor and remainder",
    lambda w, o: (w - o.remainder(1.0)).square().sum() + (w.floor() * o).sum(),
    total,
    [0.3, 1.1],
    [1.0, 2.5],
)
scalar(
    "smooth L1 of weights",
    lambda w, o: (w - 1).square().sum() + o.exp() @ (w.square() + 1e-6).sqrt(),
    total,
    [0.0, 0.0],
    [-1.0, -2.0],
)
# Zeros: a derivative that vanishes is no derivative that is missing.
scalar(
    "zero theta and weights",
    lambda w, o: (w * o).square().sum() + (w - 1).square().sum(),
    total,
    [0.0, 0.0],
    [0.0, 0.0],
)
scalar(
    "a derivative of zero",
    lambda w, o: ((w - 1).square() * (1 + o.square())).sum(),
    lambda w, o: (w - 1).square().sum(),
    [0.0, 0.0],
    [0.0, 0.0],
)
scalar(
    "at a minimum",
    lambda w, o: (w - 1).square().sum() * o.exp().sum(),
    lambda w, o: (w - 2).square().sum(),
    [1.0, 1.0],
    [0.3, 0.1],
)
scalar("a scalar weight", lambda w, o: (w - o).square(), lambda w, o: w.exp(), 0.0, 0.4)
scalar(
    "an unused outer variable", lambda w, o: (w - o[0]).square().sum(), lambda w, o: w.exp().sum(), [0.0], [0.4, 7.0]
)
# Scales.
scalar(
    "a tiny rate",
    lambda w, o: ((w - o).square() * (1 + w.sin())).sum(),
    lambda w, o: w.exp().sum(),
    [0.3, 0.1],
    [0.4, 0.2],
    updater=SGD(1e-6),
)
scalar(
    "large weights",
    lambda w, o: ((w / 1e4 - o).square()).sum() * 1e4,
    lambda w, o: (w / 1e4).exp().sum(),
    [1e4, -2e4],
    [0.4, 0.2],
    updater=SGD(10.0),
)
scalar(
    "small weights",
    lambda w, o: (w * 1e4 - o).pow(4).sum() * 1e-4,
    lambda w, o: (w * 1e4).exp().sum(),
    [1e-4, -2e-4],
    [0.4, 0.2],
    updater=SGD(1e-6),
)
scalar(
    "theta of two scales",
    lambda w, o: (w - o[0] * 1e-6).square().sum() + (o[1] * 1e6).tanh() * w.square().sum(),
    lambda w, o: w.exp().sum(),
    [0.3],
    [1e6, 1e-6],
)
scalar(
    "a large loss",
    lambda w, o: 1e8 * (w - o).square().sum(),
    lambda w, o: 1e8 * w.exp().sum(),
    [0.3],
    [0.4],
    updater=SGD(1e-9),
)
scalar(
    "a small loss",
    lambda w, o: 1e-12 * (w - o).square().sum(),
    lambda w, o: 1e-12 * w.exp().sum(),
    [0.3],
    [0.4],
    updater=SGD(1e11),
)
scalar(
    "stiff and flat",
    lambda w, o: (torch.tensor([1.0, 1e-4]) * (w - o).square()).sum() / 2,
    lambda w, o: w.square().sum(),
    [0.0, 0.0],
    [1.0, 1.0],
    updater=SGD(1.9),
    steps=20,
)
scalar(
    "costates that grow",
    lambda w, o: -(o.exp() * w.square()).sum() / 2,
    lambda w, o: w.exp().sum(),
    [1e-3],
    [-0.5],
    updater=SGD(0.5),
    steps=10,
)
scalar(
    "sensitive",
    lambda w, o: (30 * (w - o)).sin().sum(),
    lambda w, o: w.sum(),
    [0.3, 0.2],
    [0.1, 0.7],
    updater=SGD(0.01),
    steps=5,
)
scalar("exp of a large number", lambda w, o: (w + 20).exp().sum() * o.sum() * 1e-9, lambda w, o: w.sum(), [0.3], [0.5])


@case(*EACH)
def zero_initialised_network(dtype):
    """Zero weights under ReLU: every kink at once."""
    normal = normals(dtype)
    x, y = normal(6, 3), normal(6)
    params, call = functional(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).to(dtype))
    params = {k: torch.zeros_like(w) for k, w in params.items()}

    def inner(p, o):
        return (o * (call(p, x)[:, 0] - y).square()).mean()

    return WellFormed(
        Problem(inner, lambda p, o: (call(p, x)[:, 0] - 1).square().mean(), params, torch.ones(6, dtype=dtype))
    )


@case(*EACH)
def adam_at_zero_gradient(dtype):
    """Gradients of zero in the first step, where the root of Adam has its largest slope."""
    return WellFormed(
        Problem(
            lambda w, o: (w[:2] - o).square().sum() + 0 * w.sum(),
            lambda w, o: w.exp().sum(),
            torch.tensor([0.3, 0.1, 0.0], dtype=dtype),
            torch.tensor([0.3, 0.2], dtype=dtype),
        ),
        Adam(0.01, eps=1e-3),
        steps=4,
    )


@case()
def mixed_dtypes(dtype):
    """float32 and float64, in params and in θ."""
    normal = normals(dtype)
    x, y = normal(6, 3), normal(6)
    params = {"a": normal(3, 4).float(), "b": normal(4)}
    outer = {"penalty": torch.tensor(-2.0), "weights": normal(6).abs()}

    def predict(p):
        return torch.tanh(x @ p["a"].double()) @ p["b"]

    return WellFormed(
        Problem(
            lambda p, o: (
                (o["weights"] * (predict(p) - y).square()).mean() + o["penalty"].exp().double() * p["b"].square().sum()
            ),
            lambda p, o: (predict(p) - y.flip(0)).square().mean(),
            params,
            outer,
        ),
        tol=1e-5,
    )


@case()
def half_precision_inside(dtype):
    """A part of the objective in bfloat16, whose rounding is far above that of the params."""
    normal = normals(FLOAT)
    x, y = normal(6, 3), normal(6)
    return WellFormed(
        Problem(
            lambda w, o: (o * ((x.bfloat16() @ w.bfloat16()).float() - y).square()).mean(),
            lambda w, o: (x @ w - y).square().mean(),
            normal(3),
            torch.ones(6),
        ),
        tol=1e-2,
    )


@case()
def autocast_inside(dtype):
    normal = normals(FLOAT)
    x, y = normal(6, 3), normal(6)
    params, call = functional(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)))

    def inner(p, o):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return (o * (call(p, x)[:, 0].float() - y).square()).mean()

    return WellFormed(
        Problem(inner, lambda p, o: (call(p, x)[:, 0] - y).square().mean(), params, torch.ones(6)), tol=5e-2
    )


@case()
def complex_theta(dtype):
    w, theta = normals(dtype)(3), torch.tensor([0.3 + 0.4j, -0.2 + 0.1j, 1j], dtype=torch.complex128)
    return WellFormed(
        Problem(
            lambda w, o: ((w - 1) * o).abs().square().sum() + 0.1 * w.square().sum(),
            lambda w, o: w.square().sum() + o.abs().square().sum(),
            w,
            theta,
        )
    )


@case()
def complex_params(dtype):
    normal = normals(dtype)
    a, y = torch.complex(normal(4, 3), normal(4, 3)), torch.complex(normal(4), normal(4))
    return WellFormed(
        Problem(
            lambda w, o: (o * (a @ w - y).abs().square()).mean(),
            lambda w, o: (a @ w - y.conj()).abs().square().mean(),
            torch.complex(normal(3), normal(3)),
            normal(4).abs(),
        )
    )


@case(*EACH)
def transposed_and_expanded_params(dtype):
    """Strides other than those of a new tensor, in params and in θ."""
    normal = normals(dtype)
    params = {"t": normal(4, 3).T, "s": normal(8)[::2], "e": normal(1).expand(3)}
    outer = {"t": normal(3, 4).T, "s": normal(6)[1::2]}
    return WellFormed(
        Problem(
            lambda p, o: (p["t"] @ o["t"]).tanh().square().sum() + (p["s"].sum() * o["s"] - p["e"]).square().sum(),
            lambda p, o: sum((w - 1).square().sum() for w in p.values()),
            params,
            outer,
        ),
        SGD(0.05, momentum=0.5),
    )


@case(*EACH)
def empty_leaves(dtype):
    """A tensor without entries in params and in θ."""
    return WellFormed(
        Problem(
            lambda p, o: (p["w"] - o["t"]).square().sum() + p["nothing"].sum(),
            lambda p, o: p["w"].exp().sum() + o["nothing"].sum(),
            {"w": torch.zeros(2, dtype=dtype), "nothing": torch.zeros(0, 3, dtype=dtype)},
            {"t": torch.tensor([0.3, 0.1], dtype=dtype), "nothing": torch.zeros(0, dtype=dtype)},
        )
    )


@case()
def outer_without_leaves_of_use(dtype):
    """θ that only F reads: no step depends on it."""
    return WellFormed(
        Problem(
            lambda w, o: (w - 1).square().sum(),
            lambda w, o: (w * o).square().sum(),
            torch.zeros(2, dtype=dtype),
            torch.tensor([0.3, 0.1], dtype=dtype),
        )
    )


@case()
def params_that_f_ignores(dtype):
    return WellFormed(
        Problem(
            lambda p, o: (p["a"] - o).square().sum() + (p["b"] * p["a"]).square().sum(),
            lambda p, o: p["a"].exp().sum(),
            {"a": torch.ones(2, dtype=dtype), "b": torch.ones(2, dtype=dtype)},
            torch.tensor([0.3, 0.1], dtype=dtype),
        )
    )
