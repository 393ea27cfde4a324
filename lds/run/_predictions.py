"""What a run says of every node, as a table, and the names of its classes."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

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
    """Return a line per node: node, split, label, predicted, and the probability of each class where there are any.

    Nodes and classes have their names, or numbers; what is unlabelled, or in no split, has an empty cell.
    """
    import torch

    from lds.learner import Fit
    from lds.learner._known import Known

    if isinstance(fit, Fit):
        columns = Known.of(data).table(fit.logits.argmax(1), fit.predict_proba())
    else:
        shares = None if fit.probabilities is None else torch.from_numpy(fit.probabilities)
        columns = Known.of(data).table(torch.from_numpy(fit.predicted), shares)
    rows = [
        [f"{x:.6g}" for x in column] if name.startswith("probability of ") else column
        for name, column in columns.items()
    ]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*rows, strict=True))
    return buffer.getvalue().encode("utf-8", "backslashreplace")
