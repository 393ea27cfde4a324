"""What a run says of every node, as a table, and the names of its classes."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch_geometric.data import Data

    from lds.learner import Fit
    from lds.run._learner import EstimatorFit


def class_names(data: Data) -> list[str] | None:
    """Return the names of the classes; None where they are their numbers."""
    names = data.get("class_names")
    return None if names is None or list(names) == [str(number) for number in range(len(names))] else list(names)


def names_json(names: list[str]) -> bytes:
    """Return names as the content of a JSON file."""
    return (json.dumps(names, ensure_ascii=False) + "\n").encode()


def predictions_csv(fit: Fit | EstimatorFit, data: Data) -> bytes:
    """Return a line a node: node, split, label, predicted, and the probability of each class where there are any.

    Nodes and classes have their names, or numbers; what is unlabelled, or in no split, has an empty cell.
    """
    import numpy as np

    from lds.data import MASKS
    from lds.learner import Fit

    probability: Any
    if isinstance(fit, Fit):
        probability = fit.predict_proba().cpu().double().numpy()
        predicted = probability.argmax(1)
    else:
        probability, predicted = fit.probabilities, fit.predicted
    classes = data.get("class_names") or [str(number) for number in range(int(data.num_classes))]
    nodes = data.get("node_names") or range(data.num_nodes)
    split = np.full(data.num_nodes, "", dtype=object)
    for mask in MASKS:
        split[data[mask].cpu().numpy()] = mask.removesuffix("_mask")
    labels = [classes[label] if label >= 0 else "" for label in data.y.tolist()]
    rows = [nodes, split.tolist(), labels, [classes[label] for label in predicted.tolist()]]
    header = ["node", "split", "label", "predicted"]
    if probability is not None:
        header += [f"probability of {name}" for name in classes]
        rows += [[f"{value:.6g}" for value in column] for column in probability.T.tolist()]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(zip(*rows, strict=True))
    return buffer.getvalue().encode("utf-8", "backslashreplace")
