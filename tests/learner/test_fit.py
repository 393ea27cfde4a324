"""What a learner returns."""

import pytest
import torch

from lds.errors import InputError
from lds.graph import CandidatePairs
from lds.learner import FixedGraphLearner, StructureLearner, extract
from tests.learner.problems import blocks


@pytest.fixture(scope="module", params=["learned", "fixed"])
def fit(request):
    if request.param == "fixed":
        return FixedGraphLearner(steps=20).fit(blocks(classes=3))
    return StructureLearner(tau=2, inner_steps=6, max_epochs=2, samples=2).fit(blocks(classes=3))


@pytest.mark.parametrize("split", ["train", "val", "es", "test"])
def test_accuracy(fit, split):
    data = blocks(classes=3)
    mask = data[f"{split}_mask"]
    assert fit.accuracy(split) == pytest.approx(float((fit.predict() == data.y)[mask].double().mean()))


@pytest.mark.parametrize("split", ["all", "train_mask", "", None])
def test_other_splits(fit, split):
    with pytest.raises(InputError, match="split must be one of train, val, es, test"):
        fit.accuracy(split)


def test_predictions(fit):
    probabilities = fit.predict_proba()
    assert probabilities.shape == (48, 3)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(48))
    assert torch.equal(probabilities.argmax(1), fit.predict())
    assert fit.predict().dtype == torch.int64


def test_history(fit):
    assert fit.outer_epochs == len(fit.history)
    best = max(e.epoch for e in fit.history if e.improved)
    assert fit.accuracy("es") == fit.history[best - 1].es_accuracy
    assert fit.outer_steps == fit.history[-1].outer_step


@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.5, 0.99])
def test_graph(fit, threshold):
    graph = fit.graph(threshold)
    theta = torch.zeros(48, 48)
    (row, col), probabilities = fit.structure.edges()
    theta[row, col] = theta[col, row] = probabilities
    dense = torch.zeros(48, 48)
    dense[graph.edge_index[0], graph.edge_index[1]] = graph.edge_weight
    assert torch.equal(dense, torch.where(theta > threshold, theta, 0.0))
    assert graph.edge_index.shape[1] == int((theta > threshold).sum())
    assert graph.num_nodes == 48
    assert graph.is_undirected()
    assert not graph.has_self_loops()
    assert graph.validate()


def test_as_many_edges_as_expected(fit):
    """By default, the most probable ones; new edges are among them, which a threshold of 0.5 leaves out."""
    graph = fit.graph()
    (row, col), theta = fit.structure.edges()
    dense = torch.zeros(48, 48)
    dense[row, col] = dense[col, row] = theta
    assert graph.num_edges == 2 * round(float(dense.sum()) / 2) > 0
    kept = torch.zeros(48, 48, dtype=torch.bool)
    kept[graph.edge_index[0], graph.edge_index[1]] = True
    assert torch.equal(graph.edge_weight, dense[graph.edge_index[0], graph.edge_index[1]])
    assert graph.edge_weight.min() >= dense[~kept].max()
    assert graph.is_undirected()


@pytest.mark.parametrize("levels", [(0.0,), (0.9, 0.0), (0.999, 0.5, 0.0)])
def test_levels_only_save_time(fit, monkeypatch, levels):
    expected = fit.graph()
    monkeypatch.setattr("lds.learner._fit._LEVELS", levels)
    assert torch.equal(fit.graph().edge_index, expected.edge_index)


def test_equals_are_taken_in_their_order():
    pairs = torch.tensor([[0, 0, 0, 1], [1, 2, 3, 2]])
    structure = CandidatePairs(4, pairs[:, :0], candidates=pairs)
    structure.restore_(torch.full((4,), 0.5))
    assert extract(structure).edge_index[:, :2].tolist() == [[0, 0], [1, 2]]


@pytest.mark.parametrize("threshold", [-0.1, 1.0, 2.0, float("nan")])
def test_threshold_out_of_range(fit, threshold):
    with pytest.raises(InputError, match=r"threshold must lie in \[0, 1\), got"):
        fit.graph(threshold)
