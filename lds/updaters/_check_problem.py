"""Bilevel problems to put updaters through."""

from __future__ import annotations

from typing import NamedTuple

import optree
import torch
from torch import Tensor

from lds.updaters._protocol import Objective, PyTree


class Problem(NamedTuple):
    """The arguments that describe a bilevel problem."""

    inner: Objective
    outer_objective: Objective
    params: PyTree
    outer: PyTree


def example() -> Problem:
    """Return a small network with nested params, a scalar among them, and outer variables for all coefficients."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, y, x_val, y_val = normal(8, 3), normal(8), normal(6, 3), normal(6)
    params = {"layers": [{"w": normal(3, 4), "b": normal(4)}, (normal(4),)], "scale": normal().exp()}
    outer = {
        "lr": torch.tensor(0.05, dtype=torch.float64),
        "momentum": torch.tensor(0.7, dtype=torch.float64),
        "betas": (torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.9, dtype=torch.float64)),
        "weight_decay": torch.tensor(0.01, dtype=torch.float64),
        "penalty": 0.1 * normal(4).exp(),
    }

    def errors(params: PyTree, x: Tensor, y: Tensor) -> Tensor:
        first, (last,) = params["layers"]
        error: Tensor = params["scale"] * torch.tanh(x @ first["w"] + first["b"]) @ last - y
        return error.square().mean()

    def inner(params: PyTree, outer: PyTree) -> Tensor:
        penalty: Tensor = (outer["penalty"] * params["layers"][1][0].square()).sum()
        return errors(params, x, y) + penalty

    return Problem(inner, lambda params, outer: errors(params, x_val, y_val), params, outer)


def quadratic(like: Problem, dtype: torch.dtype) -> Problem:
    """Return a quadratic problem in tensors of the same structure and another dtype."""

    def inner(params: PyTree, outer: PyTree) -> Tensor:
        return torch.stack([(x - 1).square().sum() for x in optree.tree_leaves(params)]).sum()

    params, outer = (optree.tree_map(lambda x: x.to(dtype), tree) for tree in (like.params, like.outer))
    return Problem(inner, inner, params, outer)


def half_used(like: Problem, scale: float) -> Problem:
    """Return a problem in tensors of the same structure, the inner objective of which uses every other weight.

    It is multiplied by a number between 0 and `scale` that depends on the outer variables.
    """

    def inner(params: PyTree, outer: PyTree) -> Tensor:
        weights = torch.cat([x.reshape(-1) for x in optree.tree_leaves(params)])
        variables = torch.cat([x.reshape(-1) for x in optree.tree_leaves(outer)])
        used = (torch.arange(len(weights), device=weights.device) % 2 == 0).to(weights.dtype)
        return scale * variables.sigmoid().mean() * (used * (weights - 3).square()).sum()

    def outer_objective(params: PyTree, outer: PyTree) -> Tensor:
        return torch.stack([x.square().sum() for x in optree.tree_leaves(params)]).sum()

    return Problem(inner, outer_objective, like.params, like.outer)
