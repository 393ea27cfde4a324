"""Baselines of scikit-learn: their configuration, what they see, and their run folders."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.svm import SVC

from lds.data import load
from lds.errors import DataError, InputError
from lds.run import BASELINES, BaselineConfig, make_config, train, train_once
from lds.run._learner import EstimatorLearner
from tests.learner.problems import blocks


@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        ("lds", {}, "method must be one of logreg, svm, random-forest, label-propagation, got 'lds'"),
        ("random-forest", {"C": 1.0}, "C belongs to logreg and svm, but random-forest got 1.0; drop it"),
        ("logreg", {"gamma": 1.0}, "gamma belongs to svm and label-propagation, but logreg got 1.0; drop it"),
        ("svm", {"n_neighbors": 3}, "n_neighbors belongs to label-propagation, but svm got 3; drop it"),
        ("svm", {"C": 0.0}, "C must be finite and > 0, got 0.0"),
        ("svm", {"gamma": math.inf}, "gamma must be finite and > 0, got inf"),
        ("random-forest", {"max_depth": -1}, "max_depth must be finite and > 0, got -1"),
        ("label-propagation", {"gamma": 1.0, "n_neighbors": 3}, "needs gamma .* or n_neighbors .* drop one"),
    ],
)
def test_bad_configurations(method, values, message):
    with pytest.raises(InputError, match=message):
        BaselineConfig("wine", method, **values)


def masks(data):
    return {name: data[f"{name}_mask"].numpy() for name in ("train", "es", "test")}


def test_logistic_regression_on_training_nodes_only():
    data = load("wine", seed=1)
    fit = EstimatorLearner(BaselineConfig("wine", "logreg", C=0.1)).fit(data)
    x, y, m = data.x.numpy(), data.y.numpy(), masks(data)
    expected = LogisticRegression(C=0.1, max_iter=1000).fit(x[m["train"]], y[m["train"]])
    assert fit.accuracy("test") == expected.score(x[m["test"]], y[m["test"]])
    assert fit.loss("es") == pytest.approx(log_loss(y[m["es"]], expected.predict_proba(x[m["es"]])), rel=1e-5)


def test_svm_has_no_loss():
    data = load("wine", seed=1)
    fit = EstimatorLearner(BaselineConfig("wine", "svm", C=2.0, gamma=0.05)).fit(data)
    x, y, m = data.x.numpy(), data.y.numpy(), masks(data)
    expected = SVC(C=2.0, gamma=0.05).fit(x[m["train"]], y[m["train"]])
    np.testing.assert_array_equal(fit.predicted, expected.predict(x))
    assert fit.loss("es") is None


@pytest.mark.parametrize("values", [{"gamma": 0.5}, {"n_neighbors": 5}])
def test_label_propagation_is_transductive(values):
    """Hidden labels play no part, hidden features do."""
    learner = EstimatorLearner(BaselineConfig("x", "label-propagation", **values))
    data = blocks()
    fit = learner.fit(data)
    other = data.clone()
    other.y = torch.where(data.train_mask, data.y, 1 - data.y)
    np.testing.assert_array_equal(fit.predicted, learner.fit(other).predicted)
    moved = data.clone()
    moved.x = torch.where(data.test_mask[:, None], data.x + 3.0, data.x)
    assert fit.loss("es") != learner.fit(moved).loss("es")


def test_hyperparameters_matter_and_the_seed_is_that_of_the_forest():
    data = load("wine")

    def loss(seed=0, **values):
        return EstimatorLearner(BaselineConfig("wine", "random-forest", **values)).fit(data, seed=seed).loss("test")

    assert loss(n_estimators=5) == loss(n_estimators=5)
    assert loss(n_estimators=5) != loss(n_estimators=5, seed=1)
    assert loss(n_estimators=5) != loss(n_estimators=5, max_depth=1)


def test_bags_of_words_do_not_depend_on_the_length_of_a_text():
    data = blocks()
    words = torch.zeros(48, 40)
    words[torch.arange(48), torch.arange(48) % 40] = 1.0
    words[torch.arange(48), data.y] += 1.0
    data.x = words
    learner = EstimatorLearner(BaselineConfig("x", "logreg"))
    longer = data.clone()
    longer.x = words * torch.arange(1, 49)[:, None]
    assert learner.fit(data).loss("es") == pytest.approx(learner.fit(longer).loss("es"), rel=1e-4)


def test_a_class_without_a_training_node_has_a_finite_loss():
    data = blocks(classes=3)
    data.train_mask &= data.y != 2
    assert 1 < EstimatorLearner(BaselineConfig("x", "logreg")).fit(data).loss("es") < 40


@pytest.mark.parametrize("method", BASELINES)
def test_one_class_to_train_on(method):
    data = blocks()
    data.train_mask &= data.y == 1
    learner = EstimatorLearner(BaselineConfig("x", method))
    if method in ("random-forest", "label-propagation"):
        assert set(learner.fit(data).predicted) == {1}
        return
    with pytest.raises(DataError, match=f"{method} needs training nodes of two classes or more, but .* of class 1"):
        learner.fit(data)


def test_as_many_neighbours_as_nodes_at_most():
    data = blocks()
    EstimatorLearner(BaselineConfig("x", "label-propagation", n_neighbors=48)).fit(data)
    with pytest.raises(InputError, match="n_neighbors must be at most the number of nodes, 48, got 49; lower it"):
        EstimatorLearner(BaselineConfig("x", "label-propagation", n_neighbors=49)).fit(data)


def test_bad_data():
    data = blocks()
    data.y = None
    with pytest.raises(DataError, match="labels"):
        EstimatorLearner(BaselineConfig("x", "svm")).fit(data)


@pytest.mark.parametrize("method", BASELINES)
def test_run_folder(tmp_path, method):
    config = make_config({"dataset": "wine", "method": method, "seed": 3})
    result = train(config, tmp_path / "run", progress=False)
    assert 0.3 < result["test_accuracy"] <= 1
    assert (result["outer_epochs"], result["outer_steps"], result["expected_edges"]) == (0, 0, None)
    assert (result["es_loss"] is None) == (method == "svm")
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    names = {path.name for path in (tmp_path / "run").iterdir() if not path.name.startswith(".")}
    assert names == {"config.yaml", "predictions.csv", "predictions.npy", "result.json"}
    data = load("wine", seed=3)
    right = np.load(tmp_path / "run" / "predictions.npy") == data.y.numpy()
    assert right[data.test_mask.numpy()].mean() == pytest.approx(result["test_accuracy"])
    assert train_once(config, tmp_path / "run") == result
