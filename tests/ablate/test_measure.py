"""Ablations of problems that are not graphs."""

import math
import os

import pytest
import torch

from lds.ablate import measure
from lds.errors import InputError, LDSError
from lds.hypergrad import Reverse, hypergradient, record, truncation_curve
from lds.updaters import SGD


def objectives(seed):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(3, generator=generator)

    def inner(w, theta):
        return 0.5 * (w - theta).square().sum()

    def outer_objective(w, theta):
        return (w - target).square().sum()

    return inner, outer_objective


def train(horizon, seed):
    """Gradient descent on θ with truncated hypergradients."""
    theta = torch.zeros(3)
    for _ in range(30):
        result = hypergradient(
            *objectives(seed), torch.zeros(3), theta, updater=SGD(0.1), steps=20, method=Reverse(horizon)
        )
        theta = theta - 0.2 * result.grad
    return {"test_accuracy": -result.outer_loss, "es_accuracy": -result.outer_loss, "pid": os.getpid()}


def loss(horizon, seed):
    return torch.tensor(1.194 / (1 + horizon) + 0.01 * seed)


def named(horizon, seed):
    return {"validation loss": loss(horizon, seed).item(), "other": 0.0}


def misnamed(horizon, seed):
    return {"loss": 1.0}


def diverging(horizon, seed):
    return math.inf


def wordy(horizon, seed):
    return "0.5"


def failing(horizon, seed):
    raise ValueError(f"no luck at {horizon}")


def test_scores_by_horizon():
    trajectory = record(objectives(0)[0], torch.zeros(3), torch.zeros(3), updater=SGD(0.1), steps=20)
    curve = truncation_curve(trajectory, objectives(0)[1])
    found = measure(train, [0, 20, 1], [0, 1], curve=curve, progress=False)
    assert [(row.horizon, row.seed) for row in found.rows] == [(0, 0), (0, 1), (1, 0), (1, 1), (20, 0), (20, 1)]
    assert all(row.seconds > 0 and row.peak_rss_mb > 50 for row in found.rows)
    assert found.mean(20, "es_accuracy").mean == pytest.approx(sum(train(20, s)["es_accuracy"] for s in (0, 1)) / 2)
    # The direct gradient is zero, so nothing is learned without a sweep.
    assert found.mean(0, "es_accuracy").mean < found.mean(1, "es_accuracy").mean < found.mean(20, "es_accuracy").mean
    assert found.recommendation().horizon == 20


def test_a_failure():
    with pytest.raises(LDSError, match=r"the run at horizon 3, seed 0 failed with no luck at 3\nTraceback"):
        measure(failing, [3], [0], progress=False)


@pytest.mark.parametrize("train", [loss, named])
def test_a_loss(train):
    found = measure(train, [0, 5], [0, 1], score="validation loss", lower_is_better=True, progress=False)
    assert [row.score for row in found.rows] == pytest.approx([1.194, 1.204, 0.199, 0.209])
    assert found.names == ("validation loss",)
    assert found.recommendation().horizon == 5


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (misnamed, r"train must return a number, \{'validation loss': number\} or .*, got the names loss"),
        (diverging, "train must return a finite number as validation loss, got inf"),
        (wordy, "train must return a finite number as validation loss, got '0.5'"),
    ],
)
def test_what_is_no_score(train, message):
    with pytest.raises(LDSError, match=message):
        measure(train, [3], [0], score="validation loss", progress=False)


def test_lists_are_checked():
    with pytest.raises(InputError, match=r"horizons must be one or more different integers, got \[\]"):
        measure(train, [], [0])
    with pytest.raises(InputError, match="score must be another name"):
        measure(train, [0], [0], score="seconds")
