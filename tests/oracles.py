"""Answers that the engine did not compute: full unroll, central differences, closed forms; and problems to ask."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optree
import torch

from lds._random import DRAW, INIT, OUTER_DRAW, OUTER_STEP, STEP, cuda_devices, forked, reseed
from lds.updaters import State

DOUBLE = torch.float64


class Problem(NamedTuple):
    """The arguments that describe a bilevel problem."""

    inner: Callable[[Any, Any], torch.Tensor]
    outer_objective: Callable[[Any, Any], torch.Tensor]
    params: Any
    outer: Any


class Unrolled(NamedTuple):
    """What `unroll` returns."""

    grad: Any
    loss: float
    state: State


def regression(*, dropout=0.0, dtype=DOUBLE, seed=0, device="cpu"):
    """A small network in nested containers, and outer variables of every kind: weights, penalties, coefficients."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=DOUBLE).to(device, dtype)

    def number(x):
        return torch.tensor(x, dtype=dtype, device=device)

    x, y, x_val, y_val = normal(8, 3), normal(8, 2), normal(6, 3), normal(6, 2)
    params = {"layers": [{"w": normal(3, 4), "b": normal(4)}, (normal(4, 2),)], "scale": normal().exp()}
    outer = {
        "lr": number(0.05),
        "momentum": number(0.7),
        "betas": (number(0.8), number(0.9)),
        "log_penalty": [number(-3.0), normal(4, 2) - 3],
        "sample_weights": 0.2 * normal(8).exp(),
    }

    def network(params, x, rate):
        first, (last,) = params["layers"]
        hidden = torch.tanh(x @ first["w"] + first["b"])
        return params["scale"] * torch.nn.functional.dropout(hidden, rate, training=rate > 0) @ last

    def inner(params, outer):
        errors = (network(params, x, dropout) - y).square().sum(1)
        first, (last,) = params["layers"]
        penalties = outer["log_penalty"]
        penalty = penalties[0].exp() * first["w"].square().sum() + (penalties[1].exp() * last.square()).sum()
        return (outer["sample_weights"] * errors).mean() + penalty

    def outer_objective(params, outer):
        # Not every updater uses every coefficient.
        coefficients = outer["lr"], outer["momentum"], *outer["betas"]
        direct = 0.1 * outer["sample_weights"].square().sum() + sum(c**2 for c in coefficients)
        return (network(params, x_val, dropout) - y_val).square().mean() + direct

    return Problem(inner, outer_objective, params, outer)


def unroll(problem, updater, steps, *, horizon=None, seed=0, state=None, show=None):
    """The hypergradient by one graph through all steps; truncation detaches the state at T − horizon.

    Every step runs on the numbers that the engine gives it, so that dropout masks and samples are the same.
    `show` maps the outer variables to what Φ sees in a step; it may sample.
    """
    leaves, spec = optree.tree_flatten(problem.outer)
    leaves = [x.detach().clone().requires_grad_() for x in leaves]
    outer = optree.tree_unflatten(spec, leaves)
    cut = max(steps - (steps if horizon is None else horizon), 0)

    cuda = cuda_devices()

    def shown(step, stream=DRAW):
        reseed(seed, step, stream, cuda=cuda)
        return outer if show is None else show(outer)

    with forked(cuda), torch.enable_grad():
        if state is None:
            reseed(seed, INIT, cuda=cuda)
            params = detach(problem.params)
            state = State(params, updater.init(params))
        start, carried = state.step, leaf((state.params, state.slots))
        for t in range(steps):
            if t == cut:
                carried = leaf(carried)
            values = shown(start + t)
            reseed(seed, start + t, STEP, cuda=cuda)
            # Views: a gradient in one of them is not one in another that was computed from it.
            new = updater.step(State(*views(carried), start + t), values, problem.inner)
            carried = (new[0], new[1])
        if cut == steps:
            carried = detach(carried)
        values = shown(start + steps, OUTER_DRAW)
        reseed(seed, start + steps, OUTER_STEP, cuda=cuda)
        loss = problem.outer_objective(carried[0], values)
        grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return Unrolled(optree.tree_unflatten(spec, grads), loss.item(), State(*detach(carried), start + steps))


def views(tree):
    """Return a pytree whose tensors that require grad are views of what they were."""
    return optree.tree_map(lambda x: x.view_as(x) if isinstance(x, torch.Tensor) and x.requires_grad else x, tree)


def central_differences(problem, updater, steps, *, seed=0, eps=2e-6):
    """dF/dθ one coordinate at a time; float64 only."""
    leaves, spec = optree.tree_flatten(problem.outer)

    def loss(index, flat_index, change):
        moved = [x.clone() for x in leaves]
        moved[index].view(-1)[flat_index] += change
        asked = problem._replace(outer=optree.tree_unflatten(spec, moved))
        return unroll(asked, updater, steps, horizon=0, seed=seed).loss

    grads = [torch.zeros_like(x) for x in leaves]
    for index, grad in enumerate(grads):
        for i in range(grad.numel()):
            grad.view(-1)[i] = (loss(index, i, eps) - loss(index, i, -eps)) / (2 * eps)
    return optree.tree_unflatten(spec, grads)


def ridge(seed=0):
    """Ridge regression, its validation loss as a function of the log-regularisation, and that function's derivative.

    With H = XᵀX/n + e^λ I the minimiser is w* = H⁻¹Xᵀy/n, and dw*/dλ = −e^λ H⁻¹w*.
    """
    generator = torch.Generator().manual_seed(seed)
    x, x_val = (torch.randn(n, 5, generator=generator, dtype=DOUBLE) for n in (20, 10))
    y, y_val = (torch.randn(n, generator=generator, dtype=DOUBLE) for n in (20, 10))
    log_penalty = torch.tensor(-1.0, dtype=DOUBLE)
    penalty = log_penalty.exp()
    hessian = x.T @ x / 20 + penalty * torch.eye(5, dtype=DOUBLE)
    minimiser = torch.linalg.solve(hessian, x.T @ y / 20)
    slope = -penalty * torch.linalg.solve(hessian, minimiser)
    expected = (x_val @ minimiser - y_val) @ (x_val @ slope) / 10

    def inner(w, outer):
        return (x @ w - y).square().sum() / 40 + outer.exp() * w.square().sum() / 2

    def outer_objective(w, outer):
        return (x_val @ w - y_val).square().sum() / 20

    return Problem(inner, outer_objective, torch.zeros(5, dtype=DOUBLE), log_penalty), minimiser, expected


def detach(tree):
    """The same values, cut off from any graph."""
    return optree.tree_map(lambda x: x.detach() if isinstance(x, torch.Tensor) else x, tree)


def leaf(tree):
    """The same values as leaves of a new graph, which a step may differentiate by."""
    return optree.tree_map(
        lambda x: x.requires_grad_(x.is_floating_point()) if isinstance(x, torch.Tensor) else x, detach(tree)
    )


def relative_error(found, expected):
    """The largest error over all leaves, each relative to the largest entry of the expected leaf."""
    found, expected = optree.tree_leaves(found), optree.tree_leaves(expected)
    assert len(found) == len(expected)
    worst = 0.0
    for x, y in zip(found, expected, strict=True):
        assert x.shape == y.shape
        assert x.dtype == y.dtype
        error = (x - y).abs().max().item() if x.numel() else 0.0
        assert error == error, "not a number"
        worst = max(worst, error / y.abs().max().item() if error else 0.0) if y.any() else max(worst, float(error > 0))
    return worst


def same_bits(first, second):
    """Tell whether two pytrees have the same structure and the same leaves, bit for bit."""
    leaves, spec = optree.tree_flatten(first)
    others, other_spec = optree.tree_flatten(second)
    return spec == other_spec and all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(leaves, others, strict=True)
    )
