"""The configuration of one training run; imports nothing heavy, for the command line is built from it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lds.errors import InputError
from lds.run._data_config import DataConfig

METHODS = ("lds", "knn-lds", "gcn", "gcn-rnd", "knn-gcn", "ffnn", "frozen")


@dataclass(frozen=True)
class TrainConfig(DataConfig):
    """One training run.

    Its data is named by dataset, or by data and the options that go with it, see `DataConfig`.

    Args:
        method: lds (start from the given graph), knn-lds (from a kNN graph), gcn and knn-gcn (no structure learned),
            gcn-rnd (gcn with random edges added in every step of training), ffnn (the same network without a graph), or
            frozen (like lds, or knn-lds where no graph is given, but θ is never updated).
        retain: share of the given edges to keep, in [0, 1].
        tau: sets interval and horizon, where these are not given.
        interval: inner steps between two updates of θ.
        horizon: steps that the sweep goes back over; may be longer than the interval.
        outer_lr: initial step size of θ.
        learn_inner_lr: learn the inner learning rate along with θ.
        inner_lr: inner learning rate.
        weight_decay: coefficient of the L2 penalty on the first layer.
        hidden: hidden units.
        dropout: dropout after the first layer.
        k: number of neighbours in the kNN graph.
        metric: distance of the kNN graph; tfidf is cosine with rare words weighted more, for bags of words.
        random_edges: gcn-rnd: expected number of edges added in a step, as a share of the given ones; 0.5 when not
            given.
        patience: outer epochs without improvement on the early-stopping nodes.
        max_epochs: outer epochs, at most; unlimited when not given.
        samples: graphs averaged for a prediction.
        noise: replay or resample the draws of the inner steps in the sweep.
        seed: seed of the split, the deleted edges and the training.
    """

    method: Literal["lds", "knn-lds", "gcn", "gcn-rnd", "knn-gcn", "ffnn", "frozen"] = "lds"
    retain: float = 1.0
    tau: int = 5
    interval: int | None = None
    horizon: int | None = None
    outer_lr: float = 1.0
    learn_inner_lr: bool = False
    inner_lr: float = 0.02
    weight_decay: float = 5e-4
    hidden: int = 16
    dropout: float = 0.5
    k: int = 10
    metric: Literal["cosine", "minkowski", "tfidf"] = "cosine"
    random_edges: float | None = None
    patience: int = 20
    max_epochs: int | None = None
    samples: int = 16
    noise: Literal["replay", "resample"] = "replay"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in METHODS:
            raise InputError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if not (math.isfinite(self.retain) and 0 <= self.retain <= 1):
            raise InputError(f"retain must lie in [0, 1], got {self.retain}")
        if self.hidden < 1:
            raise InputError(f"hidden must be at least 1, got {self.hidden}")
        if self.random_edges is not None and self.method != "gcn-rnd":
            raise InputError(f"random_edges belongs to gcn-rnd, but {self.method} got {self.random_edges}; drop it")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)
