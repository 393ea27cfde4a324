"""The baseline: a graph network on a fixed graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lds._callbacks import Callback, Callbacks, EpochRecord
from lds._checks import check, check_integers, check_sizes
from lds._keywords import explained
from lds._random import forked, mix
from lds._threads import one_where_small
from lds.data.prepare import ready
from lds.errors import InputError
from lds.graph import CandidatePairs, GivenGraph, SampledGraph, WeightedPairs, initial_weights
from lds.graph._pairs import canonical_pairs
from lds.learner._fit import Fit
from lds.learner._networks import Networks
from lds.learner._task import Decay, ModelFactory, Params, Task, TrainingLoss, TrainOn, check_decay, check_train_on
from lds.nn import GCN
from lds.updaters import Adam, Updater

if TYPE_CHECKING:
    from torch_geometric.data import Data


@dataclass(frozen=True)
class FixedGraphLearner:
    r"""Train a graph network once on a fixed graph, as a plain GCN is trained.

    The same model, inner objective and updater as `StructureLearner`. The validation nodes, whose labels structure
    learning spends on θ, go into choosing when to stop here, with the early-stopping ones; or, with
    `train_on="train+val"`, into training, and the early-stopping nodes alone choose. The latter is the fair control of
    structure learning: both methods then see the same labels, for the same two purposes, to learn and to stop.

    With random edges every step of training sees the graph with others added, drawn anew; predictions are made on the
    graph itself. With E edges, each other pair of nodes is an edge with the same probability p:

    .. math:: p = \mathrm{random\_edges} \cdot E / (N (N - 1) / 2 - E)

    Args:
        graph: the graph, a function of the data: `GivenGraph()`, `KNNGraph(k, metric)`, or your own; None is the graph
            without edges, on which a GCN is a plain feed-forward network.
        model: factory of the graph network, (number of features, number of classes) -> module called with (x, graph).
        lr: learning rate of the default updater.
        updater: inner updater Φ; `Adam(lr, eps=1e-5)` when None.
        weight_decay: λ of the inner penalty λ/2 ‖W_0‖².
        decay: "first", that penalty, or "all", on all parameters of the model.
        steps: steps of training, at most.
        patience: steps without improvement on the selection nodes before training ends.
        random_edges: expected number of edges added in a step, as a share of the graph's.
        train_on: "train", or "train+val" to train on the validation nodes too.
        networks: networks to train, each from initial weights of its own; the logits of the fit are their mean, its
            weights those of the best.
        self_training: share of the nodes predicted to be of a class, the most confident first, on which all networks
            are trained once more as if that was their label; kept where the nodes that stop say that it is better. 0
            does not try.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> import lds
        >>> from lds.data import load
        >>> from lds.graph import KNNGraph
        >>> fit = lds.FixedGraphLearner(KNNGraph(10), train_on="train+val", steps=50).fit(load("wine"), seed=0)
        >>> fit.accuracy("test") > 0.5
        True
    """

    graph: Callable[[Data], Tensor | WeightedPairs] | None = field(default_factory=GivenGraph)
    model: ModelFactory = GCN
    lr: float = 0.02
    updater: Updater | None = None
    weight_decay: float = 5e-4
    decay: Decay = "first"
    steps: int = 400
    patience: int = 100
    random_edges: float = 0.0
    train_on: TrainOn = "train"
    networks: int = 1
    self_training: float = 0.0

    def __post_init__(self) -> None:
        check_integers(self, "steps", "patience", "networks")
        check_sizes(self, "random_edges", "lr", "weight_decay")
        check("self_training", self.self_training, "in [0, 1]", lambda x: 0 <= x <= 1)
        check_train_on(self.train_on)
        check_decay(self.decay)

    @explained
    def fit(self, data: Data, *, seed: int = 0, callbacks: Sequence[Callback] = ()) -> Fit:
        """Train on one data set, as one outer epoch; arguments and errors as for `StructureLearner.fit`.

        Raises:
            InputError: there are not as many pairs without an edge as `random_edges` asks for.
        """
        told = Callbacks(callbacks)
        with told.running():
            fit = self._train(data, seed)
            told.on_epoch(fit.history[0])
        return fit

    def _train(self, data: Data, seed: int) -> Fit:
        data = ready(data, weights=initial_weights(self.graph), seed=seed)
        task = Task(data, self.model, self.weight_decay, self.decay)
        val, es = task.nodes["val"], task.nodes["es"]
        selection = torch.cat([val, es]) if self.train_on == "train" else es
        with (
            one_where_small(task.multiplications),
            task.nodes_as(train=task.train_nodes(self.train_on), selection=selection),
        ):
            return self._train_on_nodes(data, task, seed)

    def _train_on_nodes(self, data: Data, task: Task, seed: int) -> Fit:
        structure = self._structure(data, task)
        task.check_structure(structure)
        with forked(task.cuda):
            graph = structure.draw().without_candidates()  # All probabilities are 0 or 1.
        rate = self._rate(graph)

        def with_random_edges(params: Params, outer: Any) -> Tensor:
            return task.inner_loss(params, _with_random_edges(graph, rate))

        networks = Networks(
            task,
            outer=(),
            inner=with_random_edges if rate else TrainingLoss(task, lambda _: graph),
            updater=Adam(self.lr, eps=1e-5) if self.updater is None else self.updater,
            draw=lambda: graph,
            selection="selection",
            steps=self.steps,
            patience=self.patience,
            samples=1,
        )
        seeds = [mix(seed, number) for number in range(1, self.networks + 1)]
        trained = networks.train(seeds, self_training=self.self_training)
        accuracy, loss = task.judged(trained.logits)
        epoch = EpochRecord(1, 0, trained.inner_loss, accuracy, loss, structure.expected_edges, improved=True)
        return Fit(structure, trained.params, trained.logits, (epoch,), 0, task.known)

    def _structure(self, data: Data, task: Task) -> CandidatePairs:
        if self.graph is not None:
            pairs = self.graph(data)
            if not isinstance(pairs, Tensor):
                raise InputError(
                    "a fixed graph needs edges without weights, but weights to start from came; drop them, or "
                    "learn the structure with StructureLearner (--method lds)"
                )
            return CandidatePairs(task.num_nodes, pairs, dtype=task.dtype)
        # A structure needs a pair; this one has probability 0.
        pair = torch.tensor([[0], [1]], device=task.device)
        return CandidatePairs(task.num_nodes, pair[:, :0], candidates=pair, dtype=task.dtype)

    def _rate(self, graph: SampledGraph) -> float:
        """Return λ = −log(1 − p), the rate at which a Poisson process hits a pair with probability p."""
        wanted = self.random_edges * graph.num_edges
        free = graph.num_nodes * (graph.num_nodes - 1) // 2 - graph.num_edges
        if wanted and wanted >= free:
            raise InputError(
                f"random_edges needs pairs without an edge, more than {wanted:g} of them, but the graph has {free}; "
                "lower it"
            )
        return -math.log1p(-wanted / free) if wanted else 0.0


def _with_random_edges(graph: SampledGraph, rate: float) -> SampledGraph:
    """Return the graph with edges added, drawn with torch's default generator.

    Of Poisson(λ N²/2) uniform draws from the N² ordered pairs, Poisson(λ) hit {i, j}, which is two of these, and do so
    independently of the other pairs.
    """
    n, device = graph.num_nodes, graph.row.device
    count = int(torch.poisson(torch.tensor(rate * n * n / 2, dtype=torch.float64)))
    pairs = torch.cat([torch.stack([graph.row, graph.col]), torch.randint(n, (2, count)).to(device)], 1)
    row, col = canonical_pairs(pairs, n)
    return SampledGraph(n, row, col, graph.weight.new_ones(row.shape))
