"""A fit that ends by an error keeps nothing: neither step graphs nor tensors, however often it is called."""

import gc

import pytest
import torch

from lds.errors import NumericalError
from lds.graph import SampledGraph
from lds.graph._factors import FactorAccumulator
from lds.learner import Callback, StructureLearner
from tests.learner.problems import blocks

FITS = 50


class StoppedError(Exception):
    pass


class Raising(Callback):
    def on_step(self, record):
        raise StoppedError


def in_the_sweep(patch):
    """As Ctrl-C may come: some step graphs have been swept, others have not."""
    calls, add = [], FactorAccumulator.add

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        add(self, *args)

    patch.setattr(FactorAccumulator, "add", interrupted)


CASES = {
    "nan": (NumericalError, {"inner_lr": 1e30}, (), lambda patch: None),
    "callback": (StoppedError, {}, (Raising(),), lambda patch: None),
    "interrupt": (KeyboardInterrupt, {}, (), in_the_sweep),
}


def fail(data, name):
    error, options, callbacks, prepare = CASES[name]
    learner = StructureLearner(tau=4, horizon=4, max_epochs=1, samples=1, patience=1, **options)
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        with pytest.raises(error):
            learner.fit(data, seed=0, callbacks=callbacks)


def left():
    """Number of tensors and of graphs that Python still knows."""
    gc.collect()
    kinds = [type(thing) for thing in gc.get_objects()]
    return sum(issubclass(kind, torch.Tensor) for kind in kinds), sum(issubclass(kind, SampledGraph) for kind in kinds)


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_kept(name):
    data = blocks(20)
    fail(data, name)
    before = left()
    for _ in range(FITS):
        fail(data, name)
    assert left() == before
