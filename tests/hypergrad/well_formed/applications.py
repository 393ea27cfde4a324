"""Bilevel problems of the literature, small."""

import torch
import torch.nn.functional as F
from torch import nn

from lds.hypergrad import Derived, Reverse, functional
from lds.updaters import SGD, Adam, State, gradient
from tests.hypergrad.well_formed.base import EACH, WellFormed, case, normals
from tests.oracles import Problem, ridge


def linear(dtype, seed=0, n=10, k=4):
    """Data of a linear regression: (x, y) to train on and to validate on."""
    normal = normals(dtype, seed)
    return normal(n, k), normal(n), normal(n, k), normal(n)


@case(*EACH)
def darts_cell(dtype):
    """Softmax mixtures of operations on every edge of a cell; Liu et al., DARTS."""
    normal = normals(dtype)
    x, y = normal(6, 4), normal(6)
    params = {"edges": [normal(4, 4) / 2 for _ in range(3)], "head": normal(4) / 2}
    outer = {"alpha": torch.zeros(3, 4, dtype=dtype)}

    def cell(p, o):
        nodes = [x]
        for i, (w, a) in enumerate(zip(p["edges"], o["alpha"], strict=True)):
            h = sum(nodes[: i + 1])
            ops = [h, torch.relu(h @ w), torch.tanh(h @ w), torch.zeros_like(h)]
            nodes.append(sum(p * op for p, op in zip(a.softmax(0), ops, strict=True)))
        return nodes[-1] @ p["head"]

    return WellFormed(
        Problem(
            lambda p, o: (cell(p, o)[:3] - y[:3]).square().mean() + 1e-3 * p["head"].square().sum(),
            lambda p, o: (cell(p, o)[3:] - y[3:]).square().mean(),
            params,
            outer,
        ),
        SGD(0.05, momentum=0.9),
        steps=4,
    )


@case(*EACH)
def dataset_distillation(dtype):
    """Learned inputs, soft labels and rate; Wang et al."""
    normal = normals(dtype)
    x, t = normal(12, 4), torch.arange(12) % 3
    outer = {"x": normal(3, 4), "labels": normal(3, 3), "log_lr": torch.tensor(-1.0, dtype=dtype)}
    return WellFormed(
        Problem(
            lambda w, o: F.cross_entropy(o["x"] @ w, o["labels"].softmax(1)),
            lambda w, o: F.cross_entropy(x @ w, t),
            torch.zeros(4, 3, dtype=dtype),
            outer,
        ),
        SGD(lambda o: o["log_lr"].exp()),
        steps=5,
    )


@case(*EACH)
def meta_weight_net(dtype):
    """A network that maps the loss of a sample to its weight; Shu et al."""
    x, y, x_val, y_val = linear(dtype)
    torch.manual_seed(1)
    theta, weigh = functional(nn.Sequential(nn.Linear(1, 6), nn.ReLU(), nn.Linear(6, 1), nn.Sigmoid()).to(dtype))

    def inner(w, o):
        losses = (x @ w - y).square()
        return (weigh(o, losses.detach()[:, None])[:, 0] * losses).mean()

    return WellFormed(
        Problem(inner, lambda w, o: (x_val @ w - y_val).square().mean(), torch.zeros(4, dtype=dtype), theta), steps=1
    )


@case(*EACH)
def reweighting_from_zero(dtype):
    """Weights that start at zero, one step; Ren et al."""
    x, y, x_val, y_val = linear(dtype)
    return WellFormed(
        Problem(
            lambda w, o: (o * (x @ w - y).square()).sum(),
            lambda w, o: (x_val @ w - y_val).square().mean(),
            normals(dtype, 5)(4),
            torch.zeros(10, dtype=dtype),
        ),
        steps=1,
    )


@case(*EACH)
def maml(dtype):
    """The initial weights as θ, with what is learned from there in params; Finn et al."""
    x, y, x_val, y_val = linear(dtype)
    normal = normals(dtype, 2)
    theta = {"a": normal(4, 5), "b": normal(5)}

    def predict(delta, theta, x):
        return torch.tanh(x @ (theta["a"] + delta["a"])) @ (theta["b"] + delta["b"])

    return WellFormed(
        Problem(
            lambda d, o: (predict(d, o, x) - y).square().mean(),
            lambda d, o: (predict(d, o, x_val) - y_val).square().mean(),
            {k: torch.zeros_like(v) for k, v in theta.items()},
            theta,
        )
    )


@case()
def maml_with_derived_initial_weights(dtype):
    """w_0 = h(θ), of a small hypernetwork."""
    x, y, x_val, y_val = linear(dtype)
    normal = normals(dtype, 2)
    basis = normal(4, 2)
    return WellFormed(
        Problem(
            lambda d, w: (x @ (w + d) - y).square().mean(),
            lambda d, w: (x_val @ (w + d) - y_val).square().mean(),
            torch.zeros(4, dtype=dtype),
            Derived(lambda t: (basis @ t).tanh(), normal(2)),
        ),
        steps=4,
    )


@case()
def implicit_maml(dtype):
    """A proximal term pulls the weights to θ; Rajeswaran et al."""
    x, y, x_val, y_val = linear(dtype)
    theta = normals(dtype, 3)(4)
    return WellFormed(
        Problem(
            lambda w, o: (x @ w - y).square().mean() + (w - o).square().sum(),
            lambda w, o: (x_val @ w - y_val).square().mean(),
            theta.clone(),
            theta,
        ),
        steps=5,
    )


@case(*EACH)
def soft_gumbel(dtype):
    """Relaxed samples of an architecture, a new one in every step."""
    x, y, x_val, y_val = linear(dtype)
    return WellFormed(
        Problem(
            lambda w, o: (x * F.gumbel_softmax(o, tau=0.7) @ w - y).square().mean(),
            lambda w, o: (x_val * F.gumbel_softmax(o, tau=0.7) @ w - y_val).square().mean(),
            normals(dtype, 3)(4),
            torch.zeros(4, dtype=dtype),
        ),
        steps=4,
        options={"seed": 3},
    )


@case(*EACH)
def hard_gumbel(dtype):
    """Discrete samples whose derivative is that of the relaxed ones: values and derivatives do not fit, on purpose."""
    x, y, x_val, y_val = linear(dtype)

    def loss(w, o, x, y):
        chosen = F.gumbel_softmax(o, tau=1.0, hard=True)
        return (torch.stack([x @ w, torch.tanh(x @ w), (x @ w) ** 2, 0 * y], 1) @ chosen - y).square().mean()

    return WellFormed(
        Problem(
            lambda w, o: loss(w, o, x, y) + 1e-2 * w.square().sum(),
            lambda w, o: loss(w, o, x_val, y_val),
            normals(dtype, 3)(4) / 3,
            normals(dtype, 4)(4),
        ),
        SGD(0.05),
        steps=4,
        options={"seed": 1},
    )


@case()
def straight_through_rounding(dtype):
    """Quantised weights whose derivative is taken as one."""
    x, y, x_val, y_val = linear(dtype)

    def quantised(w, scale):
        ratio = w / scale
        return scale * (ratio + (ratio.round() - ratio).detach())

    return WellFormed(
        Problem(
            lambda w, o: (x @ quantised(w, o) - y).square().mean(),
            lambda w, o: (x_val @ quantised(w, o) - y_val).square().mean(),
            normals(dtype, 3)(4),
            torch.tensor(0.3, dtype=dtype),
        ),
        meant=True,
    )


@case()
def straight_through_sign(dtype):
    """A sampled mask, the derivative of each entry by its probability taken as one."""
    x, y, x_val, y_val = linear(dtype)

    def masked(w, p):
        mask = torch.bernoulli(p.detach())
        return w * (mask + p - p.detach())

    return WellFormed(
        Problem(
            lambda w, o: (x @ masked(w, o) - y).square().mean() + 0.1 * w.square().sum(),
            lambda w, o: (x_val @ masked(w, o) - y_val).square().mean(),
            normals(dtype, 3)(4),
            torch.full((4,), 0.6, dtype=dtype),
        ),
        options={"seed": 2},
    )


@case(*EACH)
def label_noise(dtype):
    x, y, x_val, y_val = linear(dtype)
    return WellFormed(
        Problem(
            lambda w, o: (
                (x @ w - y - o["noise"].exp() * torch.randn(10).to(dtype)).square().mean()
                + o["decay"].exp() * w.square().sum()
            ),
            lambda w, o: (x_val @ w - y_val).square().mean(),
            torch.zeros(4, dtype=dtype),
            {"noise": torch.tensor(-1.0, dtype=dtype), "decay": torch.tensor(-2.0, dtype=dtype)},
        ),
        Adam(0.1),
        steps=6,
        options={"seed": 4},
    )


@case(*EACH)
def minibatches(dtype):
    """A minibatch a step, drawn from the generator of torch."""
    x, y, x_val, y_val = linear(dtype, n=20)

    def inner(w, o):
        i = torch.randint(20, (5,))
        return (o[i] * (x[i] @ w - y[i]).square()).mean()

    return WellFormed(
        Problem(
            inner,
            lambda w, o: (x_val @ w - y_val).square().mean(),
            torch.zeros(4, dtype=dtype),
            torch.ones(20, dtype=dtype),
        ),
        steps=5,
    )


@case()
def learned_augmentation(dtype):
    """Images turned by a learned angle, and stretched at random by a learned amount."""
    normal = normals(dtype)
    images, y, held_out = normal(4, 1, 5, 5), normal(4), normal(4, 1, 5, 5)
    params = {"conv": normal(2, 1, 3, 3) / 3, "head": normal(2)}

    def augmented(o):
        angle, stretch = o["angle"], 1 + o["log_stretch"].exp() * torch.randn((), dtype=dtype)
        cos, sin, zero = stretch * angle.cos(), angle.sin(), torch.zeros_like(angle)
        matrix = torch.stack([cos, -sin, zero, sin, cos, zero]).reshape(1, 2, 3).expand(4, 2, 3)
        return F.grid_sample(images, F.affine_grid(matrix, [4, 1, 5, 5], align_corners=False), align_corners=False)

    def predict(p, x):
        return F.conv2d(x, p["conv"]).relu().mean((2, 3)) @ p["head"]

    return WellFormed(
        Problem(
            lambda p, o: (predict(p, augmented(o)) - y).square().mean(),
            lambda p, o: (predict(p, held_out) - y).square().mean(),
            params,
            {"angle": torch.tensor(0.3, dtype=dtype), "log_stretch": torch.tensor(-2.0, dtype=dtype)},
        ),
        options={"seed": 5},
    )


@case()
def knowledge_distillation(dtype):
    """A frozen teacher, and a learned temperature and mixture."""
    x, _y, x_val, _y_val = linear(dtype)
    torch.manual_seed(0)
    teacher = nn.Linear(4, 3).to(dtype).requires_grad_(False)

    def inner(w, o):
        t = o["log_temperature"].exp()
        return t**2 * F.kl_div((x @ w / t).log_softmax(1), (teacher(x) / t).softmax(1), reduction="batchmean")

    return WellFormed(
        Problem(
            inner,
            lambda w, o: F.cross_entropy(x_val @ w, torch.arange(10) % 3),
            torch.zeros(4, 3, dtype=dtype),
            {"log_temperature": torch.tensor(0.5, dtype=dtype)},
        ),
        steps=4,
    )


@case()
def learned_loss(dtype):
    """A network as the inner loss of prediction and target."""
    x, y, x_val, y_val = linear(dtype)
    torch.manual_seed(0)
    theta, learned = functional(nn.Sequential(nn.Linear(2, 5), nn.Softplus(), nn.Linear(5, 1, bias=False)).to(dtype))
    return WellFormed(
        Problem(
            lambda w, o: learned(o, torch.stack([x @ w, y], 1)).mean(),
            lambda w, o: (x_val @ w - y_val).square().mean(),
            torch.zeros(4, dtype=dtype),
            theta,
        ),
        steps=4,
    )


@case()
def truncated_hyper_cleaning(dtype):
    """Weights of noisy samples by a sigmoid, with a horizon below the number of steps."""
    normal = normals(dtype)
    x, t, x_val, t_val = normal(12, 4), torch.arange(12) % 3, normal(9, 4), torch.arange(9) % 3
    return WellFormed(
        Problem(
            lambda w, o: (o.sigmoid() * F.cross_entropy(x @ w, t, reduction="none")).mean() + 1e-3 * w.square().sum(),
            lambda w, o: F.cross_entropy(x_val @ w, t_val),
            torch.zeros(4, 3, dtype=dtype),
            torch.zeros(12, dtype=dtype),
        ),
        SGD(0.5, momentum=0.8),
        steps=12,
        options={"method": Reverse(horizon=5)},
    )


class TwoPlayers:
    """Both players step at once, each down its own loss, as those of a GAN do."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        p = state.params
        forward = gradient(inner, p, outer)
        return State({"g": p["g"] - outer["lr"] * forward["g"], "d": p["d"] + outer["lr"] * forward["d"]})


@case()
def two_players(dtype):
    normal = normals(dtype)
    noise, real = normal(8, 2), normal(8, 3)

    def game(p, o):
        fake = torch.tanh(noise @ p["g"])
        scores = F.softplus(-(real @ p["d"])).mean() + F.softplus(fake @ p["d"]).mean()
        return -scores - o["log_penalty"].exp() * p["d"].square().sum()

    return WellFormed(
        Problem(
            game,
            lambda p, o: (torch.tanh(noise @ p["g"]).mean(0) - real.mean(0)).square().sum(),
            {"g": normal(2, 3), "d": normal(3)},
            {"lr": torch.tensor(0.1, dtype=dtype), "log_penalty": torch.tensor(-2.0, dtype=dtype)},
        ),
        TwoPlayers(),
        steps=4,
    )


@case()
def a_gradient_penalty(dtype):
    """A second derivative inside of the inner objective, a third one in the sweep."""
    normal = normals(dtype)
    x, y = normal(6, 3), normal(6)

    def inner(p, o):
        points = x.clone().requires_grad_()
        out = torch.tanh(points @ p["a"]) @ p["b"]
        (slope,) = torch.autograd.grad(out.sum(), points, create_graph=True)
        return (out - y).square().mean() + o.exp() * slope.square().sum(1).mean()

    return WellFormed(
        Problem(
            inner,
            lambda p, o: (torch.tanh(x @ p["a"]) @ p["b"] - y.flip(0)).square().mean(),
            {"a": normal(3, 4), "b": normal(4)},
            torch.tensor(-2.0, dtype=dtype),
        )
    )


@case()
def ridge_in_closed_form(dtype):
    problem, _, expected = ridge()
    return WellFormed(problem, SGD(0.5), steps=200, expected=expected)
