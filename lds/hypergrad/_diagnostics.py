"""What a method returns: the hypergradient, what was noticed on the way, and what follows for the horizon."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Generic, Protocol, TypeVar

from lds._show import Shown
from lds._updater import PyTree, State
from lds.errors import InputError
from lds.hypergrad._outer import identity
from lds.hypergrad._record import Diagnostics, Problem

# Costate norms oscillate under momentum: a rate is taken over as many steps.
RATE_STEPS = 5


D = TypeVar("D", bound=Diagnostics)


def no_params_grad() -> PyTree:
    """Stand for the gradient in w_0 where a method has none."""
    raise InputError(
        "params_grad needs a method that goes back to w_0, but this one has no derivative there; use Reverse() over "
        "all steps"
    )


@dataclass(frozen=True, repr=False)
class HypergradientResult(Shown, Generic[D]):
    """What `hypergradient` returns.

    Attributes:
        grad: pytree like `outer`, dF/dθ.
        params: w_T.
        outer_loss: F(w_T, θ).
        state: the whole final state; pass it as `state=` for a warm start.
        diagnostics: what the method noticed.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> result = hypergradient(*problem, updater=SGD(0.25), steps=2)
        >>> result.outer_loss, result.grad, result.params_grad  # F(w_T, θ), dF/dθ, dF/dw_0
        (0.390625, tensor(0.9375), tensor(0.3125))
    """

    grad: PyTree
    params: PyTree
    outer_loss: float
    state: State
    diagnostics: D
    _params_grad: Callable[[], PyTree] = field(default=no_params_grad, repr=False, compare=False)

    @cached_property
    def params_grad(self) -> PyTree:
        """dF/dw_0, a pytree like `params`; computed when first asked for.

        `Reverse` over all steps gives it, for one more step of the sweep; until then the result keeps P_1 and w_0,
        twice the size of a state, and no graph. `Implicit` gives zeros: a fixed point does not depend on where one
        began. `Forward`, `FiniteDifference` and a truncated sweep have none. After a warm start, w_0 is the params of
        the state that was given, and its slots are constants.

        Raises:
            InputError: there is none, or an outer variable was changed in place since.
            NumericalError: it is NaN or infinite.
        """
        found = self._params_grad()
        vars(self)["_params_grad"] = partial(identity, found)  # Lets go of P_1 and w_0.
        return found


class Method(Protocol[D]):
    """A way to differentiate through the inner problem.

    Example:
        >>> import torch
        >>> from lds.hypergrad import Method, Reverse
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hasattr(Reverse(), "solve")  # whatever has this method may be `method=`
        True
    """

    def solve(self, problem: Problem) -> HypergradientResult[D]:
        """Run the inner problem and return the hypergradient."""
        ...


@dataclass(repr=False)
class SweepDiagnostics(Diagnostics):
    """What a sweep notices; lists are by depth k = 0 … steps_swept.

    Attributes:
        steps_swept: number of steps that the sweep went back over.
        costate_norms: ‖P_{T−k}‖ over the whole state. It bounds what deeper steps can still add; that of w_0, below
            which there are none, is left out.
        contributions: ‖G_{T−k} − G_{T−k+1}‖, and ‖G_T‖ at k = 0: what each step added, of a `Derived` on the derived
            value; None where an outer variable draws.
        replay_error: largest relative difference between a recomputed and a recorded state; None if none was compared.
        explodes_at: the first depth at which the costate of the params is more than a million times as large as at
            depth 0; None if there is none. In single precision, what the last steps add to the hypergradient has by
            then one digit left: take a smaller horizon, or smaller steps.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> diagnostics = hypergradient(*problem, updater=SGD(0.25), steps=2).diagnostics
        >>> diagnostics.steps_swept, diagnostics.costate_norms
        (2, [1.25, 0.625])
    """

    steps_swept: int
    costate_norms: list[float]
    contributions: list[float] | None
    replay_error: float | None
    explodes_at: int | None = None

    @property
    def contraction(self) -> float:
        r"""Estimated contraction ρ of Φ, :math:`\|P_{t-1}\| \approx \rho\, \|P_t\|`, from the deeper half.

        Below 1 truncation converges; above 1 costates explode. NaN where fewer than two costates are left.
        """
        norms = self.costate_norms
        return _slope(norms[min(len(norms) // 2, max(len(norms) - 2, 0)) :])

    def suggested_horizon(self, tol: float = 0.01) -> int | None:
        """Return the least horizon that leaves out at most the share `tol` of all costate norms.

        Beyond the steps swept, norms are taken to go on shrinking by `contraction`; None if they do not shrink.
        """
        norms = self.costate_norms
        for k in range(len(norms)):
            if remaining_share(norms[: k + 1]) <= tol:
                return k
        rate = self.contraction
        if not rate < 1:
            return None
        # Norms p ρ, p ρ², … beyond the last one, p, add up to the tail p ρ/(1 − ρ). After n further steps tail · ρⁿ is
        # left, which is at most tol · (sum + tail) from n = log(tol · (sum + tail) / tail) / log ρ on.
        tail = norms[-1] * rate / (1 - rate)
        return len(norms) - 1 + math.ceil(math.log(tol * (sum(norms) + tail) / tail) / math.log(rate))


def remaining_share(norms: Sequence[float]) -> float:
    r"""Return what deeper steps hold of the costate norms, relative to those seen, if they shrink as the last ones did.

    .. math:: \frac{p_k\, \rho / (1-\rho)}{\sum_{j \le k} p_j}, \qquad \rho = (p_k / p_{k-5})^{1/5}

    Infinite where nothing can be told: too few norms, or norms that do not shrink.
    """
    if norms[-1] == 0:
        return 0.0
    if len(norms) <= RATE_STEPS or not norms[-1] < norms[-1 - RATE_STEPS]:
        return math.inf
    rate: float = (norms[-1] / norms[-1 - RATE_STEPS]) ** (1 / RATE_STEPS)
    return norms[-1] * rate / (1 - rate) / math.fsum(norms)


def _slope(norms: Sequence[float]) -> float:
    """Return ρ of the least-squares line through log p_k."""
    points = [(k, math.log(p)) for k, p in enumerate(norms) if p > 0 and math.isfinite(p)]
    if len(points) < 2:
        return math.nan
    mean_k = sum(k for k, _ in points) / len(points)
    mean_log = sum(y for _, y in points) / len(points)
    slope = sum((k - mean_k) * (y - mean_log) for k, y in points) / sum((k - mean_k) ** 2 for k, _ in points)
    return math.exp(slope)


def plot_diagnostics(diagnostics: SweepDiagnostics, ax: Any = None) -> Any:
    """Plot costate norms and contributions by depth on a log axis; return the matplotlib `Axes`.

    Args:
        diagnostics: of a result of `Reverse`.
        ax: axes to draw on; new ones when None.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient, plot_diagnostics
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> axes = plot_diagnostics(hypergradient(*problem, updater=SGD(0.25), steps=9).diagnostics)  # doctest: +SKIP
    """
    import matplotlib.pyplot as plt

    ax = plt.subplots(figsize=(6, 4), layout="constrained")[1] if ax is None else ax
    depths = range(diagnostics.steps_swept + 1)
    ax.semilogy(
        depths[: len(diagnostics.costate_norms)], diagnostics.costate_norms, "o-", ms=3, label=r"costate $\|P_{T-k}\|$"
    )
    if diagnostics.contributions is not None:
        ax.semilogy(depths, diagnostics.contributions, "s-", ms=3, label=r"contribution $\|G_{T-k} - G_{T-k+1}\|$")
    horizon = diagnostics.suggested_horizon()
    if horizon is not None and horizon < len(depths):
        ax.axvline(horizon, color="gray", ls=":", label=f"suggested horizon (1 %): {horizon}")
    ax.set(xlabel="depth k", title=f"contraction of Φ ≈ {diagnostics.contraction:.3g} a step")
    ax.legend()
    return ax
