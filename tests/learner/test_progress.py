"""Learning that is cut off and gone on from ends in the same bits."""

import io

import pytest
import torch

from lds.errors import InputError
from lds.graph import AllPairs, CandidatePairs
from lds.learner import Callback, StructureLearner
from lds.updaters import SGD, Adam
from tests.learner.problems import Recorder, blocks
from tests.oracles import same_bits

SHORT = {"tau": 2, "inner_steps": 6, "max_epochs": 3, "samples": 2}
LEARNERS = {
    "default": {},
    "learned rate": {"learn_inner_lr": True},
    "momentum": {"updater": SGD(0.1, momentum=0.9)},
    "candidates": {"edges": CandidatePairs},
    "frozen": {"learn_structure": False},
    "short horizon": {"interval": 3, "horizon": 1},
    "long horizon": {"interval": 2, "horizon": 5},
    "resampled": {"noise": "resample"},
}


class StoppedError(Exception):
    pass


class Saver(Callback):
    """Keeps everything that can be resumed from, as a file would, and stops after so many of them."""

    def __init__(self, stop_after=None):
        self.files = []
        self.stop_after = stop_after

    def on_resumable(self, dump):
        buffer = io.BytesIO()
        torch.save(dump(), buffer)
        self.files.append(buffer.getvalue())
        if len(self.files) == self.stop_after:
            raise StoppedError

    def load(self, index):
        return torch.load(io.BytesIO(self.files[index]), weights_only=True)


def same(fit, other):
    assert same_bits(fit.structure.state(), other.structure.state())
    assert same_bits(fit.params, other.params)
    assert same_bits(fit.logits, other.logits)
    assert fit.history == other.history
    assert fit.outer_steps == other.outer_steps


@pytest.mark.parametrize("options", LEARNERS.values(), ids=LEARNERS.keys())
def test_from_every_place_to_the_same_bits(options):
    learner = StructureLearner(**(SHORT | options))
    saver, recorder = Saver(), Recorder()
    whole = learner.fit(blocks(), seed=3, callbacks=[recorder, saver])
    assert len(saver.files) == len(recorder.epochs) + len(recorder.steps)
    for index in range(len(saver.files)):
        same(learner.fit(blocks(), seed=3, resume=saver.load(index)), whole)


def test_callbacks_are_told_of_what_is_left():
    learner = StructureLearner(**SHORT)
    whole, rest, saver = Recorder(), Recorder(), Saver(stop_after=5)
    learner.fit(blocks(), callbacks=[whole])
    with pytest.raises(StoppedError):
        learner.fit(blocks(), callbacks=[saver])
    learner.fit(blocks(), callbacks=[rest], resume=saver.load(-1))
    assert rest.events == whole.events[5:]


def test_a_chain_of_interruptions():
    learner = StructureLearner(**SHORT)
    whole, resume = learner.fit(blocks(), seed=1), None
    for _ in range(100):
        saver = Saver(stop_after=2)
        try:
            fit = learner.fit(blocks(), seed=1, callbacks=[saver], resume=resume)
        except StoppedError:
            resume = saver.load(-1)
        else:
            same(fit, whole)
            return
    pytest.fail("never ended")


def test_a_training_that_had_ended():
    learner = StructureLearner(**SHORT)
    saver, recorder = Saver(), Recorder()
    whole = learner.fit(blocks(), callbacks=[saver])
    same(learner.fit(blocks(), callbacks=[recorder], resume=saver.load(-1)), whole)
    assert recorder.events == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: values.pop("theta"),
        lambda values: values.update(theta=torch.zeros(3)),
        lambda values: values.update(theta=None),
        lambda values: values["state"].update(leaves=values["state"]["leaves"][:-1]),
        lambda values: values.update(history=[{"epoch": 1}]),
        lambda values: values.update(best={"params": {}}),
    ],
)
def test_what_does_not_fit(damage):
    learner = StructureLearner(**SHORT)
    saver = Saver(stop_after=6)
    with pytest.raises(StoppedError):
        learner.fit(blocks(), callbacks=[saver])
    values = saver.load(-1)
    damage(values)
    with pytest.raises(InputError, match="what to resume from must be that of the same learner on the same data"):
        learner.fit(blocks(), resume=values)


@pytest.fixture
def saved():
    """What a callback was given in the second epoch."""
    saver = Saver(stop_after=6)
    with pytest.raises(StoppedError):
        StructureLearner(**SHORT).fit(blocks(), callbacks=[saver])
    return saver.load(-1)


class TestABugOfOursIsNoMisfit:
    """What was saved is fine: the error that comes out is that of the code, not one that blames the values."""

    def test_in_the_structure(self, saved, monkeypatch):
        monkeypatch.setattr(AllPairs, "restore_", lambda self, state: self._flt.copy_(state))
        with pytest.raises(AttributeError, match="_flt"):
            StructureLearner(**SHORT).fit(blocks(), resume=saved)

    @pytest.mark.parametrize("error", [KeyError, TypeError, AttributeError, RuntimeError, ValueError])
    def test_in_the_updater(self, saved, error):
        class Broken(Adam):
            def init(self, params):
                raise error("a typo")

        with pytest.raises(error) as caught:
            StructureLearner(**SHORT, updater=Broken(0.02)).fit(blocks(), resume=saved)
        assert type(caught.value) is error  # An InputError is a ValueError too.


PLACES = {
    "theta": lambda values: (values, "theta"),
    "best": lambda values: (values, "best"),
    "params": lambda values: (values["best"], "params"),
    "history": lambda values: (values, "history"),
    "epoch": lambda values: (values["history"], 0),
    "state": lambda values: (values, "state"),
    "leaves": lambda values: (values["state"], "leaves"),
    "step": lambda values: (values["state"], "step"),
    "inner_loss": lambda values: (values, "inner_loss"),
}


@pytest.mark.parametrize("value", [None, "text", [3], {}, {1: 2}, torch.zeros(2)], ids=repr)
@pytest.mark.parametrize("part", PLACES)
def test_anything_else_in_the_place_of_a_part(saved, part, value):
    owner, key = PLACES[part](saved)
    # A training whose first epoch is running has no best one, and between epochs there is no state.
    owner[key] = 3 if value is None and part in ("best", "state") else value
    with pytest.raises(InputError, match="but it does not fit"):
        StructureLearner(**SHORT).fit(blocks(), resume=saved)


@pytest.mark.parametrize("value", [3, "text", [], {}, torch.zeros(2)], ids=repr)
def test_anything_else_in_the_place_of_all(value):
    with pytest.raises(InputError, match="but it does not fit"):
        StructureLearner(**SHORT).fit(blocks(), resume=value)


def test_slots_that_cannot_be_saved():
    class Odd(SGD):
        def init(self, params):
            return {"handle": object()}

        def step(self, state, outer, inner):
            new = SGD(0.1).step(type(state)(state.params, SGD(0.1).init(state.params), state.step), outer, inner)
            return type(state)(new.params, state.slots, new.step)

    with pytest.raises(InputError, match=r"slots must hold tensors, numbers and texts to be saved, .* hold object"):
        StructureLearner(**SHORT, updater=Odd(0.1)).fit(blocks(), callbacks=[Saver()])


def test_another_updater_is_refused():
    saver = Saver(stop_after=1)
    with pytest.raises(StoppedError):
        StructureLearner(**SHORT, updater=Adam(0.1)).fit(blocks(), callbacks=[saver])
    with pytest.raises(InputError, match="does not fit"):
        StructureLearner(**SHORT, updater=SGD(0.1)).fit(blocks(), resume=saver.load(0))
