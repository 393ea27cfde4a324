"""The table of methods, and what follows from it."""

from typing import get_args, get_type_hints

import pytest

from lds.graph import GivenGraph
from lds.learner import FixedGraphLearner, StructureLearner, alternatives
from lds.run import BASELINES, METHODS, BaselineConfig, TrainConfig
from lds.run._methods import METHOD, method_of, owners, parse_chosen


def test_every_method_has_a_row():
    assert METHODS == ("lds", "knn-lds", "gcn", "gcn-rnd", "knn-gcn", "ffnn", "frozen", "auto")
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


@pytest.mark.parametrize(("kinds", "learned"), [(["knn"], "knn-lds"), (["knn", "given"], "lds")])
def test_alternatives_are_named_by_the_methods_that_they_are(kinds, learned):
    found = alternatives(StructureLearner(), {kind: GivenGraph() for kind in kinds})
    assert list(found)[-1] == learned
    for name, learner in found.items():
        method, train_on = parse_chosen(name)
        assert learner.train_on == train_on
        assert METHOD[method].learner == ("fixed graph" if isinstance(learner, FixedGraphLearner) else "structure")
        assert METHOD[method].learns_structure is isinstance(learner, StructureLearner)
        assert METHOD[method].uses_graph is (learner.graph is not None)
        assert METHOD[method].graph in (*kinds, None)
        assert method_of("auto", {"chosen": name}) is METHOD[method]


def test_what_is_not_known_of_auto_before_it_has_chosen():
    assert method_of("auto", None) is None
    assert method_of("auto", {"chosen": 3}) is None
    assert method_of("gone", None) is None
    assert method_of("gcn", None) is METHOD["gcn"]


def test_owners():
    assert owners("gamma") == ["svm", "label-propagation"]
    assert owners("random_edges") == ["gcn-rnd"]
    assert owners("tau") == []
