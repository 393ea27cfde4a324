"""Where a training stands, as something that can be saved and gone on from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import optree
import torch
from torch import Tensor

from lds._callbacks import EpochRecord
from lds._read import reason
from lds.errors import InputError
from lds.hypergrad import Trajectory
from lds.learner._fit import Best
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
        history = _load_history(values)
        try:
            theta = self.outer["structure"].state()
            self.outer["structure"].restore_(_like("theta", values["theta"], theta, finite=True))
            if "inner_lr" in self.outer:
                lr = values["inner_lr"].to(self.outer["inner_lr"])
                self.outer["inner_lr"] = _like("inner_lr", lr, self.outer["inner_lr"])
            self.history = history
            self.best = None if values["best"] is None else _load_best(values["best"], params, theta)
            self.state = None if values["state"] is None else _load_state(values["state"], params, updater)
            self.outer_step, self.stale, self.failures = (
                _count(name, values[name]) for name in ("outer_step", "stale", "failures")
            )
            self.inner_loss, self.least = (_like(name, values[name], 0.0) for name in ("inner_loss", "least"))
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            raise _no_fit(error) from error


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


def _load_history(values: Mapping[str, Any]) -> list[EpochRecord]:
    try:
        records = [EpochRecord(**record) for record in values["history"]]
        for record in records:
            for name, value in vars(record).items():
                if not isinstance(value, int | float):
                    raise TypeError(f"{name} of an epoch is a {type(value).__name__}")
    except (KeyError, TypeError) as error:
        raise _no_fit(error) from error
    return records


def _load_state(values: Mapping[str, Any], params: Params, updater: Updater) -> State:
    with torch.no_grad():
        like: Any = (params, updater.init(params))
    paths, leaves, structure = optree.tree_flatten_with_path(like)
    found = [_like(str(path), *pair) for path, *pair in zip(paths, values["leaves"], leaves, strict=True)]
    tree: Any = optree.tree_unflatten(structure, found)
    return State(tree[0], tree[1], _count("step", values["step"]))


def _load_best(values: Mapping[str, Any], params: Params, theta: Tensor) -> Best:
    best = Best(**values)
    if best.params.keys() != params.keys():
        raise ValueError(f"the weights are {', '.join(map(str, best.params)):.80}, not {', '.join(params)}")
    for name, like in params.items():
        _like(name, best.params[name], like)
    _like("theta", best.theta, theta, finite=True)
    if not (isinstance(best.logits, Tensor) and best.logits.is_floating_point() and best.logits.ndim == 2):
        raise ValueError("logits are no matrix")
    for name in ("es_accuracy", "es_loss"):
        _like(name, getattr(best, name), 0.0)
    return best


def _like(name: str, value: Any, like: Any, *, finite: bool = False) -> Any:
    """Return the value if it is of the kind of another one."""
    if not isinstance(like, Tensor):
        if type(value) is not type(like):
            raise TypeError(f"{name} is a {type(value).__name__}, not a {type(like).__name__}")
        return value
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}, not a tensor")
    kind, wanted = ((x.dtype, tuple(x.shape), x.layout) for x in (value, like))
    if kind != wanted or value.is_meta:
        raise ValueError(f"{name} is {kind}, not {wanted}")
    if finite and not bool(value.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinity")
    return value


def _count(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise ValueError(f"{name} is {value!r:.80}, not a count")
    return value


def _no_fit(error: Exception) -> InputError:
    return InputError(
        f"what to resume from must be that of the same learner on the same data, but it does not fit: {reason(error)}"
    )
