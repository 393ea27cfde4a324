"""Algorithm 2 by itself: what watchers look at, they do not change."""

import pytest
import torch

from lds._random import forked
from lds.hypergrad import Binomial, Checkpoint, KeepGraphs, KeepStates, Reverse, record
from lds.hypergrad._guards import Watcher
from lds.hypergrad._reverse import reverse
from lds.updaters import SGD, Adam
from tests.oracles import regression, same_bits

UPDATERS = [SGD(0.05, momentum=lambda o: o["momentum"]), Adam(lambda o: o["lr"])]
POLICIES = [None, KeepGraphs(0), KeepStates(), Checkpoint(), Binomial(2)]


def recorded(updater, memory, horizon, **options):
    problem = regression(dropout=0.5)
    return problem, record(
        *problem[:1], *problem[2:], updater=updater, steps=7, horizon=horizon, seed=4, memory=memory, **options
    )


@pytest.mark.parametrize("noise", ["replay", "resample"])
@pytest.mark.parametrize("horizon", [None, 0, 1, 4])
@pytest.mark.parametrize("memory", POLICIES, ids=repr)
@pytest.mark.parametrize(
    "updater", [SGD(0.05, momentum=lambda o: o["momentum"]), Adam(lambda o: o["lr"])], ids=["sgd", "adam"]
)
def test_the_same_bits_without_a_watcher(updater, memory, horizon, noise):
    problem, trajectory = recorded(updater, memory, horizon)
    with forked():
        *_, (t, _, sums) = reverse(trajectory, problem.outer_objective, noise=noise)
        alone = sums.value()
    problem, trajectory = recorded(updater, memory, horizon)
    watched = Reverse(noise=noise).differentiate(trajectory, problem.outer_objective)
    assert trajectory.steps - t == watched.diagnostics.steps_swept
    assert same_bits(alone, watched.grad)


class Diary(Watcher):
    """Writes down what it is called with."""

    def __init__(self):
        self.lines = []

    def start(self, dynamics, final, graph):
        self.lines.append(("start", final.step, [tuple(x.shape) for x in graph.results]))

    def before(self, t, dynamics, step, graph, costate):
        self.lines.append(("before", t, step.graph is graph, [None if p is None else tuple(p.shape) for p in costate]))

    def after(self, t, costate, increments):
        self.lines.append(("after", t, sum(c is not None for tensors in increments for c in tensors)))


class TestWatchers:
    def test_see_f_first_and_then_every_step(self):
        problem, trajectory = recorded(SGD(lambda o: o["lr"]), KeepGraphs(), 2)
        diary = Diary()
        with forked():
            for _ in reverse(trajectory, problem.outer_objective, diary):
                pass
        assert [line[:2] for line in diary.lines] == [
            ("start", 7),
            ("after", 7),
            ("before", 6),
            ("after", 6),
            ("before", 5),
            ("after", 5),
        ]
        assert diary.lines[0][2] == [()]
        assert [line[2] for line in diary.lines if line[0] == "before"] == [True, True]  # Kept graphs.
        assert all(line[2] for line in diary.lines if line[0] == "after")

    def test_see_no_step_that_nothing_flows_through(self):
        _, trajectory = recorded(SGD(0.05), KeepStates(), 2)
        diary = Diary()
        with forked():
            for _ in reverse(trajectory, lambda p, o: o["lr"] ** 2, diary):
                pass
        assert [line[:2] for line in diary.lines] == [("start", 7), ("after", 7), ("after", 6), ("after", 5)]
        assert [line[2] for line in diary.lines[2:]] == [0, 0]


def test_the_costate_of_w_0_is_left_out_on_request():
    problem, trajectory = recorded(SGD(0.05), KeepStates(), None)
    with forked():
        *_, (t, costate, _) = reverse(trajectory, problem.outer_objective, to_start=False)
    assert t == 0
    assert costate == [None] * len(costate)
    with forked():
        *_, (t, costate, _) = reverse(trajectory, problem.outer_objective)
    assert all(isinstance(p, torch.Tensor) for p in costate)
