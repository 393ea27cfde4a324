"""What there is to choose from where nobody knows whether a graph helps: the one list that all comparisons share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from lds._callbacks import Callback, FoldRecord
from lds.errors import InputError
from lds.graph import WeightedPairs
from lds.learner._choice import Choice, Learner, choose
from lds.learner._fixed_graph_learner import FixedGraphLearner
from lds.learner._structure_learner import StructureLearner

if TYPE_CHECKING:
    from torch_geometric.data import Data

# Added to the name of a method that is trained on the validation nodes too.
SAME_LABELS = " (train+val)"
# How all comparisons of them are made.
_FOLDS, _REPEATS = 5, 2
# By the graph: the method that takes it as it is, and the one that learns from it.
_METHODS: Mapping[str, tuple[str, str]] = {"knn": ("knn-gcn", "knn-lds"), "given": ("gcn", "lds")}


def alternatives(
    learner: StructureLearner, graphs: Mapping[Literal["knn", "given"], Callable[[Data], Tensor | WeightedPairs]]
) -> dict[str, FixedGraphLearner | StructureLearner]:
    """Return the learners that `lds train --method auto` and `LDSClassifier(structure="auto")` compare by `choose`.

    They are, by their names as methods of `lds train`, from the simplest on: ffnn, the network without a graph; knn-gcn
    and gcn, the network on the kNN graph and on the given one; and knn-lds or lds, a structure that is learned from the
    last of the graphs. "ffnn (train+val)" and so on are trained on all labels that structure learning uses.

    Args:
        learner: learns the structure; all others have its network, updater, number of inner steps, and what it
            does last: as many networks as it refits, and its self-training.
        graphs: the graphs there are, by "knn" and "given".

    Raises:
        InputError: there is no graph, or one that is neither.

    Example:
        >>> import lds
        >>> from lds.graph import KNNGraph
        >>> from lds.learner import alternatives
        >>> list(alternatives(lds.StructureLearner(), {"knn": KNNGraph(10)}))
        ['ffnn (train+val)', 'ffnn', 'knn-gcn (train+val)', 'knn-gcn', 'knn-lds']
    """
    if not graphs or not graphs.keys() <= _METHODS.keys():
        raise InputError(f'graphs must be some of "knn" and "given", got {list(graphs)!r:.80}; name one or both')
    plain = FixedGraphLearner(
        None,
        model=learner.model,
        lr=learner.inner_lr,
        updater=learner.updater,
        weight_decay=learner.weight_decay,
        decay=learner.decay,
        steps=learner.inner_steps,
        networks=learner.refit or 1,
        self_training=learner.self_training,
    )
    found: dict[str, FixedGraphLearner | StructureLearner] = {}
    for name, graph in [("ffnn", None), *((_METHODS[kind][0], graph) for kind, graph in graphs.items())]:
        # None of the two is simpler; of equals, the one with more labels.
        found[f"{name}{SAME_LABELS}"] = replace(plain, graph=graph, train_on="train+val")
        found[name] = replace(plain, graph=graph)
    kind, start = list(graphs.items())[-1]
    return {**found, _METHODS[kind][1]: replace(learner, graph=start)}


def choose_alternative(
    data: Data,
    learners: Mapping[str, Learner],
    *,
    seed: int,
    callbacks: Sequence[Callback] = (),
    resume: Sequence[FoldRecord] = (),
) -> Choice:
    """Compare what `alternatives` returned, by `choose`, with the learned structure, the last one, as costly."""
    return choose(
        data,
        learners,
        folds=_FOLDS,
        repeats=_REPEATS,
        costly=list(learners)[-1:],
        seed=seed,
        callbacks=callbacks,
        resume=resume,
    )
