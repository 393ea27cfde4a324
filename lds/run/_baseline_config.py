"""The configuration of one run of a baseline without a network; imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lds.errors import InputError
from lds.run._data_config import DataConfig

# The hyperparameters that each method uses.
HYPERPARAMETERS: dict[str, tuple[str, ...]] = {
    "logreg": ("C",),
    "svm": ("C", "gamma"),
    "random-forest": ("n_estimators", "max_depth"),
    "label-propagation": ("gamma", "n_neighbors"),
}
BASELINES = tuple(HYPERPARAMETERS)


@dataclass(frozen=True)
class BaselineConfig(DataConfig):
    """One run of a baseline of scikit-learn, which sees features and labels but no edges.

    Its data is named by dataset, or by data and the options that go with it, see `DataConfig`. A hyperparameter that is
    not given has scikit-learn's default.

    Args:
        method: logreg (logistic regression), svm (support vectors, RBF kernel), random-forest, or label-propagation.
        C: inverse strength of the regularisation, > 0; logreg and svm.
        gamma: γ of the RBF kernel exp(−γ ‖x − y‖²), > 0; svm and label-propagation.
        n_neighbors: label-propagation over a kNN graph instead of the RBF kernel: its number of neighbours.
        n_estimators: number of trees; random-forest.
        max_depth: depth of a tree, at most; random-forest.
        seed: seed of the split and of the random forest.

    Raises:
        InputError: an unknown method, a hyperparameter that the method does not use, or one out of range.
    """

    method: Literal["logreg", "svm", "random-forest", "label-propagation"] = "logreg"
    C: float | None = None
    gamma: float | None = None
    n_neighbors: int | None = None
    n_estimators: int | None = None
    max_depth: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in BASELINES:
            raise InputError(f"method must be one of {', '.join(BASELINES)}, got {self.method!r}")
        for name in ("C", "gamma", "n_neighbors", "n_estimators", "max_depth"):
            value = getattr(self, name)
            if value is None:
                continue
            users = [method for method, names in HYPERPARAMETERS.items() if name in names]
            if self.method not in users:
                raise InputError(f"{name} belongs to {' and '.join(users)}, but {self.method} got {value!r}; drop it")
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be finite and > 0, got {value!r}")
        if self.gamma is not None and self.n_neighbors is not None:
            raise InputError(
                "label-propagation needs gamma (RBF kernel) or n_neighbors (kNN graph), "
                f"got gamma={self.gamma} and n_neighbors={self.n_neighbors}; drop one"
            )

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters that were given."""
        values = {name: getattr(self, name) for name in HYPERPARAMETERS[self.method]}
        return {name: value for name, value in values.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)
