"""Which learner to trust: a comparison on held-out folds of the labelled nodes, pooled, so that it can tell."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lds._callbacks import Callback, Callbacks, FoldRecord
from lds._checks import check, check_integer
from lds._random import mix
from lds.data.prepare import ready
from lds.data.splits import MASKS
from lds.errors import DataError, InputError, NumericalError
from lds.learner._fit import Fit

if TYPE_CHECKING:
    from torch_geometric.data import Data


class Learner(Protocol):
    """What can be compared."""

    def fit(self, data: Data, *, seed: int = 0) -> Fit:
        """Train on one data set."""


@dataclass(frozen=True)
class Score:
    """What a learner does on held-out nodes.

    Attributes:
        accuracy: share of them that is classified correctly.
        loss: mean cross-entropy.
        excess: mean loss less that of the best learner, node by node.
        error: standard error of that difference, over the nodes; each with its mean over the repeats.
        nodes: number of these nodes.

    Example:
        >>> from lds.data import load
        >>> from lds.learner import FixedGraphLearner, choose
        >>> choice = choose(load("wine"), {"no graph": FixedGraphLearner(None, steps=20)}, folds=2)
        >>> choice.name, sorted(vars(choice.scores["no graph"]))
        ('no graph', ['accuracy', 'error', 'excess', 'loss', 'nodes'])
    """

    accuracy: float
    loss: float
    excess: float
    error: float
    nodes: int


@dataclass(frozen=True)
class Choice:
    """The outcome of a comparison.

    Attributes:
        name: the learner to trust.
        scores: of each learner by its name, from the simplest on.
        nodes: number of held-out nodes, over all folds; each counts once, however often it is repeated.
        reason: a sentence that says why.

    Example:
        >>> from lds.data import load
        >>> from lds.learner import FixedGraphLearner, choose
        >>> choice = choose(load("wine"), {"no graph": FixedGraphLearner(None, steps=20)}, folds=2)
        >>> choice.name, sorted(vars(choice.scores["no graph"]))
        ('no graph', ['accuracy', 'error', 'excess', 'loss', 'nodes'])
    """

    name: str
    scores: Mapping[str, Score]
    nodes: int
    reason: str


def choose(
    data: Data,
    learners: Mapping[str, Learner],
    *,
    folds: int = 5,
    repeats: int = 1,
    costly: Collection[str] = (),
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    resume: Sequence[FoldRecord] = (),
) -> Choice:
    r"""Compare learners on held-out folds of the labelled nodes; test nodes play no part.

    The training, validation and early-stopping nodes are shared out into folds, class by class. Each fold is held out
    once; the others are shared out again for training, validation and early stopping, in the proportions that the data
    has. The learner with the lowest mean cross-entropy on the held-out nodes is the best one, and the first in order
    whose loss is higher by no more than a standard error of the paired difference is chosen: so name the simplest
    first, and a complicated one is taken only where it is seen to be better.

    A learner that is named in `costly` takes part in the first repeat alone, and only as long as its loss is the lowest
    after two folds or more; if it is not, it is left out, and its score is that of the folds before.

    Args:
        data: as for `StructureLearner.fit`.
        learners: learners by their names, the simplest first.
        folds: number of folds.
        repeats: how often to share out anew; a node's loss is its mean over them.
        costly: names of learners that are to be trained no more often than it takes.
        seed: seed of the folds and of all training.
        callbacks: told of every learner and fold; an exception ends the comparison.
        resume: what they were told of the same comparison, where it was cut off; it is not done again.

    Raises:
        InputError: no learner came, or none that is not costly, or a number is out of range, or what to resume from is
            of something else.
        DataError: there are too few labelled nodes for so many folds.

    Example:
        >>> from lds.data import load
        >>> from lds.graph import KNNGraph
        >>> from lds.learner import FixedGraphLearner
        >>> learners = {
        ...     "no graph": FixedGraphLearner(None, train_on="train+val", steps=50),
        ...     "kNN graph": FixedGraphLearner(KNNGraph(10), train_on="train+val", steps=50),
        ... }
        >>> choose(load("wine"), learners, folds=3).nodes
        30
    """
    if not learners:
        raise InputError("learners must be some learners by their names, but none came; name two or more")
    if unknown := [name for name in costly if name not in learners]:
        raise InputError(f"costly must name some of the learners, got {unknown[0]!r:.80}; name others, or none")
    if set(costly) == learners.keys():
        raise InputError("costly must leave a learner to compare with, but names all; name fewer")
    check("folds", folds, "an integer >= 2", lambda x: isinstance(x, int) and x >= 2)
    check_integer("repeats", repeats)
    told = Callbacks(callbacks)
    data = ready(data, weights="initial")
    splits = [split for repeat in range(repeats) for split in _folds(data, folds, mix(seed, repeat))]
    known = {(record.fold, record.learner): record for record in resume}
    found = {name: _HeldOut(data.num_nodes) for name in learners}
    for number, masks in enumerate(splits, 1):
        part = copy(data)
        part.update(masks)
        held = masks["test_mask"].nonzero().flatten()
        for name in _take_part(found, costly, number, folds):
            record = known.get((number, name))
            if record is None:
                logits = learners[name].fit(part, seed=mix(seed, number - 1) % 2**31).logits.detach()[held].double()
                losses = torch.nn.functional.cross_entropy(logits, data.y[held], reduction="none")
                if not bool(losses.isfinite().all()):
                    raise NumericalError(f"{name} must give finite logits, but gave NaN or infinity on fold {number}")
                right = logits.argmax(1) == data.y[held]
                record = FoldRecord(
                    name, number, len(splits), tuple(held.tolist()), tuple(losses.tolist()), tuple(right.tolist())
                )
                told.on_fold(record)
            elif (record.folds, record.nodes) != (len(splits), tuple(held.tolist())):
                raise InputError(
                    f"what to resume from must be of the same folds, but fold {number} of {name} has other nodes; "
                    "compare anew"
                )
            found[name].add(record)
    labelled = (data.train_mask | data.val_mask | data.es_mask).cpu().numpy()
    return _chosen({name: held.scored() for name, held in found.items()}, labelled)


class _HeldOut:
    """What a learner does on the nodes of the folds so far: sums over repeats, which tell nothing of other nodes."""

    def __init__(self, num_nodes: int) -> None:
        self._loss, self._right, self._times = np.zeros((3, num_nodes))

    def add(self, record: FoldRecord) -> None:
        """Add a fold."""
        nodes = list(record.nodes)
        self._loss[nodes] += record.losses
        self._right[nodes] += record.right
        self._times[nodes] += 1

    def scored(self) -> _Means:
        """Return the means over the repeats."""
        with np.errstate(invalid="ignore"):  # Of nodes that were not held out.
            return _Means(self._loss / self._times, self._right / self._times)


@dataclass(frozen=True)
class _Means:
    """Loss and share of right classes of each node; NaN where it was not held out."""

    loss: npt.NDArray[np.float64]
    right: npt.NDArray[np.float64]

    def score(self, best: _Means) -> Score:
        """Return the score on the nodes that were held out, next to that of the best learner on the same ones."""
        seen = ~np.isnan(self.loss)
        loss, difference = self.loss[seen], self.loss[seen] - best.loss[seen]
        error = float(difference.std(ddof=1)) / math.sqrt(len(loss)) if len(loss) > 1 else 0.0
        return Score(float(self.right[seen].mean()), float(loss.mean()), float(difference.mean()), error, len(loss))


def _best(means: Mapping[str, _Means], nodes: npt.NDArray[np.bool_]) -> str:
    """Return the learner with the lowest loss of those that have seen these nodes."""
    losses = {name: float(found.loss[nodes].mean()) for name, found in means.items()}
    return min((name for name in losses if not math.isnan(losses[name])), key=losses.__getitem__)


def _take_part(found: Mapping[str, _HeldOut], costly: Collection[str], number: int, folds: int) -> list[str]:
    """Return the learners to train in a fold."""
    if number <= 2:
        return list(found)
    if number > folds:
        return [name for name in found if name not in costly]
    means = {name: held.scored() for name, held in found.items()}
    cheap = [name for name in found if name not in costly]
    best = _best(means, ~np.isnan(means[cheap[0]].loss))
    return [*cheap, best] if best in costly else cheap


def _chosen(means: Mapping[str, _Means], nodes: npt.NDArray[np.bool_]) -> Choice:
    """Return the choice by the mean loss of every node."""
    best = _best(means, nodes)
    scores = {name: found.score(means[best]) for name, found in means.items()}
    count = int(nodes.sum())
    name = next(name for name, score in scores.items() if score.nodes == count and score.excess <= score.error)
    score = scores[name]
    if name == best:
        why = f"it has the lowest loss on {count} held-out nodes, {score.loss:.3f} ({100 * score.accuracy:.1f} % right)"
    else:
        why = (
            f"on {count} held-out nodes its loss, {score.loss:.3f}, is within a standard error, {score.error:.3f}, of "
            f"the lowest, {scores[best].loss:.3f} of {best}, and it comes first of the two"
        )
    return Choice(name, scores, count, f"{name} is chosen: {why}")


def _folds(data: Data, folds: int, seed: int) -> list[dict[str, Tensor]]:
    """Return the masks of every fold; what is held out is the test mask."""
    parts = [int(data[mask].sum()) for mask in MASKS[:3]]
    labelled = (data.train_mask | data.val_mask | data.es_mask).nonzero().flatten()
    generator = torch.Generator().manual_seed(seed % 2**63)
    order = labelled[torch.randperm(labelled.numel(), generator=generator).to(labelled.device)]
    # Class by class, so that each fold has its share of each.
    order = order[torch.sort(data.y[order], stable=True).indices]
    fold = torch.empty_like(order)
    fold[:] = torch.arange(order.numel()) % folds
    found = []
    for number in range(folds):
        rest = order[fold != number]
        # Every so many nodes of the ordered rest, in the proportions of the parts.
        place = (torch.arange(rest.numel(), dtype=torch.float64) * _GOLDEN) % 1 * sum(parts)
        bounds = [0.0, parts[0], parts[0] + parts[1], float(sum(parts))]
        masks = {}
        for mask, low, high in zip(MASKS[:3], bounds[:-1], bounds[1:], strict=True):
            masks[mask] = torch.zeros_like(data.train_mask)
            masks[mask][rest[((place >= low) & (place < high)).to(rest.device)]] = True
        masks[MASKS[3]] = torch.zeros_like(data.train_mask)
        masks[MASKS[3]][order[fold == number]] = True
        if not all(bool(mask.any()) for mask in masks.values()):
            raise DataError(
                f"data must have labelled nodes for {folds} folds, and in each for training, validation and early "
                f"stopping, but {labelled.numel()} came; label more nodes or take fewer folds"
            )
        found.append(masks)
    return found


# Multiples of it, without their whole parts, spread evenly over [0, 1).
_GOLDEN = (math.sqrt(5) - 1) / 2
