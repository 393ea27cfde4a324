"""A keyword that a function does not take: the message says what to write."""

import inspect
import pickle

import pytest
import torch

from lds import LDSClassifier, StructureLearner
from lds.errors import InputError, KeywordError
from lds.hypergrad import Checkpoint, Implicit, KeepStates, Reverse, hypergradient, record, sweep, unroll
from lds.updaters import SGD, Adam, ClipByNorm

PARAMS, OUTER = {"w": torch.zeros(3)}, torch.tensor(0.5)


def inner(params, outer):
    return ((params["w"] - 1) ** 2).sum() * outer


def outer_objective(params, outer):
    return (params["w"] ** 2).sum()


def call(function=hypergradient, **options):
    first = (inner,) if function in (record, unroll) else (inner, outer_objective)
    return function(*first, PARAMS, OUTER, **{"updater": Adam(0.1), "steps": 3, **options})


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        (
            lambda: call(horizon=3),
            r"hypergradient takes no horizon, .* write method=Reverse\(horizon=3\)",
        ),
        (lambda: call(method=Reverse(), tol=0.1), r"write method=Reverse\(tol=0.1\)"),
        (lambda: call(method=Implicit(), tol=0.1), r"write method=Implicit\(tol=0.1\)"),
        (lambda: call(memory=KeepStates()), r"write method=Reverse\(memory=KeepStates\(\)\)"),
        (lambda: call(every=5), r"write method=Reverse\(memory=Checkpoint\(every=5\)\)"),
        (lambda: call(lr=0.1), r"write updater=Adam\(lr=0.1\)"),
        (lambda: call(updater=SGD(0.1), lr=0.2), r"write updater=SGD\(lr=0.2\)"),
        (lambda: call(learning_rate=0.1), r"write updater=Adam\(lr=0.1\)"),
        (lambda: call(optimizer=SGD(0.1)), "did you mean updater"),
        (lambda: call(num_steps=3), "did you mean steps"),
        (lambda: call(record, every=5), r"write memory=Checkpoint\(every=5\)"),
        (lambda: call(unroll, horizon=3), r"unroll takes no horizon.* write method=Reverse\(horizon=3\)"),
        (lambda: sweep(call(record), outer_objective, horizon=3), "horizon is an argument of .*record"),
        (lambda: call(nothing=3), "leave it out; those of hypergradient are inner, outer_objective"),
        (lambda: Adam(learning_rate=3), "Adam takes no learning_rate, .* did you mean lr"),
        (lambda: SGD(0.1, momentun=0.9), "did you mean momentum"),
        (lambda: ClipByNorm(SGD(0.1), lr=0.1), r"write updater=SGD\(lr=0.1\)|lr is an argument of"),
        (lambda: Reverse(steps=3), "steps is an argument of .*hypergradient.*; those of Reverse are horizon"),
        (lambda: Checkpoint(evry=3), "did you mean every"),
        (lambda: StructureLearner(epochs=3), "did you mean max_epochs"),
        (lambda: StructureLearner(k=3), "k is an argument of KNNGraph"),
        (
            lambda: StructureLearner().fit(None, max_epochs=3),
            "fit takes no max_epochs.* of StructureLearner",
        ),
        (lambda: LDSClassifier(k=3), "LDSClassifier takes no k"),
    ],
)
def test_says_what_to_write(wrong, advice):
    with pytest.raises(KeywordError, match=advice) as caught:
        wrong()
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, InputError)
    assert len(str(caught.value)) < 400
    assert caught.value.__suppress_context__


def test_what_is_missing_stays_the_words_of_python():
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'steps'") as caught:
        hypergradient(inner, outer_objective, PARAMS, OUTER, updater=SGD(0.1))
    assert not isinstance(caught.value, KeywordError)


def test_an_error_inside_is_left_alone():
    def fails(params, outer):
        return inner(params, outer, horizon=3)

    with pytest.raises(TypeError, match=r"inner\(\) got an unexpected keyword argument 'horizon'") as caught:
        hypergradient(fails, outer_objective, PARAMS, OUTER, updater=SGD(0.1), steps=1)
    assert not isinstance(caught.value, KeywordError)


def test_a_class_of_ones_own_is_left_alone():
    class Own(SGD):
        def __init__(self, rate):
            super().__init__(lr=rate)

    assert Own(0.1).lr == 0.1
    with pytest.raises(TypeError, match="unexpected keyword argument 'lr'") as caught:
        Own(lr=0.1)
    assert not isinstance(caught.value, KeywordError)


def test_functions_and_classes_are_what_they_were():
    assert pickle.loads(pickle.dumps(hypergradient)) is hypergradient
    assert pickle.loads(pickle.dumps(Adam(0.1))) == Adam(0.1)
    assert "updater" in inspect.signature(hypergradient).parameters
    assert next(iter(inspect.signature(Reverse).parameters)) == "horizon"
    assert hypergradient.__doc__.startswith("Return the gradient")
