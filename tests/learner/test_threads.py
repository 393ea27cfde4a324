"""Threads of small steps: torch has one, compiled code all; what is returned does not depend on how many there are."""

from functools import partial

import pytest
import torch

from lds._callbacks import Callback
from lds._threads import SMALL, one_where_small, threads
from lds.learner import FixedGraphLearner, StructureLearner
from lds.learner._task import Task
from lds.nn import GCN
from lds.run._environment import threads as threads_of_run
from tests.learner.problems import blocks
from tests.oracles import same_bits


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


OPTIONS = {"tau": 2, "inner_steps": 4, "max_epochs": 1, "samples": 2, "refit": 1}


def noting(seen):
    """A model that notes the threads of torch, and those that the process was given, whenever it computes."""

    class Noting(GCN):
        def forward(self, x, graph):
            seen.add((torch.get_num_threads(), threads(), threads_of_run()))
            return super().forward(x, graph)

    return Noting


@pytest.mark.parametrize("make", [partial(StructureLearner, **OPTIONS), partial(FixedGraphLearner, steps=20)])
def test_small_steps_have_one_thread_and_the_process_gets_its_own_back(make):
    seen = set()
    make(model=noting(seen)).fit(blocks())
    assert seen == {(1, 2, 2)}
    assert torch.get_num_threads() == threads() == 2


def test_threads_come_back_after_an_error():
    class Failing(Callback):
        def on_step(self, record):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        StructureLearner(**OPTIONS).fit(blocks(), callbacks=[Failing()])
    assert torch.get_num_threads() == threads() == 2


@pytest.mark.parametrize(("size", "inside"), [(0, 1), (SMALL - 1, 1), (SMALL, 2), (2 * SMALL, 2)])
def test_large_steps_keep_all_threads(size, inside):
    with one_where_small(size):
        assert torch.get_num_threads() == inside
        assert threads() == 2
        with one_where_small(0):  # As where a learner is made of others.
            assert (torch.get_num_threads(), threads()) == (1, 2)
        assert torch.get_num_threads() == inside
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("dense", [False, True])
def test_the_size_is_that_of_the_first_product(dense):
    data = blocks()
    if dense:
        data.x = torch.rand_like(data.x) + 1
    task = Task(data, lambda features, classes: GCN(features, classes, hidden_channels=100), 0.0)
    weights = 100 * (data.x.shape[1] + task.num_classes)
    assert task.multiplications == int(data.x.count_nonzero()) * weights // data.x.shape[1]


def test_another_number_of_threads_gives_the_same_bits():
    nodes = 1400  # So many that compiled code shares a step of θ between threads.
    data, generator = blocks(), torch.Generator().manual_seed(0)
    keep = torch.randint(data.num_nodes, (nodes,), generator=generator)
    keep[: data.num_nodes] = torch.arange(data.num_nodes)
    data.x, data.y = data.x[keep], data.y[keep]
    for name in ("train_mask", "val_mask", "es_mask", "test_mask"):
        mask = torch.zeros(nodes, dtype=torch.bool)
        mask[: data[name].numel()] = data[name]
        data[name] = mask
    fits = []
    for count in (1, 2):
        torch.set_num_threads(count)
        fits.append(StructureLearner(**OPTIONS).fit(data))
    assert same_bits(fits[0].structure.state(), fits[1].structure.state())
    assert same_bits(fits[0].logits, fits[1].logits)
