"""What each method is: the one table that everything else asks. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# The command line and the type checker need the names spelled out; a test holds that the table has a row for each.
NetworkMethod = Literal["lds", "knn-lds", "gcn", "gcn-rnd", "knn-gcn", "ffnn", "frozen", "auto"]
EstimatorMethod = Literal["logreg", "svm", "random-forest", "label-propagation"]


@dataclass(frozen=True)
class Method:
    """What a method is.

    Attributes:
        name: its name, in configurations and on the command line.
        learner: what trains: "structure" (a network on sampled graphs, with edge probabilities θ on all pairs of
            nodes), "fixed graph" (a network on one graph), "estimator" (one of scikit-learn, without a network), or
            "choice" (the learner of another method, which does best on held-out folds of the labelled nodes).
        graph: the graph that training starts from; None for a method that uses no graph, and for a choice.
        learns_structure: whether θ is learned; if not, it stays as it is at the start.
        hyperparameters: fields of the configuration that belong to this method and not to all of its kind.
        adds_random_edges: whether random edges are added in every step of training.
        needs_two_classes: whether it cannot be trained on nodes of one class; of an estimator.
        transductive: whether it sees the features of all nodes in training; of an estimator.
    """

    name: NetworkMethod | EstimatorMethod
    learner: Literal["structure", "fixed graph", "estimator", "choice"]
    graph: Literal["given", "knn", "given, else knn"] | None = None
    learns_structure: bool = False
    hyperparameters: tuple[str, ...] = ()
    adds_random_edges: bool = False
    needs_two_classes: bool = False
    transductive: bool = False

    @property
    def uses_graph(self) -> bool:
        """Whether the method uses a graph, given or not."""
        return self.graph is not None

    @property
    def has_theta(self) -> bool:
        """Whether there are edge probabilities θ on all pairs of nodes; checkpoint.pt of a run holds them."""
        return self.learner == "structure"

    def initial(self, *, has_edges: bool) -> Literal["given", "knn"] | None:
        """Return the graph that training starts from on data with, or without, edges; None where none is used."""
        if self.graph == "given, else knn":
            return "given" if has_edges else "knn"
        return self.graph


METHOD: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("lds", "structure", "given", learns_structure=True),
        Method("knn-lds", "structure", "knn", learns_structure=True),
        Method("gcn", "fixed graph", "given"),
        Method("gcn-rnd", "fixed graph", "given", hyperparameters=("random_edges",), adds_random_edges=True),
        Method("knn-gcn", "fixed graph", "knn"),
        Method("ffnn", "fixed graph"),
        Method("frozen", "structure", "given, else knn"),
        Method("auto", "choice"),
        Method("logreg", "estimator", hyperparameters=("C",), needs_two_classes=True),
        Method("svm", "estimator", hyperparameters=("C", "gamma"), needs_two_classes=True),
        Method("random-forest", "estimator", hyperparameters=("n_estimators", "max_depth")),
        Method("label-propagation", "estimator", hyperparameters=("gamma", "n_neighbors"), transductive=True),
    )
}
METHODS: tuple[str, ...] = tuple(name for name, method in METHOD.items() if method.learner != "estimator")
BASELINES: tuple[str, ...] = tuple(name for name, method in METHOD.items() if method.learner == "estimator")


def method_of(name: str, result: Mapping[str, object] | None) -> Method | None:
    """Return the method whose fit a run holds: for auto, that which was chosen, and None before it is.

    Args:
        name: the method of the run; None comes back for one that is not known, of another version.
        result: what the run ended with; None where it has not.
    """
    method = METHOD.get(name)
    if method is None or method.learner != "choice":
        return method
    return METHOD.get(parse_chosen(str((result or {}).get("chosen")))[0])


def parse_chosen(name: str) -> tuple[str, Literal["train", "train+val"]]:
    """Return method and nodes to train on out of the name of an alternative, see `lds.learner.alternatives`."""
    method, _, same_labels = name.partition(" ")
    return method, "train+val" if same_labels else "train"


def owners(hyperparameter: str) -> list[str]:
    """Return the methods that a hyperparameter belongs to; none for one that all methods of a kind have."""
    return [name for name, method in METHOD.items() if hyperparameter in method.hyperparameters]
