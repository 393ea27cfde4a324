"""Gradient clipping, as updaters around updaters."""

from __future__ import annotations

from dataclasses import dataclass

import optree
import torch
from torch import Tensor

from lds._updater import GradientUpdater, PyTree, State, as_updater
from lds.errors import InputError
from lds.updaters._coefficient import Coefficient, check_size, each, evaluate, resolve, spread


@dataclass(frozen=True)
class ClipByNorm(GradientUpdater):
    r"""Shrink the inner gradient to a largest norm, from Pascanu et al., https://arxiv.org/abs/1211.5063 (ICML 2013).

    .. math:: g \leftarrow g \cdot \min(1,\, c / \lVert g \rVert)

    with the 2-norm over all params. A gradient of zeros is left alone, and so is its derivative.
    `torch.nn.utils.clip_grad_norm_` has ‖g‖ + 1e-6 in the denominator; here the result has the norm c.

    Args:
        updater: what the clipped gradient is given to: an updater of the package, another wrapper, any
            `GradientUpdater`, or an optimizer of TorchOpt.
        max_norm: c; a constant, a function of the outer variables or a schedule. Its value is a scalar.

    Raises:
        InputError: the updater takes no gradient, or the constant is negative.

    Example:
        >>> import torch
        >>> from lds.updaters import SGD, ClipByNorm, State
        >>> updater, w = ClipByNorm(SGD(0.1), max_norm=1.0), torch.tensor(5.0)
        >>> state = updater.step(State(w, updater.init(w)), None, lambda w, outer: w**2)
        >>> state.params.detach()  # the gradient 10 becomes 1
        tensor(4.9000)
    """

    updater: GradientUpdater
    max_norm: Coefficient

    def __post_init__(self) -> None:
        object.__setattr__(self, "updater", gradient_updater(self, self.updater))
        check_size("max_norm", self.max_norm)

    def init(self, params: PyTree) -> PyTree:
        """Return the slots of the updater inside."""
        return self.updater.init(params)

    def update(self, grads: PyTree, state: State, outer: PyTree) -> State:
        """Return the state after one step of the updater inside along the clipped gradient."""
        g, spec = optree.tree_flatten(grads)
        bound = evaluate(self.max_norm, state.step, outer)
        if not (isinstance(bound, float | int) or (isinstance(bound, Tensor) and bound.ndim == 0)):
            came = f"a tensor of shape {tuple(bound.shape)}" if isinstance(bound, Tensor) else type(bound).__name__
            raise InputError(f"max_norm must be a number or a scalar tensor, one for all params, got {came}")
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(x) for x in g]))
        clipped = norm > bound
        # The quotient that is not taken must be finite all the same: its derivative is multiplied by zero.
        scale = torch.where(clipped, bound / torch.where(clipped, norm, 1.0), 1.0)
        g = each(lambda x, scale: x * scale, g, spread("max_norm", scale, g, grads))
        return self.updater.update(spec.unflatten(g), state, outer)


@dataclass(frozen=True)
class ClipByValue(GradientUpdater):
    r"""Clip every entry of the inner gradient to :math:`[-c, c]`, as `torch.nn.utils.clip_grad_value_` does.

    Args:
        updater: what the clipped gradient is given to, see `ClipByNorm`.
        max_value: c; a constant, a function of the outer variables or a schedule. Its value is a scalar for all params
            or a pytree like params.

    Raises:
        InputError: the updater takes no gradient, or the constant is negative.

    Example:
        >>> import torch
        >>> from lds.updaters import SGD, ClipByValue, State
        >>> updater, w = ClipByValue(SGD(0.1), max_value=1.0), torch.tensor(5.0)
        >>> state = updater.step(State(w, updater.init(w)), None, lambda w, outer: w**2)
        >>> state.params.detach()  # the gradient 10 becomes 1
        tensor(4.9000)
    """

    updater: GradientUpdater
    max_value: Coefficient

    def __post_init__(self) -> None:
        object.__setattr__(self, "updater", gradient_updater(self, self.updater))
        check_size("max_value", self.max_value)

    def init(self, params: PyTree) -> PyTree:
        """Return the slots of the updater inside."""
        return self.updater.init(params)

    def update(self, grads: PyTree, state: State, outer: PyTree) -> State:
        """Return the state after one step of the updater inside along the clipped gradient."""
        g, spec = optree.tree_flatten(grads)
        g = each(lambda x, bound: x.clamp(-bound, bound), g, resolve("max_value", self.max_value, g, state, outer))
        return self.updater.update(spec.unflatten(g), state, outer)


def gradient_updater(wrapper: object, inside: object) -> GradientUpdater:
    """Return an updater that can stand inside of another, which hands it the inner gradient."""
    updater = as_updater(inside)
    if not isinstance(updater, GradientUpdater):
        raise InputError(
            f"{type(wrapper).__name__} needs an updater that works on the inner gradient alone, got "
            f"{type(updater).__name__}; derive it from lds.updaters.GradientUpdater, or clip in its own step"
        )
    return updater
