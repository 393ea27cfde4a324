"""The configuration of a run, and the learner it makes."""

import pytest

from lds.data import load
from lds.errors import InputError
from lds.graph import CandidatePairs, GivenGraph, KNNGraph, LearnedPairs
from lds.learner import Denoising, FixedGraphLearner, StructureLearner
from lds.run import METHODS, TrainConfig
from lds.run._learner import make_learner
from tests.learner.problems import blocks


@pytest.mark.parametrize(
    ("method", "given", "kind", "graph"),
    [
        ("lds", True, StructureLearner, GivenGraph()),
        ("knn-lds", True, StructureLearner, KNNGraph(7, "minkowski")),
        ("gcn", True, FixedGraphLearner, GivenGraph()),
        ("knn-gcn", True, FixedGraphLearner, KNNGraph(7, "minkowski")),
        ("gcn-rnd", True, FixedGraphLearner, GivenGraph()),
        ("ffnn", True, FixedGraphLearner, None),
        ("ffnn", False, FixedGraphLearner, None),
        ("frozen", True, StructureLearner, GivenGraph()),
        ("frozen", False, StructureLearner, KNNGraph(7, "minkowski")),
        ("lds", False, StructureLearner, GivenGraph()),
    ],
)
def test_methods(method, given, kind, graph):
    data = blocks() if given else load("wine")
    learner = make_learner(TrainConfig("wine", method, k=7, metric="minkowski"), data)
    assert type(learner) is kind
    assert learner.graph == graph
    if kind is StructureLearner:
        assert learner.learn_structure is (method != "frozen")
    assert method in METHODS


def test_every_option_reaches_the_learner():
    options = {
        "tau": 7,
        "horizon": 3,
        "outer_lr": 0.3,
        "learn_inner_lr": True,
        "inner_lr": 0.01,
        "weight_decay": 0.1,
        "patience": 3,
        "max_epochs": 9,
        "samples": 4,
        "noise": "resample",
    }
    config = TrainConfig("cora", hidden=5, dropout=0.25, **options)
    learner = make_learner(config, blocks())
    assert {name: getattr(learner, name) for name in options} == options
    model = learner.model(8, 2)
    assert model.dropout == 0.25
    assert [tuple(w.shape) for w in model.weights] == [(8, 5), (5, 2)]
    baseline = make_learner(TrainConfig("cora", "gcn", hidden=5, inner_lr=0.3, weight_decay=0.1), blocks())
    assert (baseline.lr, baseline.weight_decay) == (0.3, 0.1)
    assert tuple(baseline.model(8, 2).weights[0].shape) == (8, 5)


def test_denoising_and_score_reach_the_learner():
    config = TrainConfig("cora", denoising=0.3, candidates="given", score="metric", seed=4)
    learner = make_learner(config, blocks())
    assert learner.outer_term == Denoising(0.3)
    assert learner.edges.func is LearnedPairs
    assert {name: learner.edges.keywords[name] for name in ("score", "seed")} == {"score": "metric", "seed": 4}
    assert make_learner(TrainConfig("cora", candidates="given"), blocks()).edges.func is CandidatePairs
    gcn = TrainConfig("cora", "gcn", denoising=0.3, candidates="given", score="metric")
    assert gcn.without_effect(has_edges=True) == ["candidates", "score", "denoising"]
    with pytest.raises(InputError, match=r"denoising must be finite and >= 0, got -1.0"):
        TrainConfig("cora", denoising=-1.0)
    with pytest.raises(InputError, match="score needs candidates"):
        TrainConfig("cora", score="logit")


@pytest.mark.parametrize(
    ("method", "given", "share"),
    [("gcn-rnd", None, 0.5), ("gcn-rnd", 0.0, 0.0), ("gcn-rnd", 2.0, 2.0), ("gcn", None, 0.0)],
)
def test_random_edges(method, given, share):
    learner = make_learner(TrainConfig("cora", method, random_edges=given), blocks())
    assert learner.random_edges == share


def test_defaults_are_those_of_the_learner():
    learner, default = make_learner(TrainConfig("cora"), blocks()), StructureLearner()
    names = set(StructureLearner.__dataclass_fields__) - {"model"}
    assert {n: getattr(learner, n) for n in names} == {n: getattr(default, n) for n in names}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": "ldss"},
            "method must be one of lds, knn-lds, gcn, gcn-rnd, knn-gcn, ffnn, frozen, auto, got 'ldss'",
        ),
        ({"retain": 1.01}, "retain must lie in"),
        ({"retain": float("nan")}, "retain must lie in"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"random_edges": 0.5}, "random_edges belongs to gcn-rnd, but lds got 0.5; drop it"),
        ({"method": "auto", "random_edges": 0.5}, "random_edges belongs to gcn-rnd, but auto got 0.5; drop it"),
        ({"method": "auto", "train_on": "train+val"}, r"auto compares train with train\+val, but train_on"),
    ],
)
def test_bad_values(options, message):
    with pytest.raises(InputError, match=message):
        TrainConfig("cora", **options)


def test_as_dict_goes_back():
    config = TrainConfig("cora", "gcn", retain=0.5, max_epochs=3)
    assert TrainConfig(**config.as_dict()) == config
