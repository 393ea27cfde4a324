"""The LDS learner: edge probabilities as outer variables of a graph network's training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lds._random import EVALUATE, INIT, forked, mix, reseed
from lds.errors import InputError
from lds.graph import AllPairs, GivenGraph, Structure
from lds.hypergrad import Noise, Reverse, Trajectory, record
from lds.learner._arguments import check, check_integers, check_sizes
from lds.learner._fit import Best, Callback, EpochRecord, Fit, StepRecord
from lds.learner._task import ModelFactory, Params, Task
from lds.nn import GCN
from lds.updaters import Adam, Updater

if TYPE_CHECKING:
    from torch_geometric.data import Data

# Range of a learned inner learning rate, a + (b − a)·sigmoid(λ).
_LR_RANGE = (1e-4, 0.05)


@dataclass(frozen=True)
class StructureLearner:
    r"""Learn a graph structure together with a graph network.

    Franceschi, Niepert, Pontil, He, `Learning Discrete Structures for Graph Neural Networks
    <https://arxiv.org/abs/1903.11960>`_ (ICML 2019):

    .. math::
        \min_\theta \mathbb E_{A \sim \mathrm{Ber}(\theta)} F(w_\theta, A) \quad\text{with}\quad
        w_\theta \approx \arg\min_w \mathbb E_{A \sim \mathrm{Ber}(\theta)} L(w, A)

    An outer epoch trains the weights from scratch, each inner step on a freshly drawn graph; every `interval` inner
    steps θ takes a projected gradient step along the hypergradient of the validation loss, swept over the last
    `horizon` steps of the epoch. The result is the epoch with the best early-stopping accuracy.

    Args:
        tau: sets interval and horizon, where these are None.
        interval: inner steps between two updates of θ.
        horizon: steps that the sweep goes back over; longer than the interval, it goes over earlier windows too, at
            the graphs that were drawn in them.
        outer_lr: step size η_0 of θ; step k (from 0) uses η_0 / (1 + outer_lr_decay·k).
        outer_lr_decay: see `outer_lr`.
        learn_structure: False keeps θ at its initial value, all else the same (the `frozen` baseline).
        graph: the initial graph, a function of the data: `GivenGraph()`, `KNNGraph(k, metric)`, or your own.
        edges: the structure, (num_nodes, initial edges, dtype=) -> structure; `AllPairs` by default.
        model: factory of the graph network, (number of features, number of classes) -> module called with (x, graph).
        updater: inner updater Φ; `Adam(inner_lr, eps=1e-5)` when None.
        inner_lr: learning rate of the default updater.
        learn_inner_lr: make the inner learning rate an outer variable too, in [1e-4, 0.05].
        weight_decay: λ of the inner penalty λ/2 ‖W_0‖².
        inner_steps: inner steps an outer epoch, at most; rounded up to whole windows of `interval` steps.
        inner_patience: windows in which the inner loss may fail to fall before the epoch ends.
        inner_tolerance: relative fall of the inner loss that counts.
        patience: outer epochs without improvement on the early-stopping nodes before learning ends.
        max_epochs: outer epochs, at most; unlimited when None.
        samples: graphs whose logits are averaged for a prediction.
        noise: "replay" or "resample", see `lds.hypergrad.sweep`.

    Raises:
        InputError: an argument is out of range.
    """

    tau: int = 5
    interval: int | None = None
    horizon: int | None = None
    outer_lr: float = 1.0
    outer_lr_decay: float = 1e-3
    learn_structure: bool = True
    graph: Callable[[Data], Tensor] = field(default_factory=GivenGraph)
    edges: Callable[..., Structure] = AllPairs
    model: ModelFactory = GCN
    updater: Updater | None = None
    inner_lr: float = 0.02
    learn_inner_lr: bool = False
    weight_decay: float = 5e-4
    inner_steps: int = 400
    inner_patience: int = 20
    inner_tolerance: float = 1e-3
    patience: int = 20
    max_epochs: int | None = None
    samples: int = 16
    noise: Noise = "replay"

    def __post_init__(self) -> None:
        check_integers(self, "tau", "inner_steps", "inner_patience", "patience", "samples")
        check_sizes(self, "outer_lr", "outer_lr_decay", "inner_lr", "weight_decay", "inner_tolerance")
        for name in ("max_epochs", "interval"):
            if getattr(self, name) is not None:
                check_integers(self, name)
        Reverse(self.horizon, noise=self.noise)  # Checks both.
        if self.learn_inner_lr:
            if self.updater is not None:
                raise InputError("learn_inner_lr=True needs the default updater, but an updater was given; drop one")
            a, b = _LR_RANGE
            check("inner_lr", self.inner_lr, f"between {a} and {b} to be learned", lambda x: a < x < b)

    def fit(self, data: Data, *, seed: int = 0, callbacks: Sequence[Callback] = ()) -> Fit:
        """Learn a structure for one data set.

        Args:
            data: PyG `Data` with x, y, edge_index and boolean train_mask, val_mask, es_mask, test_mask.
            seed: seed of all randomness; the same seed gives the same bits on the same machine.
            callbacks: told of every outer step and epoch.

        Raises:
            DataError: the data is inconsistent.
            InputError: the initial graph cannot be made, or a pluggable part is not what it must be.
        """
        task = Task(data, self.model, self.weight_decay)
        structure = self.edges(task.num_nodes, self.graph(data), dtype=task.dtype)
        outer: dict[str, Any] = {"structure": structure}
        if self.learn_inner_lr:
            a, b = _LR_RANGE
            share = (self.inner_lr - a) / (b - a)
            outer["inner_lr"] = torch.tensor(math.log(share / (1 - share)), dtype=task.dtype, device=task.device)

        best: Best | None = None
        history: list[EpochRecord] = []
        outer_step = stale = 0
        while stale < self.patience and len(history) != self.max_epochs:
            epoch = len(history) + 1
            epoch_seed = mix(seed, epoch)
            with forked(task.cuda):
                reseed(epoch_seed, INIT, cuda=task.cuda)
                params = task.initial_params()
            trajectory: Trajectory | None = None
            least, failures = math.inf, 0
            while trajectory is None or (trajectory.steps < self.inner_steps and failures < self.inner_patience):
                trajectory, inner_loss, outer_loss = self._window(
                    task, params, outer, trajectory, epoch_seed, outer_step
                )
                outer_step += 1
                failures = 0 if inner_loss < least * (1 - self.inner_tolerance) else failures + 1
                least = min(least, inner_loss)
                step_record = StepRecord(epoch, outer_step, inner_loss, outer_loss, structure.expected_edges)
                for callback in callbacks:
                    callback.on_step(step_record)
            weights = trajectory.final_state.params
            with forked(task.cuda):
                reseed(epoch_seed, EVALUATE, cuda=task.cuda)
                logits = task.mean_logits(weights, structure.draw, self.samples)
            accuracy, loss = task.accuracy(logits, "es"), task.loss(logits, "es").item()
            # The loss breaks ties, but only accuracy buys time: a loss can go on falling for ever.
            stale = 0 if best is None or accuracy > best.es_accuracy else stale + 1
            improved = best is None or (accuracy, -loss) > (best.es_accuracy, -best.es_loss)
            if improved:
                best = None  # Frees the old copy of θ before the new one is made.
                best = Best(weights, logits, structure.state(), accuracy, loss)
            history.append(
                EpochRecord(epoch, outer_step, inner_loss, accuracy, loss, structure.expected_edges, improved)
            )
            for callback in callbacks:
                callback.on_epoch(history[-1])
        assert best is not None
        structure.restore_(best.theta)
        return Fit(structure, best.params, best.logits, tuple(history), outer_step, task)

    def _window(
        self,
        task: Task,
        params: Params,
        outer: dict[str, Any],
        after: Trajectory | None,
        seed: int,
        outer_step: int,
    ) -> tuple[Trajectory, float, float | None]:
        """Take the inner steps of one window and one outer step; return the trajectory, the mean inner and outer loss.

        The mean is over the whole window whatever the horizon is, so that no horizon trains longer by noise alone.
        """
        losses: list[Tensor] = []

        def inner(params: Params, outer: dict[str, Any]) -> Tensor:
            loss = task.inner_loss(params, outer["structure"])
            losses.append(loss.detach())
            return loss

        def outer_objective(params: Params, outer: dict[str, Any]) -> Tensor:
            return task.outer_loss(params, outer["structure"])

        interval = self.tau if self.interval is None else self.interval
        horizon = (self.tau if self.horizon is None else self.horizon) if self.learn_structure else 0
        trajectory = record(
            inner, params, outer, updater=self._updater(), steps=interval, horizon=horizon, seed=seed, after=after
        )
        inner_loss = math.fsum(torch.stack(losses).tolist()) / len(losses)
        if not self.learn_structure:
            return trajectory, inner_loss, None
        result = Reverse(horizon, noise=self.noise).differentiate(trajectory, outer_objective)
        lr = self.outer_lr / (1 + self.outer_lr_decay * outer_step)
        outer["structure"].project_(result.grad["structure"], lr)
        if "inner_lr" in outer:
            outer["inner_lr"] = outer["inner_lr"] - lr * result.grad["inner_lr"]
        return trajectory, inner_loss, result.outer_loss

    def _updater(self) -> Updater:
        if self.updater is not None:
            return self.updater
        a, b = _LR_RANGE
        lr = (lambda outer: a + (b - a) * outer["inner_lr"].sigmoid()) if self.learn_inner_lr else self.inner_lr
        return Adam(lr, eps=1e-5)
