"""What callbacks are told, in which order, and how they end learning."""

import pytest

from lds.errors import InputError
from lds.learner import Callback, FixedGraphLearner, StructureLearner
from tests.learner.problems import Recorder, blocks

SHORT = {"tau": 2, "inner_steps": 6, "inner_patience": 99, "max_epochs": 3, "samples": 2}


class Teller(Callback):
    """Writes down the names of what it is told; raises or ends learning at one of them."""

    def __init__(self, stop_at=None, raise_at=None):
        self.told = []
        self.stop_at = stop_at
        self.raise_at = raise_at

    def tell(self, name):
        self.told.append(name)
        if len(self.told) == self.raise_at:
            raise RuntimeError(name)
        return len(self.told) == self.stop_at or None

    def on_start(self, history, outer_step):
        self.tell("start")

    def on_step(self, record):
        return self.tell("step")

    def on_epoch(self, record):
        return self.tell("epoch")

    def on_resumable(self, dump):
        self.tell("resumable")

    def on_end(self):
        self.told.append("end")


EPOCH = ["step", "resumable"] * 3 + ["epoch", "resumable"]


class TestOrder:
    def test_a_whole_training(self):
        first, second = Teller(), Teller()
        StructureLearner(**SHORT).fit(blocks(), callbacks=[first, second])
        assert first.told == second.told == ["start", *EPOCH * 3, "end"]

    def test_a_sweep_beyond_an_outer_step(self):
        teller = Teller()
        StructureLearner(**SHORT, horizon=4).fit(blocks(), callbacks=[teller])
        assert teller.told == ["start", *EPOCH * 3, "end"]

    def test_a_fixed_graph(self):
        teller = Teller()
        FixedGraphLearner(steps=10).fit(blocks(), callbacks=[teller])
        assert teller.told == ["start", "epoch", "end"]

    def test_a_callback_that_overrides_nothing(self):
        fit = StructureLearner(**SHORT).fit(blocks(), callbacks=[Callback()])
        assert fit.history == StructureLearner(**SHORT).fit(blocks()).history

    def test_what_the_start_is_told_of(self):
        class Start(Recorder):
            def on_start(self, history, outer_step):
                self.start = (history, outer_step)

            def on_resumable(self, dump):
                if len(self.steps) == 5 and not hasattr(self, "dump"):
                    self.dump = dump()

        new, resumed = Start(), Start()
        fit = StructureLearner(**SHORT).fit(blocks(), callbacks=[new])
        StructureLearner(**SHORT).fit(blocks(), callbacks=[resumed], resume=new.dump)
        assert new.start == ((), 0)
        assert resumed.start == (fit.history[:1], 5)
        assert [record.outer_step for record in resumed.steps] == [6, 7, 8, 9]


class TestStop:
    """Positions count from 1 and begin with the start: an epoch is 3 × (step, resumable), epoch, resumable."""

    def test_after_an_epoch(self):
        stopping, other = Teller(stop_at=16), Teller()
        fit = StructureLearner(**SHORT).fit(blocks(), callbacks=[stopping, other])
        assert other.told == ["start", *EPOCH * 2, "end"]
        assert fit.history == StructureLearner(**SHORT).fit(blocks()).history[:2]

    def test_within_an_epoch(self):
        """The epoch is evaluated as if it had no more steps."""
        stopping, other = Teller(stop_at=4), Teller()
        fit = StructureLearner(**SHORT).fit(blocks(), callbacks=[stopping, other])
        assert other.told == ["start", *["step", "resumable"] * 2, "epoch", "resumable", "end"]
        assert fit.history == StructureLearner(**SHORT | {"inner_steps": 4, "max_epochs": 1}).fit(blocks()).history
        assert fit.outer_steps == 2


class TestErrors:
    @pytest.mark.parametrize("raise_at", [1, 2, 3, 8])
    def test_an_exception_ends_learning_and_all_are_told(self, raise_at):
        before, failing = Teller(), Teller(raise_at=raise_at)
        with pytest.raises(RuntimeError, match=["start", *EPOCH][raise_at - 1]):
            StructureLearner(**SHORT).fit(blocks(), callbacks=[before, failing])
        assert before.told == failing.told == [*["start", *EPOCH][:raise_at], "end"]

    def test_an_end_that_fails_spares_the_others(self):
        class Failing(Callback):
            def on_end(self):
                raise RuntimeError("mine")

        teller = Teller()
        with pytest.raises(RuntimeError, match="mine"):
            FixedGraphLearner(steps=10).fit(blocks(), callbacks=[Failing(), teller])
        assert teller.told[-1] == "end"

    @pytest.mark.parametrize("make", [StructureLearner, FixedGraphLearner])
    def test_something_else(self, make):
        with pytest.raises(InputError, match=r"derived from lds.learner.Callback, got <built-in function print>"):
            make().fit(blocks(), callbacks=[print])

    @pytest.mark.parametrize("make", [StructureLearner, FixedGraphLearner])
    def test_one_without_a_list(self, make):
        with pytest.raises(InputError, match=r"a list of callbacks, got <.*Callback object .*; put it into a list"):
            make().fit(blocks(), callbacks=Callback())
