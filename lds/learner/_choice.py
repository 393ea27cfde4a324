"""Which learner to trust: a comparison on held-out folds of the labelled nodes, pooled, so that it can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lds._checks import check, check_integer
from lds._random import mix
from lds.data.prepare import ready
from lds.data.splits import MASKS
from lds.errors import DataError, InputError
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

    Example:
        >>> from lds.data import load
        >>> from lds.learner import FixedGraphLearner, choose
        >>> choice = choose(load("wine"), {"no graph": FixedGraphLearner(None, steps=20)}, folds=2)
        >>> choice.name, sorted(vars(choice.scores["no graph"]))
        ('no graph', ['accuracy', 'error', 'excess', 'loss'])
    """

    accuracy: float
    loss: float
    excess: float
    error: float


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
        ('no graph', ['accuracy', 'error', 'excess', 'loss'])
    """

    name: str
    scores: Mapping[str, Score]
    nodes: int
    reason: str


def choose(data: Data, learners: Mapping[str, Learner], *, folds: int = 5, repeats: int = 1, seed: int = 0) -> Choice:
    r"""Compare learners on held-out folds of the labelled nodes; test nodes play no part.

    The training, validation and early-stopping nodes are shared out into folds, class by class. Each fold is held out
    once; the others are shared out again for training, validation and early stopping, in the proportions that the data
    has. The learner with the lowest mean cross-entropy on the held-out nodes is the best one, and the first in order
    whose loss is higher by no more than a standard error of the paired difference is chosen: so name the simplest
    first, and a complicated one is taken only where it is seen to be better.

    Args:
        data: as for `StructureLearner.fit`.
        learners: learners by their names, the simplest first.
        folds: number of folds.
        repeats: how often to share out anew; a node's loss is its mean over them.
        seed: seed of the folds and of all training.

    Raises:
        InputError: no learner came, or a number is out of range.
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
    check("folds", folds, "an integer >= 2", lambda x: isinstance(x, int) and x >= 2)
    check_integer("repeats", repeats)
    data = ready(data, weights="initial")
    splits = [split for repeat in range(repeats) for split in _folds(data, folds, mix(seed, repeat))]
    # Node by node: repeats hold out the same nodes again, and tell nothing of other ones.
    losses = {name: data.y.new_zeros(data.num_nodes, dtype=torch.float64) for name in learners}
    right = {name: torch.zeros_like(loss) for name, loss in losses.items()}
    for number, masks in enumerate(splits):
        part = copy(data)
        part.update(masks)
        held = masks["test_mask"]
        for name, learner in learners.items():
            logits = learner.fit(part, seed=mix(seed, number) % 2**31).logits.detach().double()
            loss = torch.nn.functional.cross_entropy(logits[held], data.y[held], reduction="none")
            losses[name][held] += loss / repeats
            right[name][held] += (logits[held].argmax(1) == data.y[held]) / repeats
    labelled = data.train_mask | data.val_mask | data.es_mask
    return _chosen(
        {name: found[labelled].cpu().numpy() for name, found in losses.items()},
        {name: found[labelled].cpu().numpy() for name, found in right.items()},
    )


def _chosen(losses: Mapping[str, npt.NDArray[np.float64]], right: Mapping[str, npt.NDArray[np.float64]]) -> Choice:
    """Return the choice by the mean loss, and share of right classes, of every node."""
    best = min(losses, key=lambda name: float(losses[name].mean()))
    scores = {}
    for name, loss in losses.items():
        difference = loss - losses[best]
        error = float(difference.std(ddof=1)) / math.sqrt(len(loss)) if len(loss) > 1 else 0.0
        scores[name] = Score(float(right[name].mean()), float(loss.mean()), float(difference.mean()), error)
    name = next(name for name, score in scores.items() if score.excess <= score.error)
    nodes, score = len(losses[best]), scores[name]
    if name == best:
        why = f"it has the lowest loss on {nodes} held-out nodes, {score.loss:.3f} ({100 * score.accuracy:.1f} % right)"
    else:
        why = (
            f"on {nodes} held-out nodes its loss, {score.loss:.3f}, is within a standard error, {score.error:.3f}, of "
            f"the lowest, {scores[best].loss:.3f} of {best}, and it is simpler"
        )
    return Choice(name, scores, nodes, f"{name} is chosen: {why}")


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
