"""The LDS learner: edge probabilities as outer variables of a graph network's training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lds._callbacks import Callback, Callbacks, EpochRecord, StepRecord
from lds._checks import check, check_integers, check_sizes
from lds._keywords import explained
from lds._memory import ROOM, too_large
from lds._random import EVALUATE, INIT, forked, mix, reseed
from lds._threads import one_where_small
from lds.data.prepare import ready
from lds.distributed import Sharded
from lds.errors import InputError
from lds.graph import AllPairs, GivenGraph, LearnedPairs, Structure, WeightedPairs, initial_weights
from lds.hypergrad import Noise, Problem, Reverse, record
from lds.learner._fit import Fit
from lds.learner._kept import Kept
from lds.learner._networks import Networks, Trained
from lds.learner._progress import Best, Progress, Resumable, no_fit, report_explosion, reproducible
from lds.learner._task import (
    Decay,
    ModelFactory,
    OuterTerm,
    Params,
    Task,
    TrainingLoss,
    TrainOn,
    check_decay,
    check_train_on,
)
from lds.nn import GCN
from lds.updaters import Adam, Objective, Updater, as_updater

if TYPE_CHECKING:
    from torch_geometric.data import Data

# Range of a learned inner learning rate, a + (b − a)·sigmoid(λ).
_LR_RANGE = (1e-4, 0.05)
# Tells the draws of a refit from those of an epoch, whose numbers are small.
_REFIT = 1 << 30
# Steps without improvement before the training of a network on the learned structure ends, as on a fixed graph.
_REFIT_PATIENCE = 100


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
        train_on: "train", or, where no structure is learned, "train+val" to train on the validation nodes too.
        folds: "fixed" trains the weights on the training nodes and chooses θ on the validation nodes; "rotating"
            shares out the nodes of both anew in every outer epoch, class by class and in the same numbers, so that θ
            cannot fit the labels of one half, and no label is seen for one purpose only.
        refit: networks to train from scratch on training and validation nodes once θ is learned, each stopped on the
            early-stopping nodes; the logits of the fit are their mean, its weights those of the best. The network of
            the best epoch stays where the early-stopping nodes say that it is at least as good, and with 0.
        self_training: with refit, share of the nodes predicted to be of a class, the most confident first, on which
            such networks are trained once more as if that was their label; kept where the early-stopping nodes say
            that it is better. 0 does not try.
        outer_term: what is added to the validation loss, a function of the data that returns a differentiable function
            of a sampled graph; nothing when None.
        graph: the initial graph, a function of the data: `GivenGraph()`, `KNNGraph(k, metric)`, or your own; it returns
            pairs, which start with probability 1, or `WeightedPairs`.
        edges: the structure, (num_nodes, initial edges, dtype=) -> structure; `AllPairs` by default.
        model: factory of the graph network, (number of features, number of classes) -> module called with (x, graph).
        updater: inner updater Φ; `Adam(inner_lr, eps=1e-5)` when None.
        inner_lr: learning rate of the default updater.
        learn_inner_lr: make the inner learning rate an outer variable too, in [1e-4, 0.05].
        weight_decay: λ of the inner penalty λ/2 ‖W_0‖².
        decay: "first", that penalty, or "all", on all parameters of the model.
        inner_steps: inner steps an outer epoch, at most; rounded up to whole windows of `interval` steps.
        inner_patience: windows in which the inner loss may fail to fall before the epoch ends.
        inner_tolerance: relative fall of the inner loss that counts.
        patience: outer epochs without improvement on the early-stopping nodes before learning ends.
        max_epochs: outer epochs, at most; unlimited when None.
        samples: graphs whose logits are averaged for a prediction.
        noise: "replay" or "resample", see `lds.hypergrad.sweep`.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> import lds
        >>> from lds.data import load
        >>> from lds.graph import KNNGraph
        >>> learner = lds.StructureLearner(graph=KNNGraph(10), inner_steps=10, max_epochs=1, samples=2)
        >>> fit = learner.fit(load("wine"), seed=0)
        >>> fit.accuracy("test") > 0.5
        True
    """

    tau: int = 5
    interval: int | None = None
    horizon: int | None = None
    outer_lr: float = 1.0
    outer_lr_decay: float = 1e-3
    learn_structure: bool = True
    train_on: TrainOn = "train"
    folds: Literal["fixed", "rotating"] = "fixed"
    refit: int = 0
    self_training: float = 0.0
    outer_term: OuterTerm | None = None
    graph: Callable[[Data], Tensor | WeightedPairs] = field(default_factory=GivenGraph)
    edges: Callable[..., Structure] = AllPairs
    model: ModelFactory = GCN
    updater: Updater | None = None
    inner_lr: float = 0.02
    learn_inner_lr: bool = False
    weight_decay: float = 5e-4
    decay: Decay = "first"
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
        check("refit", self.refit, "an integer >= 0", lambda x: isinstance(x, int) and x is not True and x >= 0)
        check("self_training", self.self_training, "in [0, 1]", lambda x: 0 <= x <= 1)
        if self.self_training and not self.refit:
            raise InputError(
                "self_training needs refit, networks to train on pseudo-labels, but refit is 0; give refit=5"
            )
        if self.folds not in ("fixed", "rotating"):
            raise InputError(f'folds must be "fixed" or "rotating", got {self.folds!r:.80}')
        if self.folds == "rotating" and not self.learn_structure:
            raise InputError('folds="rotating" needs learn_structure=True, since nothing else has folds; drop one')
        Reverse(self.horizon, noise=self.noise)  # Checks both.
        check_train_on(self.train_on)
        check_decay(self.decay)
        if self.learn_structure and self.train_on != "train":
            raise InputError(
                'train_on="train+val" needs learn_structure=False, since the labels of the validation nodes choose θ; '
                "drop one"
            )
        if self.learn_inner_lr:
            if self.updater is not None:
                raise InputError("learn_inner_lr=True needs the default updater, but an updater was given; drop one")
            a, b = _LR_RANGE
            check("inner_lr", self.inner_lr, f"between {a} and {b} to be learned", lambda x: a < x < b)

    @explained
    def fit(
        self,
        data: Data,
        *,
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        resume: Mapping[str, Any] | None = None,
    ) -> Fit:
        """Learn a structure for one data set.

        Args:
            data: PyG `Data` with x, y, edge_index and train_mask, val_mask, es_mask, test_mask (without es_mask, a half
                of val_mask becomes it, with a warning), in any form that
                `lds.data.prepare` takes.
            seed: seed of all randomness; the same seed gives the same bits on the same machine.
            callbacks: told of every outer step and epoch, and of the moments that learning could be resumed from; each
                may end learning, see `Callback`.
            resume: what one of them was given to resume from, for the same data and seed; learning goes on to the same
                bits.

        Raises:
            DataError: the data is inconsistent.
            InputError: the initial graph cannot be made, a pluggable part is not what it must be, or what to resume
                from belongs to something else.
            OuterStepError: a number is NaN or infinite; the error holds what it takes to run that step again.
        """
        listeners = Callbacks(callbacks)
        data = ready(data, weights=initial_weights(self.graph), seed=seed)
        task = self._task(data)
        outer = self._outer(task, data)
        if resume is None:
            progress = Progress(outer)
        else:
            progress = Progress.load(resume, outer, _initial_params(task, seed), as_updater(self._updater()))
            if self.max_epochs is not None and len(progress.history) > self.max_epochs:
                raise no_fit(f"{len(progress.history)} epochs have ended, more than max_epochs, {self.max_epochs}")
            resume = None  # It may hold more copies of θ.
        with one_where_small(task.multiplications):
            with (
                listeners.running(tuple(progress.history), progress.outer_step),
                task.nodes_as(train=task.train_nodes(self.train_on)),
            ):
                stop = False
                while not stop and progress.stale < self.patience and len(progress.history) != self.max_epochs:
                    stop = self._epoch(task, progress, seed, listeners)
                    listeners.on_resumable(Resumable(progress.live))
            return self._best(task, progress, seed)

    def _best(self, task: Task, progress: Progress, seed: int) -> Fit:
        """Return what was best on the early-stopping nodes, networks trained anew among it where that is asked for."""
        assert progress.best is not None
        structure: Structure = progress.outer["structure"]
        progress.best.theta.restore_(structure)
        best, history = progress.best, tuple(progress.history)
        number = max(epoch.epoch for epoch in history if epoch.improved)
        logits = self._mean_logits(task, best.params, structure, mix(seed, number))
        trained = Trained(best.params, logits, best.es_accuracy, best.es_loss, history[number - 1].inner_loss)
        if self.refit:
            trained = self._refit(task, progress.outer, seed, trained)
        if isinstance(structure, LearnedPairs):
            structure = structure.pairs_alone()
        return Fit(structure, trained.params, trained.logits, history, progress.outer_step, task.known)

    def _refit(self, task: Task, outer: dict[str, Any], seed: int, before: Trained) -> Trained:
        """Train new networks on the labels that weights and θ have used, θ held; return those before if better."""
        networks = Networks(
            task,
            outer=outer,
            inner=_objectives(task)[0],
            updater=self._updater(),
            draw=outer["structure"].draw,
            selection="es",
            steps=self.inner_steps,
            patience=_REFIT_PATIENCE,
            samples=self.samples,
        )
        seeds = [mix(seed, _REFIT, number) for number in range(self.refit)]
        with task.nodes_as(train=task.train_nodes("train+val")):
            return networks.train(seeds, self_training=self.self_training, rival=before)

    def _epoch(self, task: Task, progress: Progress, seed: int, listeners: Callbacks) -> bool:
        """Run one outer epoch, or what is left of it, and evaluate it; return whether a callback ends learning."""
        seed = mix(seed, progress.epoch)
        folds = task.folds(seed) if self.folds == "rotating" else {}
        with task.nodes_as(**folds):
            return self._epoch_on_folds(task, progress, seed, listeners)

    def _epoch_on_folds(self, task: Task, progress: Progress, seed: int, listeners: Callbacks) -> bool:
        epoch, structure = progress.epoch, progress.outer["structure"]
        params = _initial_params(task, seed)
        weights = sum(value.nbytes for value in params.values())
        recorded = min(self._reach, max(self._interval, self.inner_steps + self._interval))
        if recorded * weights > ROOM:
            raise too_large(
                f"{recorded} recorded steps of {weights} bytes of weights",
                recorded * weights,
                "lower tau or the horizon",
            )
        # A sweep over earlier windows needs iterates that no dump holds: only the start of the epoch can be saved.
        start = progress.kept() if self._reach > self._interval else None
        stop = False
        while progress.state is None or not (
            stop or progress.state.step >= self.inner_steps or progress.failures >= self.inner_patience
        ):
            with reproducible(progress, start):
                outer_loss = self._window(task, params, progress, seed)
            inner_loss = progress.inner_loss
            progress.outer_step += 1
            progress.failures = 0 if inner_loss < progress.least * (1 - self.inner_tolerance) else progress.failures + 1
            progress.least = min(progress.least, inner_loss)
            stop = listeners.on_step(
                StepRecord(epoch, progress.outer_step, inner_loss, outer_loss, structure.expected_edges)
            )
            listeners.on_resumable(Resumable(progress.live if start is None else partial(dict, start)))
        weights = progress.state.params
        logits = self._mean_logits(task, weights, structure, seed, task.nodes["es"])
        with reproducible(progress, start):
            accuracy, loss = task.judged(logits)
        best = progress.best
        # Of equal accuracies the lower loss wins, but only a higher accuracy renews the patience: a loss can go on
        # falling for ever.
        progress.stale = 0 if best is None or accuracy > best.es_accuracy else progress.stale + 1
        improved = best is None or (accuracy, -loss) > (best.es_accuracy, -best.es_loss)
        if improved:
            best = progress.best = None  # Frees the old copy of θ before the new one is made.
            progress.best = Best(weights, Kept.of(structure), accuracy, loss)
        progress.end_epoch()
        progress.history.append(
            EpochRecord(
                epoch, progress.outer_step, progress.inner_loss, accuracy, loss, structure.expected_edges, improved
            )
        )
        return listeners.on_epoch(progress.history[-1]) or stop

    def problem(self, data: Data, *, steps: int, seed: int = 0, theta: Tensor | None = None) -> Problem:
        """Return the bilevel problem of an outer epoch's first steps, to look at its hypergradient.

        Args:
            data: as for `fit`.
            steps: inner steps, from new weights, at a θ that stays as it is.
            seed: seed of the weights and of all draws.
            theta: edge probabilities, `structure.state()` of a fit; the initial graph when None.

        Raises:
            DataError, InputError: as for `fit`.
        """
        data = ready(data, weights=initial_weights(self.graph), seed=seed)
        task = self._task(data)
        outer = self._outer(task, data)
        if theta is not None:
            if isinstance(outer["structure"], LearnedPairs):
                outer["structure"] = outer["structure"].pairs_alone()
            outer["structure"].restore_(theta)
        seed = mix(seed, 1)
        params = _initial_params(task, seed)
        inner, outer_objective = _objectives(task)
        return Problem(inner, outer_objective, params, outer, self._updater(), steps, seed)

    def _task(self, data: Data) -> Task:
        shard = self.edges.features if isinstance(self.edges, Sharded) else None
        return Task(data, self.model, self.weight_decay, self.decay, shard=shard, outer_term=self.outer_term)

    def _outer(self, task: Task, data: Data) -> dict[str, Any]:
        """Return the outer variables at their initial values."""
        if self.edges is AllPairs and task.device.type == "cpu":
            AllPairs.require_room(task.num_nodes, task.dtype)  # Before a graph of so many nodes is made.
        pairs = self.graph(data)
        weighted = {} if isinstance(pairs, Tensor) else {"probability": pairs.probability}
        pairs = pairs if isinstance(pairs, Tensor) else pairs.pairs
        outer: dict[str, Any] = {"structure": self.edges(task.num_nodes, pairs, dtype=task.dtype, **weighted)}
        task.check_structure(outer["structure"])
        if self.learn_inner_lr:
            a, b = _LR_RANGE
            share = (self.inner_lr - a) / (b - a)
            outer["inner_lr"] = torch.tensor(math.log(share / (1 - share)), dtype=task.dtype, device=task.device)
        return outer

    @property
    def _interval(self) -> int:
        return self.tau if self.interval is None else self.interval

    @property
    def _reach(self) -> int:
        """Steps that the sweep goes back over."""
        if not self.learn_structure:
            return 0
        return self.tau if self.horizon is None else self.horizon

    def _window(self, task: Task, params: Params, progress: Progress, seed: int) -> float | None:
        """Take the inner steps of one window and one outer step; return the outer loss where there is one.

        The inner loss is the mean over the whole window whatever the horizon is, so that no horizon trains longer by
        noise alone.
        """
        inner, outer_objective = _objectives(task)
        outer, after = progress.outer, progress.trajectory
        trajectory = record(
            inner,
            params,
            outer,
            updater=self._updater(),
            steps=self._interval,
            horizon=self._reach,
            seed=seed,
            state=progress.state if after is None else None,
            after=after,
        )
        progress.trajectory, progress.state = trajectory, trajectory.final_state
        progress.inner_loss = trajectory.mean_loss
        if not self.learn_structure:
            return None
        result = Reverse(self._reach, noise=self.noise).differentiate(trajectory, outer_objective)
        report_explosion(progress, result.diagnostics)
        lr = self.outer_lr / (1 + self.outer_lr_decay * progress.outer_step)
        outer["structure"].project_(result.grad["structure"], lr)
        if "inner_lr" in outer:
            outer["inner_lr"] = outer["inner_lr"] - lr * result.grad["inner_lr"]
        return result.outer_loss

    def _mean_logits(
        self, task: Task, params: Params, structure: Structure, seed: int, nodes: Tensor | None = None
    ) -> Tensor:
        """Return the mean logits of some nodes, or of all, over the graphs by which an epoch of this seed is judged."""
        with forked(task.cuda):
            reseed(seed, EVALUATE, cuda=task.cuda)
            return task.mean_logits(params, structure.draw, self.samples, nodes)

    def _updater(self) -> Updater:
        if self.updater is not None:
            return self.updater
        a, b = _LR_RANGE
        lr = (lambda outer: a + (b - a) * outer["inner_lr"].sigmoid()) if self.learn_inner_lr else self.inner_lr
        return Adam(lr, eps=1e-5)


def _initial_params(task: Task, seed: int) -> Params:
    with forked(task.cuda):
        reseed(seed, INIT, cuda=task.cuda)
        return task.initial_params()


def _objectives(task: Task) -> tuple[Objective, Objective]:
    """Return the inner and the outer objective as functions of the weights and the outer variables."""

    def outer_objective(params: Params, outer: dict[str, Any]) -> Tensor:
        return task.outer_loss(params, outer["structure"])

    return TrainingLoss(task, itemgetter("structure")), outer_objective
