"""Reverse mode: record, then sweep."""

from __future__ import annotations

from dataclasses import dataclass

from lds._random import forked
from lds.errors import InputError
from lds.hypergrad._arguments import Noise, check_count, check_memory, check_noise
from lds.hypergrad._backward import Sweep
from lds.hypergrad._diagnostics import SweepDiagnostics, inner_gradient_norm, remaining_share
from lds.hypergrad._finite import check_grad, explosion
from lds.hypergrad._problem import HypergradientResult, Problem
from lds.hypergrad._trajectory import Trajectory
from lds.hypergrad.memory import Memory
from lds.hypergrad.memory._tape import ResumableTape, closed_on_error
from lds.updaters import Objective


@dataclass(frozen=True)
class Reverse:
    r"""Reverse mode: record the last iterates, then sweep back over them (see `lds.hypergrad.sweep`).

    With `tol` the truncation is adaptive: the sweep stops as soon as the costates that are left, if they go on
    shrinking at the rate ρ of the last five steps, hold at most the share `tol` of those that were swept,

    .. math:: \|P_t\|\, \rho / (1-\rho) \le \text{tol} \sum_{s \ge t} \|P_s\|

    Args:
        horizon: truncation depth, the number of steps to sweep back over at most; None sweeps over all of them, and 0
            leaves the direct gradient ∂F/∂θ.
        tol: share of the costate norms that may be left out; None sweeps over the whole horizon.
        memory: what the recorder keeps, see `lds.hypergrad.memory`; `KeepGraphs()` when None.
        noise: "replay" repeats the draws of the recorded steps; "resample" makes new ones, as the published code did.
        check_replay: compare every recomputed state with the recorded one, by value.

    Raises:
        InputError: the horizon is no integer ≥ 0, tol is negative, the memory is no policy, or the noise is another
            word.
    """

    horizon: int | None = None
    tol: float | None = None
    memory: Memory | None = None
    noise: Noise = "replay"
    check_replay: bool = True

    def __post_init__(self) -> None:
        if self.horizon is not None:
            check_count("horizon", self.horizon)
        if self.tol is not None and not self.tol >= 0:
            raise InputError(f"tol must be a number >= 0 or None, got {self.tol!r}")
        check_memory(self.memory)
        check_noise(self.noise)

    def solve(self, problem: Problem) -> HypergradientResult[SweepDiagnostics]:
        """Run the inner problem and return the hypergradient."""
        trajectory = problem.record(self.horizon, self.memory)
        with closed_on_error(*(segment.tape for segment in trajectory.segments)):
            return self.differentiate(trajectory, problem.outer_objective)

    def differentiate(
        self, trajectory: Trajectory, outer_objective: Objective
    ) -> HypergradientResult[SweepDiagnostics]:
        """Return the hypergradient at the end of a trajectory that is recorded already.

        The second half of `hypergradient`, for a loop that goes on from its trajectories (`record(..., after=)`). What
        the recorder kept decides the horizon; `tol`, `noise` and `check_replay` are this method's.

        Args:
            trajectory: what `record` returned.
            outer_objective: F, (params, outer) -> scalar tensor.

        Raises:
            InputError, NumericalError, ReplayError: as for `sweep`.
        """
        run = Sweep(
            trajectory,
            outer_objective,
            noise=self.noise,
            check_replay=self.check_replay,
            initial_costate=False,
        )
        norms: list[float] = []
        with forked(trajectory.dynamics.cuda):
            for t in run:
                if self.tol is not None and t > 0:
                    norms.append(run.costate_norms.last())
                    if remaining_share(norms) <= self.tol:
                        break
            run.check_finite()
        grad = run.grad()
        check_grad(trajectory.dynamics.outer, grad, trajectory.steps - t)
        for segment in trajectory.segments:
            if isinstance(segment.tape, ResumableTape):
                segment.tape.remove()
        assert run.outer_loss is not None
        diagnostics = SweepDiagnostics(
            inner_losses=trajectory.inner_losses,
            _inner_gradient_norm=inner_gradient_norm(trajectory.dynamics, trajectory.final_state),
            steps_swept=trajectory.steps - t,
            costate_norms=run.costate_norms.totals(),
            contributions=run.contributions,
            replay_error=run.replay_error,
            explodes_at=explosion(run.param_norms),
        )
        return HypergradientResult(
            grad=grad,
            params=trajectory.final_state.params,
            outer_loss=run.outer_loss.item(),
            state=trajectory.final_state,
            diagnostics=diagnostics,
        )
