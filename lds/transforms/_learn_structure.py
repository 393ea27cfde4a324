"""A learned graph in place of the given one."""

from __future__ import annotations

from copy import copy

from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from lds.data import complete_masks
from lds.data.masks import INDICES
from lds.data.prepare import ready
from lds.errors import DataError
from lds.graph import initial_weights
from lds.learner import StructureLearner, check_criterion


class LearnStructure(BaseTransform):  # type: ignore[misc]  # torch_geometric has no types that mypy could follow.
    """Replace the edges of a `Data` by a learned structure, with its probabilities as `edge_weight`.

    Use it as any transform of torch_geometric, or, since it trains, as the `pre_transform` of a data set, which keeps
    the outcome. Masks that are missing are made, see `lds.data.complete_masks`: without `es_mask`, half of `val_mask`
    becomes it. Labels become class numbers, see `lds.data.prepare`, with `class_names` where these are others than the
    numbers. Attributes of the old edges, `edge_attr` and others named `edge_…`, are dropped; an `edge_weight` other
    than 1 is refused, unless the learner starts from it, `graph=GivenGraph(weights="initial")`.

    Args:
        learner: what learns the structure; `StructureLearner()`, which starts from the data's edges, when None.
        threshold: keep edges with a probability above it; without it and `top_k`, the most probable edges are kept, as
            many as θ expects, see `Fit.graph`.
        top_k: keep the k most probable edges of each node instead.
        seed: seed of the learner, and of masks that are made.

    Raises:
        InputError: both `threshold` and `top_k` are given, or one is out of range.

    Example:
        >>> import lds
        >>> from lds.data import load
        >>> from lds.graph import KNNGraph
        >>> from lds.transforms import LearnStructure
        >>> learner = lds.StructureLearner(graph=KNNGraph(10), inner_steps=10, max_epochs=1, samples=2)
        >>> LearnStructure(learner, top_k=5)(load("wine")).edge_weight.ndim
        1
    """

    def __init__(
        self,
        learner: StructureLearner | None = None,
        threshold: float | None = None,
        top_k: int | None = None,
        seed: int = 0,
    ) -> None:
        check_criterion(threshold, top_k=top_k)
        self.learner = StructureLearner() if learner is None else learner
        self.threshold = threshold
        self.top_k = top_k
        self.seed = seed

    def forward(self, data: Data) -> Data:
        """Return the data with the learned edges; called on a copy.

        Raises:
            DataError: this is no `Data`, it is inconsistent, or its masks cannot be completed.
            InputError: the initial graph cannot be made.
        """
        if not isinstance(data, Data):
            raise DataError(
                "LearnStructure needs a torch_geometric Data, one graph with nodes of one kind, but "
                f"{type(data).__name__} came; call it on each graph"
            )
        masks = complete_masks(data, seed=self.seed)
        # What a learner takes, of which the labels and masks stay: other models take no texts and gaps either.
        known = copy(data)
        known.update(masks)
        known = ready(known, weights=initial_weights(self.learner.graph))
        graph = self.learner.fit(known, seed=self.seed).graph(self.threshold, top_k=self.top_k)
        for name in INDICES:
            data.pop(name, None)
        data.update(masks | {"y": known.y})
        if known.get("class_names") is not None:
            data.class_names = known.class_names
        data.num_nodes = graph.num_nodes  # Without old edges, a node that has no new one still counts.
        for name in data.to_dict():
            if name.startswith("edge_") or name == "adj_t":
                del data[name]
        data.edge_index, data.edge_weight = graph.edge_index, graph.edge_weight
        return data

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.learner}, threshold={self.threshold}, top_k={self.top_k}, seed={self.seed})"
        )
