"""The scikit-learn classifier."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from lds._checks import check, check_integer
from lds._device import usable
from lds.errors import InputError
from lds.estimator._arrays import classes_of, edge_index, make_data, masks, split_for_refit, split_labels
from lds.estimator._extension import Extension
from lds.estimator._preparation import Preparation
from lds.graph import GivenGraph, KNNGraph
from lds.learner import FixedGraphLearner, StructureLearner, alternatives
from lds.learner._alternatives import choose_alternative
from lds.nn import GCN

Array = npt.NDArray[Any]


class LDSClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    r"""Semi-supervised classification on a graph that is learned along: `StructureLearner` for scikit-learn.

    Franceschi, Niepert, Pontil, He, `Learning Discrete Structures for Graph Neural Networks
    <https://arxiv.org/abs/1903.11960>`_ (ICML 2019). As in `sklearn.semi_supervised`, `y` is -1 on unlabelled rows, as
    a number or a text, or missing: None, NaN, pd.NA. What labels may be is said in the guide *Own data*.

    The labelled rows are shared out at random, class by class: `validation_fraction` of the labels of a class, at least
    one and never all, are held out, and go in turn to validation (they choose θ) and to early stopping (they choose the
    epoch); the others train the weights. The only label of a class is trained on. Then, with `refit`, a network is
    trained on all labels, θ held. Where fewer than three rows are unlabelled, as many held-out rows as are missing are
    left out of this, and one where none is unlabelled out of the learning of θ.

    A new row gets edges from its `n_neighbors` nearest training rows by features, and none lead back. With the degrees
    d_j and hidden layers h_j of these on a graph drawn from θ, and d = 1 + n_neighbors,

    .. math::
        h = \mathrm{ReLU}\Big(\frac{x W_0}{d} + \sum_j \frac{x_j W_0}{\sqrt{d\, d_j}}\Big), \qquad
        \text{logits} = \frac{h W_1}{d} + \sum_j \frac{h_j W_1}{\sqrt{d\, d_j}},

    averaged over `samples` graphs; this is the propagation of the GCN along these edges. So what `predict` says of a
    row does not depend on the other rows it is given, and a row that was trained on is treated like any other:
    `transduction_` has the answer that uses its learned edges.

    A learned graph needs labels to be learned from, and may do worse than none. `structure="auto"` compares, on
    held-out folds of the labelled rows, what `lds.learner.alternatives` lists: no graph and the initial graph, each
    trained on the training rows alone and on all labels that learning uses, and a learned graph.

    Scale the features, as for any network, here or before: `scale="standard"` for measurements in different units,
    `features="tfidf"` for counts of words. θ covers all pairs of rows, 2N² bytes. `max_epochs` and `patience` are lower
    here than in `StructureLearner`; scores that scikit-learn computes itself, in a grid search for one, count rows with
    y = -1 as wrong, so search on the labelled ones or bring a scorer.

    Args:
        structure: "learned", "fixed" (the initial graph as it is), "none" (no graph), or "auto", the best of these.
        features: "given", or "tfidf": rare words weighted more, rows of length 1, for counts of words.
        scale: "none", "unit" (rows of length 1), or "standard" (columns to mean 0 and deviation 1, those of the rows of
            `fit`).
        n_neighbors: neighbours in the initial graph, where none is given, and of a new row.
        metric: "cosine" or "minkowski" (Euclidean) distance, for both.
        tau: inner steps between two updates of θ.
        outer_lr: step size of θ; 0 keeps the initial graph.
        hidden: width of the hidden layer.
        dropout: probability of dropping a hidden activation.
        inner_lr: learning rate of Adam for the weights.
        weight_decay: λ of the penalty λ/2 ‖W_0‖².
        inner_steps: inner steps an outer epoch, at most.
        max_epochs: outer epochs, at most; unlimited when None.
        patience: outer epochs without improvement on the early-stopping rows before learning ends.
        samples: graphs whose logits are averaged for a prediction.
        validation_fraction: share of the labelled rows held out, in (0, 1).
        refit: train on all labels once θ is learned.
        graph_threshold: `graph_` has the edges with probability above it, in [0, 1).
        random_state: seed of the split, the initial weights, dropout and the graphs.
        device: where to train, such as "cpu" or "cuda:0"; results come back to the CPU. Not yet run on a GPU.

    Attributes:
        classes_: the distinct labels, shape [C].
        transduction_: label of every row of X, shape [N].
        label_distributions_: class probabilities of every row of X, shape [N, C].
        structure_: what was fitted: "learned", "fixed" or "none".
        choice_: with `structure="auto"` the comparison, see `lds.learner.choose`; `choice_.reason` says why, in the
            names of the methods of `lds train`, such as "knn-gcn (train+val)".
        graph_: learned edge probabilities, symmetric, CSR of shape [N, N].
        n_iter_: number of outer epochs run.
        n_features_in_: number of features F.
        feature_names_in_: names of the features, where X has them.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> from sklearn.preprocessing import StandardScaler
        >>> import lds
        >>> x, y = load_wine(return_X_y=True)
        >>> x, y[::2] = StandardScaler().fit_transform(x), -1  # -1: not labelled
        >>> classifier = lds.LDSClassifier(max_epochs=1, inner_steps=10, samples=2, random_state=0).fit(x, y)
        >>> classifier.transduction_.shape
        (178,)
    """

    def __init__(
        self,
        *,
        structure: Literal["learned", "fixed", "none", "auto"] = "learned",
        features: Literal["given", "tfidf"] = "given",
        scale: Literal["none", "unit", "standard"] = "none",
        n_neighbors: int = 10,
        metric: Literal["cosine", "minkowski"] = "cosine",
        tau: int = 5,
        outer_lr: float = 1.0,
        hidden: int = 16,
        dropout: float = 0.5,
        inner_lr: float = 0.02,
        weight_decay: float = 5e-4,
        inner_steps: int = 400,
        max_epochs: int | None = 20,
        patience: int = 5,
        samples: int = 16,
        validation_fraction: float = 0.5,
        refit: bool = True,
        graph_threshold: float = 0.01,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.structure = structure
        self.features = features
        self.scale = scale
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.tau = tau
        self.outer_lr = outer_lr
        self.hidden = hidden
        self.dropout = dropout
        self.inner_lr = inner_lr
        self.weight_decay = weight_decay
        self.inner_steps = inner_steps
        self.max_epochs = max_epochs
        self.patience = patience
        self.samples = samples
        self.validation_fraction = validation_fraction
        self.refit = refit
        self.graph_threshold = graph_threshold
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any, graph: Any = None) -> LDSClassifier:
        """Learn a graph on the rows of X, and the labels of those that have none.

        Args:
            X: features, dense or sparse, shape [N, F].
            y: labels, -1 or missing where unlabelled, shape [N].
            graph: initial graph, a sparse adjacency of shape [N, N]: rows are joined where an entry in either direction
                is not zero; a kNN graph when None.

        Raises:
            InputError: an argument or the graph is not what it must be.
            DataError: too few labels or classes.
        """
        arguments = self._arguments()
        device = usable(arguments["device"])
        if y is None:  # scikit-learn says so in its own words.
            validate_data(self, X, y)
        classes, target = classes_of(y)
        X, target = validate_data(self, X, _shaped_as(target, y), accept_sparse="csr", dtype=np.float32)
        self.classes_ = classes
        self._preparation = Preparation(arguments["features"], arguments["scale"])
        X = self._preparation.fit_transform(X)
        if graph is None and arguments["n_neighbors"] >= X.shape[0]:
            raise InputError(
                f"n_neighbors must be smaller than the number of rows, but n_neighbors={arguments['n_neighbors']} came "
                f"with n_samples={X.shape[0]}; lower it or give a graph"
            )
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        learner = StructureLearner(
            graph=GivenGraph(),
            model=partial(GCN, hidden_channels=arguments["hidden"], dropout=arguments["dropout"]),
            **{name: arguments[name] for name in _OF_THE_LEARNER},
        )
        split = split_labels(target, arguments["validation_fraction"], seed)
        data = make_data(X, target, split, len(self.classes_))
        if graph is None:
            data.edge_index = KNNGraph(arguments["n_neighbors"], self.metric)(data)
        else:
            data.edge_index = edge_index(graph, X.shape[0])
        data = data.to(device)
        kind: Literal["knn", "given"] = "knn" if graph is None else "given"
        learners = alternatives(learner, {kind: GivenGraph()})
        if self.structure == "auto":
            self.choice_ = choose_alternative(data, learners, seed=seed)
            name = self.choice_.name
        else:  # The first of its kind has all labels that the others have.
            name = next(name for name, found in learners.items() if _kind(found) == self.structure)
        self.structure_: str = _kind(learners[name])
        fit = learners[name].fit(data, seed=seed)
        self.n_iter_ = fit.outer_epochs
        if self.refit and self.structure_ == "learned":
            # One epoch, θ held at what was learned: the rows of the other parts choose nothing now.
            learned = fit.structure
            again = replace(learner, edges=lambda *_, **__: learned, learn_structure=False, max_epochs=1)
            data = copy(data)
            data.update(masks(split_for_refit(split, target), len(target)))
            data = data.to(device)
            fit = again.fit(data, seed=seed)

        self.label_distributions_ = softmax(fit.logits.double().cpu().numpy(), axis=1)
        self.transduction_ = self.classes_[self.label_distributions_.argmax(1)]
        found = fit.graph(arguments["graph_threshold"])
        row, col = found.edge_index.cpu().numpy()
        self.graph_ = scipy.sparse.csr_array((found.edge_weight.cpu().numpy(), (row, col)), shape=(X.shape[0],) * 2)
        first, second = (fit.params[f"weights.{layer}"].double().cpu().numpy() for layer in (0, 1))
        self._extension = Extension(
            X,
            (first, second),
            fit.structure,
            samples=arguments["samples"],
            seed=seed,
            n_neighbors=0 if self.structure_ == "none" else min(arguments["n_neighbors"], X.shape[0]),
            metric=self.metric,
        )
        return self

    def predict_proba(self, X: Any) -> Array:
        """Return the class probabilities of new rows, shape [M, C]; the class docstring has the formula."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=np.float32, reset=False)
        probabilities: Array = softmax(self._extension.logits(self._preparation.transform(X)), axis=1)
        return probabilities

    def predict(self, X: Any) -> Array:
        """Return the most probable label of new rows, shape [M]."""
        probabilities = self.predict_proba(X)
        labels: Array = self.classes_[probabilities.argmax(1)]
        return labels

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments as Python numbers, with those checked that no other part of the package checks."""
        # A grid search over np.arange(...) sets numpy's numbers.
        values = {k: v.item() if isinstance(v, np.generic) else v for k, v in self.get_params(deep=False).items()}
        for name in ("n_neighbors", "hidden"):
            check_integer(name, values[name])
        check("dropout", values["dropout"], "a number in [0, 1)", lambda x: 0 <= x < 1)
        check("validation_fraction", values["validation_fraction"], "a number in (0, 1)", lambda x: 0 < x < 1)
        check("graph_threshold", values["graph_threshold"], "a number in [0, 1)", lambda x: 0 <= x < 1)
        for name, known in _KNOWN.items():
            if values[name] not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, got {values[name]!r:.80}")
        if values["metric"] not in ("cosine", "minkowski"):
            advice = '; for words, set features="tfidf"' if values["metric"] == "tfidf" else ""
            raise InputError(f'metric must be "cosine" or "minkowski", got {values["metric"]!r}{advice}')
        return values


def _kind(learner: FixedGraphLearner | StructureLearner) -> str:
    """Return what a learner does with the graph, as a value of `structure`."""
    if isinstance(learner, StructureLearner):
        return "learned"
    return "none" if learner.graph is None else "fixed"


def _shaped_as(target: Array, y: Any) -> Array:
    """Return the class numbers in the shape of y, of which scikit-learn warns where it is a column."""
    return target[:, None] if getattr(y, "ndim", 1) == 2 and y.shape[1] == 1 else target


_KNOWN = {
    "structure": ("learned", "fixed", "none", "auto"),
    "features": ("given", "tfidf"),
    "scale": ("none", "unit", "standard"),
}
_OF_THE_LEARNER = (
    "tau",
    "outer_lr",
    "inner_lr",
    "weight_decay",
    "inner_steps",
    "max_epochs",
    "patience",
    "samples",
)
