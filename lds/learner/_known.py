"""What data says about its nodes: labels, splits and names; and the table that shows it beside what was predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lds.data.splits import MASKS

if TYPE_CHECKING:
    from torch_geometric.data import Data


@dataclass(frozen=True)
class Known:
    """What data says about its nodes.

    Attributes:
        y: class numbers, int64 of shape [N], -1 where unlabelled.
        nodes: the nodes of each split, int64.
        num_classes: number of classes C.
        class_values: the integers that the classes had in the data, where these were others than 0 … C−1.
        class_names: names of the classes, where the data has them.
        node_names: names of the nodes, where the data has them.
    """

    y: Tensor
    nodes: dict[str, Tensor]
    num_classes: int
    class_values: Tensor | None = None
    class_names: list[str] | None = None
    node_names: list[str] | None = None

    @staticmethod
    def of(data: Data) -> Known:
        """Return what data says, as `lds.data.prepare` or `ready` returns it."""
        nodes = {name.removesuffix("_mask"): data[name].nonzero().flatten() for name in MASKS}
        names, classes = data.get("node_names"), data.get("class_names")
        return Known(
            data.y.long(),
            nodes,
            int(data.num_classes),
            data.get("class_values"),
            None if classes is None else list(classes),
            None if names is None else list(names),
        )

    @property
    def classes(self) -> list[str]:
        """Names of the classes; their numbers where the data named none."""
        return self.class_names or [str(number) for number in range(self.num_classes)]

    def loss(self, logits: Tensor, split: str) -> Tensor:
        """Return the cross-entropy on a split."""
        nodes = self.nodes[split]
        return nn.functional.cross_entropy(logits[nodes], self.y[nodes])

    def accuracy(self, logits: Tensor, split: str) -> float:
        """Return the share of a split's nodes that are classified correctly."""
        nodes = self.nodes[split]
        return float((logits[nodes].argmax(1) == self.y[nodes]).double().mean())

    def table(self, predicted: Tensor, probability: Tensor | None) -> dict[str, list[Any]]:
        """Return columns, an entry per node: node, split, label, predicted, and the probability of each class, if any.

        Nodes and classes have their names, or numbers; what is unlabelled, or in no split, is an empty text.
        """
        count = self.y.numel()
        split = [""] * count
        for mask in MASKS:
            for node in self.nodes[mask.removesuffix("_mask")].tolist():
                split[node] = mask.removesuffix("_mask")
        names = self.classes
        columns: dict[str, list[Any]] = {
            "node": list(self.node_names or range(count)),
            "split": split,
            "label": [names[label] if label >= 0 else "" for label in self.y.tolist()],
            "predicted": [names[label] for label in predicted.tolist()],
        }
        if probability is not None:
            shares = probability.to(torch.float64).T.tolist()
            columns |= {f"probability of {name}": share for name, share in zip(names, shares, strict=True)}
        return columns
