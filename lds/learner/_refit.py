"""New networks on a learned structure, trained on the labels that training and θ have used."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lds._random import EVALUATE, INIT, forked, mix, reseed
from lds.graph import Structure
from lds.hypergrad import record
from lds.learner._task import Params, Task
from lds.updaters import Objective, State, Updater

# Inner steps between two looks at the early-stopping nodes, and steps without improvement before training ends.
_WINDOW = 10
_PATIENCE = 100


def refit(
    task: Task,
    outer: dict[str, Any],
    inner: Objective,
    updater: Updater,
    *,
    networks: int,
    steps: int,
    samples: int,
    seed: int,
) -> tuple[Params, Tensor]:
    """Train networks on training and validation nodes, θ held, each on freshly drawn graphs.

    Each is taken at the step with the best early-stopping accuracy, of equals at the lowest loss.

    Args:
        task: model and data.
        outer: the outer variables at their final values.
        inner: the inner objective.
        updater: the inner updater.
        networks: their number, each with initial weights of its own.
        steps: inner steps of a network, at most.
        samples: graphs averaged for a prediction.
        seed: seed of the training.

    Returns:
        The weights of the network with the best early-stopping accuracy, and the mean logits of all.
    """
    structure: Structure = outer["structure"]
    best: tuple[tuple[float, float], Params] | None = None
    total: Tensor | None = None
    with task.nodes_as(train=task.train_nodes("train+val")):
        for number in range(networks):
            score, params, logits = _one(
                task, structure, outer, inner, updater, steps, samples, mix(seed, _REFIT, number)
            )
            total = logits if total is None else total + logits
            if best is None or score > best[0]:
                best = score, params
    assert best is not None
    assert total is not None
    return best[1], total / networks


# Tells these draws from those of an epoch, whose numbers are small.
_REFIT = 1 << 30


def _one(
    task: Task,
    structure: Structure,
    outer: dict[str, Any],
    inner: Objective,
    updater: Updater,
    steps: int,
    samples: int,
    seed: int,
) -> tuple[tuple[float, float], Params, Tensor]:
    """Train one network; return its early-stopping accuracy and loss with the sign changed, weights and logits."""
    with forked(task.cuda):
        reseed(seed, INIT, cuda=task.cuda)
        params = task.initial_params()
    state: State | None = None
    best: tuple[tuple[float, float], Params, Tensor] | None = None
    step = stale = 0
    while step < steps and stale < _PATIENCE:
        window = min(_WINDOW, steps - step)
        trajectory = record(inner, params, outer, updater=updater, steps=window, horizon=0, seed=seed, state=state)
        state, step, stale = trajectory.final_state, step + window, stale + window
        with forked(task.cuda):
            reseed(seed, EVALUATE, cuda=task.cuda)
            logits = task.mean_logits(state.params, structure.draw, samples)
        accuracy, loss = task.early_stopping(logits)
        if best is None or (accuracy, -loss) > best[0]:
            stale = 0
            best = (accuracy, -loss), state.params, logits
    assert best is not None
    return best
