"""What an ablation is of; imports nothing heavy, for the command line is built from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lds.errors import InputError
from lds.run import TrainConfig

# Fields of a run that an ablation sets itself.
VARIED = ("horizon", "seed", "data_root")


@dataclass(frozen=True)
class AblationConfig:
    """A truncation-depth ablation of structure learning on one data set.

    Args:
        train: what all runs have in common; its horizon and seed do not count.
        horizons: horizons to train with, ≥ 0.
        seeds: seeds to train each horizon with: the same splits, initial weights and deleted edges for all of them.
        fidelity_steps: inner steps T of the trajectories on which truncated hypergradients are compared with the full
            one.

    Raises:
        InputError: a list is empty or holds a value twice, a number is out of range, or the method learns no structure.
    """

    train: TrainConfig
    horizons: Sequence[int]
    seeds: Sequence[int]
    fidelity_steps: int = 50

    def __post_init__(self) -> None:
        if self.train.method not in ("lds", "knn-lds"):
            raise InputError(f"method must be lds or knn-lds to have a horizon, got {self.train.method!r}")
        for name, least in (("horizons", 0), ("seeds", None)):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InputError(f"{name} must be one or more different integers, got {list(values)}")
            if least is not None and min(values) < least:
                raise InputError(f"{name} must be >= {least}, got {min(values)}")
        if self.fidelity_steps < 1:
            raise InputError(f"fidelity_steps must be at least 1, got {self.fidelity_steps}")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        common = {name: value for name, value in self.train.as_dict().items() if name not in VARIED}
        return common | {
            "horizons": list(self.horizons),
            "seeds": list(self.seeds),
            "fidelity_steps": self.fidelity_steps,
        }
