"""The configuration of one training run; imports nothing heavy, for the command line is built from it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lds.errors import InputError

METHODS = ("lds", "knn-lds", "gcn", "knn-gcn", "frozen")


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Args:
        dataset: name of a data set, see `lds data list`.
        method: lds (start from the given graph), knn-lds (from a kNN graph), gcn and knn-gcn (no structure learned),
            or frozen (like lds, or knn-lds where no graph is given, but θ is never updated).
        retain: share of the given edges to keep, in [0, 1].
        tau: inner steps between two updates of θ.
        horizon: steps that the sweep goes back over, at most tau; tau when not given.
        outer_lr: initial step size of θ.
        learn_inner_lr: learn the inner learning rate along with θ.
        inner_lr: inner learning rate.
        weight_decay: coefficient of the L2 penalty on the first layer.
        hidden: hidden units.
        dropout: dropout after the first layer.
        k: number of neighbours in the kNN graph.
        metric: distance of the kNN graph.
        patience: outer epochs without improvement on the early-stopping nodes.
        max_epochs: outer epochs, at most; unlimited when not given.
        samples: graphs averaged for a prediction.
        noise: replay or resample the draws of the inner steps in the sweep.
        seed: seed of the split, the deleted edges and the training.
        data_root: folder of the data sets; $LDS_DATA_ROOT, else data/, when not given.
    """

    dataset: str
    method: Literal["lds", "knn-lds", "gcn", "knn-gcn", "frozen"] = "lds"
    retain: float = 1.0
    tau: int = 5
    horizon: int | None = None
    outer_lr: float = 1.0
    learn_inner_lr: bool = False
    inner_lr: float = 0.02
    weight_decay: float = 5e-4
    hidden: int = 16
    dropout: float = 0.5
    k: int = 10
    metric: Literal["cosine", "minkowski"] = "cosine"
    patience: int = 20
    max_epochs: int | None = None
    samples: int = 16
    noise: Literal["replay", "resample"] = "replay"
    seed: int = 0
    data_root: str | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if not (math.isfinite(self.retain) and 0 <= self.retain <= 1):
            raise InputError(f"retain must lie in [0, 1], got {self.retain}")
        if self.hidden < 1:
            raise InputError(f"hidden must be at least 1, got {self.hidden}")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)
