"""From plain values to configurations, and what is refused on the way."""

import pytest

from lds.errors import InputError
from lds.run import BaselineConfig, TrainConfig, make_config


def test_the_method_decides():
    assert make_config({"dataset": "wine"}) == TrainConfig("wine")
    assert make_config({"dataset": "wine", "method": "ffnn", "seed": 2}) == TrainConfig("wine", "ffnn", seed=2)
    found = make_config({"dataset": "wine", "method": "svm", "C": 1, "gamma": 0.5})
    assert found == BaselineConfig("wine", "svm", C=1.0, gamma=0.5)
    assert type(found.C) is float


@pytest.mark.parametrize("config", [BaselineConfig("wine", "logreg", C=3.0), TrainConfig("cora", max_epochs=3)])
def test_as_dict_goes_back(config):
    assert make_config(config.as_dict()) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "lsd"}, "method must be one of lds, .*, label-propagation, got 'lsd'"),
        ({"method": ["lds"]}, r"method must be one of .*, got \['lds'\]"),
        ({"method": "svm", "tau": 5}, "svm knows no tau; its fields are dataset, data, .*method, C, "),
        ({"C": 1.0}, "lds knows no C; its fields are dataset, data, .*method, retain"),
        ({"dataset": 3}, "dataset must be a text, got 3; change it"),
        ({"tau": 5.0}, "tau must be an integer, got 5.0; change it"),
        ({"tau": True}, "tau must be an integer, got True"),
        ({"retain": False}, "retain must be a number, got False"),
        ({"outer_lr": "1e-3"}, "outer_lr must be a number, got '1e-3'; .* a power of ten as 1.0e-3"),
        ({"outer_lr": None}, "outer_lr must be a number, got None"),
        ({"learn_inner_lr": 1}, "learn_inner_lr must be true or false, got 1"),
        ({"noise": "loud"}, "noise must be one of replay, resample, got 'loud'; change it"),
        ({"retain": 2}, "retain must lie in"),
    ],
)
def test_refused(values, message):
    with pytest.raises(InputError, match=message):
        make_config({"dataset": "wine", **values})


def test_a_field_that_is_missing():
    with pytest.raises(InputError, match="a run needs dataset, a name, or data"):
        make_config({"method": "svm"})
