"""Where a training stands, as something that can be saved and gone on from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import optree
import torch
from torch import Tensor

from lds.errors import InputError
from lds.hypergrad import Trajectory
from lds.learner._fit import Best, EpochRecord
from lds.learner._task import Params
from lds.updaters import State, Updater


@dataclass
class Progress:
    """All that the rest of a training depends on, besides the learner, the data and the seed; θ lies in `outer`.

    Attributes:
        outer: the outer variables.
        outer_step: outer steps so far.
        history: one record an outer epoch that has ended.
        best: the best of them.
        stale: outer epochs since the early-stopping accuracy rose.
        state: weights and slots in the epoch that is running; None between epochs.
        trajectory: its last iterates; None after a resume, where no sweep reaches that far.
        inner_loss: mean inner loss of the last window.
        least: least inner loss of a window in this epoch.
        failures: windows since it fell.
        warned: whether exploding costates were reported.
    """

    outer: dict[str, Any]
    outer_step: int = 0
    history: list[EpochRecord] = field(default_factory=list)
    best: Best | None = None
    stale: int = 0
    state: State | None = None
    trajectory: Trajectory | None = None
    inner_loss: float = math.nan
    least: float = math.inf
    failures: int = 0
    warned: bool = False

    @property
    def epoch(self) -> int:
        """The outer epoch that is running, from 1."""
        return len(self.history) + 1

    def end_epoch(self) -> None:
        """Forget what belongs to one epoch."""
        self.state = self.trajectory = None
        self.least, self.failures = math.inf, 0

    def dump(self) -> dict[str, Any]:
        """Return numbers, texts and tensors that `load` takes; a file of them needs no pickle to be read.

        Raises:
            InputError: the updater's slots hold something else.
        """
        return {
            "theta": self.outer["structure"].state(),
            "inner_lr": self.outer.get("inner_lr"),
            "outer_step": self.outer_step,
            "history": [asdict(record) for record in self.history],
            "best": None if self.best is None else dict(vars(self.best)),
            "stale": self.stale,
            "state": None if self.state is None else _dump_state(self.state),
            "inner_loss": self.inner_loss,
            "least": self.least,
            "failures": self.failures,
        }

    def load(self, values: Mapping[str, Any], params: Params, updater: Updater) -> None:
        """Go on from what `dump` returned.

        Args:
            values: what it returned, for the same learner and data.
            params: weights like those of the model.
            updater: the inner updater.

        Raises:
            InputError: the values belong to another learner or other data.
        """
        try:
            self.outer["structure"].restore_(values["theta"])
            if "inner_lr" in self.outer:
                self.outer["inner_lr"] = values["inner_lr"].to(self.outer["inner_lr"])
            self.outer_step = values["outer_step"]
            self.history = [EpochRecord(**record) for record in values["history"]]
            self.best = None if values["best"] is None else Best(**values["best"])
            self.stale = values["stale"]
            self.state = None if values["state"] is None else _load_state(values["state"], params, updater)
            self.inner_loss, self.least, self.failures = values["inner_loss"], values["least"], values["failures"]
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            raise InputError(
                f"what to resume from must be that of the same learner on the same data, but it does not fit: {error}"
            ) from error


def _dump_state(state: State) -> dict[str, Any]:
    tree: Any = (state.params, state.slots)
    leaves: list[Any] = optree.tree_leaves(tree)
    for leaf in leaves:
        if not isinstance(leaf, Tensor | int | float | str):
            raise InputError(
                "slots must hold tensors, numbers and texts to be saved, but the updater's hold "
                f"{type(leaf).__name__}; keep such things in the updater itself"
            )
    return {"leaves": leaves, "step": state.step}


def _load_state(values: Mapping[str, Any], params: Params, updater: Updater) -> State:
    with torch.no_grad():
        like: Any = (params, updater.init(params))
    tree: Any = optree.tree_unflatten(optree.tree_structure(like), values["leaves"])
    return State(tree[0], tree[1], values["step"])
