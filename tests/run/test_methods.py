"""The table of methods, and what follows from it."""

from typing import get_args, get_type_hints

import pytest

from lds.run import BASELINES, METHODS, BaselineConfig, TrainConfig
from lds.run._methods import METHOD, owners


def test_every_method_has_a_row():
    assert METHODS == ("lds", "knn-lds", "gcn", "gcn-rnd", "knn-gcn", "ffnn", "frozen")
    assert BASELINES == ("logreg", "svm", "random-forest", "label-propagation")
    assert (*METHODS, *BASELINES) == tuple(METHOD)


@pytest.mark.parametrize(("config", "methods"), [(TrainConfig, METHODS), (BaselineConfig, BASELINES)])
def test_the_types_of_the_configurations_name_the_same(config, methods):
    hints = get_type_hints(config)
    assert get_args(hints["method"]) == methods
    assert {field for method in methods for field in METHOD[method].hyperparameters} <= hints.keys()


def test_what_has_a_graph():
    assert [name for name, method in METHOD.items() if method.uses_graph] == [
        "lds", "knn-lds", "gcn", "gcn-rnd", "knn-gcn", "frozen",
    ]  # fmt: skip
    assert [name for name, method in METHOD.items() if method.has_theta] == ["lds", "knn-lds", "frozen"]
    assert [name for name, method in METHOD.items() if method.learns_structure] == ["lds", "knn-lds"]
    assert [METHOD["frozen"].initial(has_edges=there) for there in (True, False)] == ["given", "knn"]
    assert METHOD["ffnn"].initial(has_edges=True) is None


def test_owners():
    assert owners("gamma") == ["svm", "label-propagation"]
    assert owners("random_edges") == ["gcn-rnd"]
    assert owners("tau") == []
