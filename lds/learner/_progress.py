"""Where a training stands: to save it, to go on from it, and to keep it where a number is not finite."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import optree
import torch
from torch import Tensor

from lds._callbacks import EpochRecord
from lds._frames import frames_of_ours
from lds._kernel import VARIABLE
from lds.errors import InputError, NumericalError, OuterStepError, PremiseWarning
from lds.graph import LearnedPairs
from lds.hypergrad import SweepDiagnostics, Trajectory
from lds.learner._kept import Kept, stored
from lds.learner._task import Params
from lds.updaters import State, Updater


@dataclass(frozen=True)
class Best:
    """The best epoch so far: weights, a copy of θ, and the figures it was chosen by."""

    params: Params
    theta: Kept
    es_accuracy: float
    es_loss: float


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
        return with_tensors(self.live())

    def live(self) -> dict[str, Any]:
        """Return what `dump` returns, to be read before learning goes on: θ is no copy, and the best one a `Kept`.

        Raises:
            InputError: as for `dump`.
        """
        structure = self.outer["structure"]
        return {
            "theta": stored(structure),
            "kernel": getattr(structure, "kernel", None),
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

    def kept(self) -> dict[str, Any] | None:
        """Return what `live` returns, with a copy of θ; None where the updater's slots cannot be saved."""
        try:
            values = self.live()
        except InputError:
            return None
        return {**values, "theta": Kept.of(self.outer["structure"])}

    @classmethod
    def load(cls, values: object, outer: dict[str, Any], params: Params, updater: Updater) -> Progress:
        """Return the progress that `dump` described.

        All values are checked before any is used, and no exception is caught: one that is no InputError is a fault of
        this package or of the updater, whatever the values are.

        Args:
            values: what `dump` returned, for the same learner and data.
            outer: the outer variables at their initial values; they change to what they were.
            params: weights like those of the model.
            updater: the inner updater.

        Raises:
            InputError: the values belong to another learner or other data.
        """
        like = cls(outer).live()
        found = _mapping("the whole", values, like)
        _check_kernel(found["kernel"], like["kernel"])
        learned = isinstance(outer["structure"], LearnedPairs)
        theta = _theta(found["theta"], like["theta"], probabilities=not learned)
        if "inner_lr" in outer:
            outer["inner_lr"] = _like("inner_lr", found["inner_lr"], outer["inner_lr"]).to(outer["inner_lr"])
        best, state = found["best"], found["state"]
        progress = cls(
            outer,
            outer_step=_count("outer_step", found["outer_step"]),
            history=[_epoch_record(record) for record in _list("history", found["history"])],
            best=None if best is None else _best(best, params, like["theta"], probabilities=not learned),
            stale=_count("stale", found["stale"]),
            state=None if state is None else _state(state, params, updater),
            inner_loss=_like("inner_loss", found["inner_loss"], 0.0),
            least=_like("least", found["least"], 0.0),
            failures=_count("failures", found["failures"]),
        )
        _check_history(progress)
        theta.restore_(outer["structure"])
        return progress


class Resumable:
    """What learning can be resumed from, for callbacks: called, it returns numbers, texts and tensors.

    Args:
        live: returns the same with a θ that is no copy, and further ones as `Kept`.
    """

    def __init__(self, live: Callable[[], dict[str, Any]]) -> None:
        self.live = live

    def __call__(self) -> dict[str, Any]:
        """Return what `fit` takes as `resume`."""
        return with_tensors(self.live())


def with_tensors(values: dict[str, Any]) -> dict[str, Any]:
    """Return what `Progress.live` returned with copies of θ as tensors."""
    best, theta = values["best"], values["theta"]
    best = None if best is None else {**best, "theta": best["theta"].tensor()}
    return {**values, "theta": theta.tensor() if isinstance(theta, Kept) else theta.clone(), "best": best}


@contextmanager
def reproducible(progress: Progress, start: dict[str, Any] | None) -> Iterator[None]:
    """Have a NumericalError carry where learning stood before: with that, the outer step can be run again.

    Args:
        progress: where learning stands; what a window changes of it before it fails is changed back.
        start: where to begin instead, for windows that need iterates of earlier ones; None: here.

    Raises:
        OuterStepError: a number is NaN or infinite inside.
    """
    before = progress.state, progress.trajectory, progress.inner_loss
    try:
        yield
    except NumericalError as error:
        progress.state, progress.trajectory, progress.inner_loss = before
        values = progress.kept() if start is None else start
        step = progress.outer_step + 1
        values = None if values is None else with_tensors(values)
        raise OuterStepError(f"in outer step {step}, epoch {progress.epoch}: {error}", step, values) from error


def report_explosion(progress: Progress, diagnostics: SweepDiagnostics) -> None:
    """Warn, once a training, of costates that explode."""
    if diagnostics.explodes_at is not None and not progress.warned:
        progress.warned = True
        warnings.warn(
            f"costates explode: in outer step {progress.outer_step + 1} they exceed a million times the first from "
            f"depth {diagnostics.explodes_at} of {diagnostics.steps_swept} on; take a horizon below "
            f"{diagnostics.explodes_at}, or a lower inner learning rate",
            PremiseWarning,
            stacklevel=frames_of_ours(),
        )


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


def _state(value: object, params: Params, updater: Updater) -> State:
    with torch.no_grad():
        like: Any = (params, updater.init(params))
    found = _mapping("the state", value, ("leaves", "step"))
    paths, wanted, structure = optree.tree_flatten_with_path(like)
    leaves = _list("the state", found["leaves"])
    if len(leaves) != len(wanted):
        raise no_fit(f"the state has {len(leaves)} parts, not {len(wanted)}")
    leaves = [_like(str(path), *pair) for path, *pair in zip(paths, leaves, wanted, strict=True)]
    tree: Any = optree.tree_unflatten(structure, leaves)
    return State(tree[0], tree[1], _count("step", found["step"]))


def _best(value: object, params: Params, theta: Tensor, *, probabilities: bool) -> Best:
    found = _mapping("the best epoch", value, [part.name for part in fields(Best)])
    weights = _mapping("its weights", found["params"], params)
    return Best(
        params={name: _like(name, weights[name], like) for name, like in params.items()},
        theta=_theta(found["theta"], theta, probabilities=probabilities),
        es_accuracy=_like("es_accuracy", found["es_accuracy"], 0.0),
        es_loss=_like("es_loss", found["es_loss"], 0.0),
    )


def _theta(value: object, like: Tensor, *, probabilities: bool) -> Kept:
    """Return a copy of θ, or of what it is a function of, that came as a tensor, or as a file of one."""
    if not isinstance(value, Kept):
        _like("theta", value, like)
        assert isinstance(value, Tensor)
        value = Kept(like.numel(), like.dtype, like.device, torch.split(value.flatten(), like.numel()))
    elif (value.numel, value.dtype) != (like.numel(), like.dtype):
        raise no_fit(f"theta has {value.numel} numbers of {value.dtype}, not {like.numel()} of {like.dtype}")
    if probabilities and not all(bool(((part >= 0) & (part <= 1)).all()) for part in value.parts()):
        raise no_fit("theta holds what is no probability")
    if not all(bool(part.isfinite().all()) for part in value.parts()):
        raise no_fit("theta holds NaN or infinity")
    return value


def _check_kernel(saved: object, here: object) -> None:
    if saved != here:
        raise InputError(
            f"what to resume from must be of the same kernel, but was computed by {saved!r:.80} and this process takes "
            f"{here!r}, whose last digits differ; set {VARIABLE}={saved} where lds has that"
        )


def _check_history(progress: Progress) -> None:
    """Refuse counters that no training leads to."""
    ended = len(progress.history)
    if [record.epoch for record in progress.history] != list(range(1, ended + 1)):
        raise no_fit("the epochs are not numbered from 1 on")
    if (progress.best is None) != (ended == 0):
        raise no_fit(f"{ended} epochs have ended, and {'none' if progress.best is None else 'one'} was the best")
    if progress.stale > max(ended - 1, 0):
        raise no_fit(f"the accuracy has not risen for {progress.stale} epochs, of {ended}")
    if ended and progress.outer_step < progress.history[-1].outer_step:
        raise no_fit(f"{progress.outer_step} outer steps are fewer than those of the epochs that have ended")


def _epoch_record(value: object) -> EpochRecord:
    found = _mapping("an epoch", value, [part.name for part in fields(EpochRecord)])
    for name, number in found.items():
        if not isinstance(number, int | float):
            raise no_fit(f"{name} of an epoch is a {type(number).__name__}")
    return EpochRecord(**found)


def _mapping(name: str, value: object, keys: Collection[str]) -> Mapping[str, Any]:
    """Return the value if it is a mapping with these keys and no others."""
    if not isinstance(value, Mapping):
        raise no_fit(f"{name} is a {type(value).__name__}, not a dict")
    if value.keys() != set(keys):
        raise no_fit(f"{name} has {', '.join(map(str, value)):.80}, not {', '.join(keys)}")
    return value


def _list(name: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise no_fit(f"{name} is a {type(value).__name__}, not a list")
    return value


def _like(name: str, value: object, like: Any) -> Any:
    """Return the value if it is of the kind of another one."""
    if not isinstance(like, Tensor):
        if type(value) is not type(like):
            raise no_fit(f"{name} is a {type(value).__name__}, not a {type(like).__name__}")
        return value
    if not isinstance(value, Tensor) or value.is_nested or value.is_meta:
        raise no_fit(f"{name} is a {type(value).__name__}, not a tensor of numbers")
    kind, wanted = ((x.dtype, tuple(x.shape), x.layout) for x in (value, like))
    if kind != wanted:
        raise no_fit(f"{name} is {kind}, not {wanted}")
    return value


def _count(name: str, value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise no_fit(f"{name} is {value!r:.80}, not a count")
    return value


def no_fit(why: str) -> InputError:
    """Return what to raise where something does not belong to what is resumed."""
    return InputError(
        "what to resume from must be that of the same learner on the same data, but it does not fit: "
        f"{' '.join(why.split())[:200]}"
    )
