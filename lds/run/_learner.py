"""The learner that a method names: one of `lds.learner`, or an estimator of scikit-learn behind the same interface."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lds._callbacks import Callback
from lds._memory import ROOM, too_large
from lds._show import Shown
from lds.data import MASKS
from lds.data.prepare import ready
from lds.errors import DataError, InputError
from lds.graph import (
    AllPairs,
    CandidatePairs,
    GivenGraph,
    KNNGraph,
    LearnedPairs,
    Structure,
    WeightedPairs,
    random_pairs,
)
from lds.learner import Denoising, FixedGraphLearner, StructureLearner, alternatives
from lds.run._config import BaselineConfig, TrainConfig, parse_candidates
from lds.run._methods import METHOD
from lds.run._parts import make_model, make_updater

if TYPE_CHECKING:
    from torch_geometric.data import Data

# The share of random edges of gcn-rnd, where none is given.
_RANDOM_EDGES = 0.5
# Logistic regression with little regularisation takes more than scikit-learn's default of 100.
_STEPS = 1000
# Features with fewer non-zeros than this are a bag of words.
_SPARSE = 0.25


def make_learner(
    config: TrainConfig | BaselineConfig, data: Data
) -> StructureLearner | FixedGraphLearner | EstimatorLearner:
    """Return the learner that the method names, with the model and the updater that are named.

    Raises:
        InputError: one of them cannot be imported or made.
    """
    if isinstance(config, BaselineConfig):
        return EstimatorLearner(config)
    method = METHOD[config.method]
    graph = initial_graph(config, data)
    model, updater = make_model(config), make_updater(config)
    if method.learner == "fixed graph":
        share = _RANDOM_EDGES if config.random_edges is None else config.random_edges
        return FixedGraphLearner(
            graph=graph,
            random_edges=share if method.adds_random_edges else 0.0,
            model=model,
            lr=config.inner_lr,
            updater=updater,
            weight_decay=config.weight_decay,
            decay=config.decay,
            train_on=config.train_on,
            networks=config.refit or 1,
            self_training=config.self_training,
        )
    assert graph is not None  # θ needs a graph to start from.
    candidates = candidate_pairs(config, data)
    return StructureLearner(
        edges=AllPairs if candidates is None else _on_candidates(config, data, candidates),
        folds=config.folds if method.learns_structure else "fixed",
        refit=config.refit,
        self_training=config.self_training,
        outer_term=Denoising(config.denoising) if config.denoising else None,
        tau=config.tau,
        interval=config.interval,
        horizon=config.horizon,
        outer_lr=config.outer_lr,
        learn_structure=method.learns_structure,
        train_on=config.train_on,
        graph=graph,
        model=model,
        updater=updater,
        inner_lr=config.inner_lr,
        learn_inner_lr=config.learn_inner_lr,
        weight_decay=config.weight_decay,
        decay=config.decay,
        patience=config.patience,
        max_epochs=config.max_epochs,
        samples=config.samples,
        noise=config.noise,
    )


def make_alternatives(config: TrainConfig, data: Data) -> dict[str, FixedGraphLearner | StructureLearner]:
    """Return the learners that auto compares, see `lds.learner.alternatives`.

    Raises:
        InputError: as for `make_learner`.
    """
    has_edges = data.edge_index.numel() > 0
    learner = make_learner(config.fitted("lds" if has_edges else "knn-lds"), data)
    assert isinstance(learner, StructureLearner)
    graphs: dict[Literal["knn", "given"], GivenGraph | KNNGraph] = {"knn": KNNGraph(config.k, config.metric)}
    return alternatives(learner, graphs | {"given": GivenGraph(config.weights)} if has_edges else graphs)


def _on_candidates(config: TrainConfig, data: Data, candidates: Tensor) -> Callable[..., Structure]:
    """Return the structure on candidate pairs that a configuration names."""
    if config.score is None:
        return partial(CandidatePairs, candidates=candidates)
    return partial(LearnedPairs, candidates=candidates, x=data.x, score=config.score, seed=config.seed)


def initial_graph(config: TrainConfig | BaselineConfig, data: Data) -> GivenGraph | KNNGraph | None:
    """Return what makes the graph that training starts from; None for a method without a graph."""
    kind = METHOD[config.method].initial(has_edges=data.edge_index.numel() > 0)
    if kind == "knn":
        assert isinstance(config, TrainConfig)
        return KNNGraph(config.k, config.metric)
    return None if kind is None else GivenGraph(config.weights)


def initial_pairs(config: TrainConfig | BaselineConfig, data: Data) -> Tensor:
    """Return the pairs i < j of the graph that training starts from, int64 of shape [2, E]; none without a graph."""
    graph = initial_graph(config, data)
    if graph is None:
        return torch.empty((2, 0), dtype=torch.int64)
    pairs = graph(data)
    return pairs.pairs[:, pairs.probability > 0] if isinstance(pairs, WeightedPairs) else pairs


def candidate_pairs(config: TrainConfig, data: Data) -> Tensor | None:
    """Return the pairs that a configuration names as candidates, int64 of shape [2, C]; None for all pairs.

    Raises:
        InputError: there are no edges to take, or not as many random pairs.
    """
    if config.candidates is None:
        return None
    found = []
    for kind, number in parse_candidates(config.candidates):
        if kind == "knn":
            found.append(KNNGraph(number, config.metric)(data))
        elif kind == "random":
            found.append(random_pairs(data.num_nodes, number * data.num_nodes, seed=config.seed))
        elif data.edge_index.numel():
            found.append(data.edge_index)
        else:
            raise InputError("candidates given are the edges of the data, but it brings none; leave given out")
    return torch.cat(found, 1)


@dataclass(frozen=True, repr=False)
class EstimatorFit(Shown):
    """What a baseline predicts.

    Attributes:
        labels: the true classes, shape [N].
        predicted: the predicted ones, shape [N].
        log_probabilities: of the true classes, shape [N]; None for an estimator without probabilities.
        nodes: the nodes of every split.
        probabilities: of all classes, shape [N, C]; None for an estimator without probabilities.
    """

    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    log_probabilities: npt.NDArray[np.float64] | None
    nodes: dict[str, npt.NDArray[np.bool_]]
    probabilities: npt.NDArray[np.float64] | None = None

    outer_epochs = 0
    outer_steps = 0
    expected_edges = None

    def accuracy(self, split: str) -> float:
        """Return the accuracy on "train", "val", "es" or "test", in [0, 1]."""
        nodes = self.nodes[split]
        return float((self.predicted == self.labels)[nodes].mean())

    def loss(self, split: str) -> float | None:
        """Return the cross-entropy on a split; None without probabilities."""
        if self.log_probabilities is None:
            return None
        return -float(self.log_probabilities[self.nodes[split]].mean())

    def predictions(self) -> bytes:
        """Return the predicted classes as the content of a .npy file."""
        buffer = io.BytesIO()
        np.save(buffer, self.predicted)
        return buffer.getvalue()


@dataclass(frozen=True)
class EstimatorLearner:
    """Fit an estimator of scikit-learn on the training nodes, or on the validation nodes too, and predict all others.

    A transductive one sees the features of all nodes, and the labels of the training nodes.
    Features that are mostly zeros, bags of words, are scaled to rows of unit Euclidean length, so that a linear or an
    RBF kernel compares words whatever the length of a text; others are taken as they come.

    Args:
        config: the method and its hyperparameters.
    """

    config: BaselineConfig

    def fit(self, data: Data, *, seed: int = 0, callbacks: Sequence[Callback] = ()) -> EstimatorFit:
        """Fit on one data set; there is no epoch to tell the callbacks of.

        Raises:
            DataError: the data is inconsistent, or its training nodes are of one class and the method tells classes
                apart.
            InputError: there are fewer nodes than neighbours.
        """
        data = ready(data, weights=self.config.weights)
        x, y = _features(data), data.y.numpy()
        nodes = {name.removesuffix("_mask"): data[name].numpy() for name in MASKS}
        estimator = _estimator(self.config, seed)
        train = nodes["train"] | nodes["val"] if self.config.train_on == "train+val" else nodes["train"]
        self._check(y, train)
        if METHOD[self.config.method].transductive:
            estimator.fit(x, np.where(train, y, -1))
            full = _of_all_classes(estimator, estimator.label_distributions_, data.num_classes)
            return EstimatorFit(y, estimator.transduction_, _logs(full, y), nodes, full)
        estimator.fit(x[train], y[train])
        # Support vectors come without probabilities.
        probability = estimator.predict_proba(x) if hasattr(estimator, "predict_proba") else None
        full = _of_all_classes(estimator, probability, data.num_classes)
        return EstimatorFit(y, estimator.predict(x), _logs(full, y), nodes, full)

    def _check(self, y: npt.NDArray[np.int64], train: npt.NDArray[np.bool_]) -> None:
        method, neighbors = self.config.method, self.config.n_neighbors
        if METHOD[method].needs_two_classes and np.unique(y[train]).size < 2:
            raise DataError(
                f"{method} needs training nodes of two classes or more, but all are of class {y[train][0]}; take "
                "another split or random-forest"
            )
        if neighbors is not None and neighbors > y.size:
            raise InputError(f"n_neighbors must be at most the number of nodes, {y.size}, got {neighbors}; lower it")


def _estimator(config: BaselineConfig, seed: int) -> Any:
    values = config.hyperparameters
    match config.method:
        case "logreg":
            from sklearn.linear_model import LogisticRegression

            return LogisticRegression(max_iter=_STEPS, **values)
        case "svm":
            from sklearn.svm import SVC

            return SVC(**values)
        case "random-forest":
            from sklearn.ensemble import RandomForestClassifier

            return RandomForestClassifier(random_state=seed, **values)
        case "label-propagation":
            from sklearn.semi_supervised import LabelPropagation

            kernel = "knn" if config.n_neighbors is not None else "rbf"
            return LabelPropagation(kernel=kernel, **values)


def _features(data: Data) -> Any:
    from scipy.sparse import csr_matrix
    from sklearn.preprocessing import normalize

    size = data.x.numel() * data.x.dtype.itemsize
    if size > ROOM:
        raise too_large(f"{data.x.shape[0]} × {data.x.shape[1]} features of a baseline", size, "take fewer features")
    x = data.x.to_dense().numpy()
    return normalize(csr_matrix(x)) if np.count_nonzero(x) < _SPARSE * x.size else x


def _of_all_classes(estimator: Any, probability: Any, classes: int) -> npt.NDArray[np.float64] | None:
    """Return probabilities with a column for every class, 0 for those that the training nodes lack."""
    if probability is None:
        return None
    if 8 * len(probability) * classes > ROOM:
        raise too_large(
            f"probabilities of {len(probability)} nodes and {classes} classes",
            8 * len(probability) * classes,
            "give labels of fewer classes",
        )
    full = np.zeros((len(probability), classes))
    full[:, estimator.classes_] = probability
    return full


def _logs(probability: npt.NDArray[np.float64] | None, y: npt.NDArray[np.int64]) -> npt.NDArray[np.float64] | None:
    """Return the logarithms of the probabilities of the true classes, of no less than machine precision."""
    if probability is None:
        return None
    found: npt.NDArray[np.float64] = np.log(probability[np.arange(y.size), y].clip(np.finfo(np.float64).eps))
    return found
