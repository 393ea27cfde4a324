"""The scikit-learn estimator: labels, graphs, new rows, and its place in scikit-learn."""

import pickle

import joblib
import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.special import softmax
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

import lds
from lds import LDSClassifier
from lds.errors import InputError
from lds.graph import KNNGraph
from lds.learner import StructureLearner

SHORT = {"n_neighbors": 5, "metric": "minkowski", "tau": 2, "inner_steps": 20, "max_epochs": 2, "samples": 2}


def classifier(**options):
    return LDSClassifier(**({"random_state": 0} | SHORT | options))


def problem(rows=60, labelled=8, classes=3, seed=0, spread=0.7):
    """Blobs, of which the first `labelled` rows of each class keep their label; X, y, truth."""
    rng = np.random.RandomState(seed)
    truth = np.arange(rows) % classes
    X = spread * rng.randn(rows, 4)
    X[np.arange(rows), truth] += 3
    y = np.where(np.arange(rows) < labelled * classes, truth, -1)
    return X, y, truth


@pytest.fixture(scope="module")
def fitted():
    X, y, truth = problem()
    return classifier(inner_steps=60).fit(X, y), X, y, truth


def same(one, other):
    np.testing.assert_array_equal(one.label_distributions_, other.label_distributions_)
    np.testing.assert_array_equal(one.graph_.toarray(), other.graph_.toarray())


def test_it_is_exported():
    assert lds.LDSClassifier is LDSClassifier
    assert "LDSClassifier" in lds.__all__


def test_it_learns(fitted):
    model, _, y, truth = fitted
    assert (model.transduction_[y == -1] == truth[y == -1]).mean() > 0.9
    new, _, labels = problem(seed=1)
    assert model.score(new, labels) > 0.9


def test_attributes(fitted):
    model = fitted[0]
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.label_distributions_.shape == (60, 3)
    np.testing.assert_allclose(model.label_distributions_.sum(1), 1)
    np.testing.assert_array_equal(model.transduction_, model.classes_[model.label_distributions_.argmax(1)])
    assert model.n_iter_ == 2
    assert model.n_features_in_ == 4
    graph = model.graph_
    assert scipy.sparse.issparse(graph)
    assert graph.format == "csr"
    assert graph.shape == (60, 60)
    assert (graph != graph.T).nnz == 0
    assert graph.diagonal().sum() == 0
    assert 0.01 < graph.data.min() < graph.data.max() <= 1
    assert not np.isin(graph.data, (0, 1)).all(), "the graph was learned"


def test_graph_threshold():
    X, y, _ = problem()
    low, high = classifier(graph_threshold=0.0).fit(X, y), classifier(graph_threshold=0.6).fit(X, y)
    assert low.graph_.nnz > high.graph_.nnz
    assert high.graph_.data.min() > 0.6
    above = low.graph_.toarray()
    np.testing.assert_array_equal(high.graph_.toarray(), np.where(above > 0.6, above, 0))


def test_random_state_decides_all():
    X, y, _ = problem()
    one = classifier().fit(X, y)
    torch.manual_seed(7)
    np.random.seed(7)
    state = np.random.get_state()[1].copy(), torch.get_rng_state()
    same(one, classifier().fit(X, y))
    assert (np.random.get_state()[1] == state[0]).all()
    assert torch.equal(torch.get_rng_state(), state[1]), "the caller's generators are left alone"
    assert (one.label_distributions_ != classifier(random_state=1).fit(X, y).label_distributions_).any()
    same(
        classifier(random_state=np.random.RandomState(3)).fit(X, y),
        classifier(random_state=np.random.RandomState(3)).fit(X, y),
    )


def test_unlabelled_rows_have_no_say_by_their_place_among_the_labels():
    """Renaming classes changes names only, whatever their type; -1 marks unlabelled rows with strings, too."""
    X, y, _ = problem()
    names = np.array(["ant", "bee", "cat"], object)
    strings = np.where(y == -1, -1, names[y])
    one, other = classifier().fit(X, y), classifier().fit(X, strings)
    same(one, other)
    assert other.classes_.tolist() == names.tolist()
    assert other.transduction_.tolist() == names[one.transduction_].tolist()
    assert set(other.predict(X)) <= set(names)


def test_labels_of_a_string_dtype_are_all_labels():
    X, _, truth = problem()
    names = np.array(["ant", "bee", "cat"])[truth]
    assert classifier().fit(X, names).score(X, names) > 0.9


@pytest.mark.parametrize("mark", ["-1", "", "NA", "nan"])
def test_texts_that_leave_a_row_unlabelled(mark):
    X, y, truth = problem()
    names = np.array(["ant", "bee", "cat"])[truth]
    names[y == -1] = mark
    model = classifier().fit(X, names)
    assert model.classes_.tolist() == ["ant", "bee", "cat"]
    same(model, classifier().fit(X, y))


def test_a_label_of_minus_one_is_never_predicted(fitted):
    assert -1 not in fitted[0].classes_
    assert -1 not in fitted[0].transduction_


@pytest.mark.parametrize("unlabelled", [0, 1, 2])
def test_few_or_no_unlabelled_rows(unlabelled):
    X, _, truth = problem()
    y = truth.copy()
    y[:unlabelled] = -1
    model = classifier().fit(X, y)
    assert model.score(X, truth) > 0.9


def test_refit_trains_on_all_labels(monkeypatch):
    X, y, _ = problem()
    seen = []
    fit = StructureLearner.fit

    def spy(self, data, **options):
        seen.append((self, data))
        return fit(self, data, **options)

    monkeypatch.setattr(StructureLearner, "fit", spy)
    one, other = classifier().fit(X, y), classifier(refit=False).fit(X, y)
    assert [learner.learn_structure for learner, _ in seen] == [True, False, True]
    for _, data in seen[::2]:
        assert (data.y[data.train_mask | data.val_mask | data.es_mask].numpy() == y[y >= 0]).all()
        np.testing.assert_array_equal(data.test_mask, y == -1)
    np.testing.assert_array_equal(seen[1][1].train_mask, y != -1)
    np.testing.assert_array_equal(one.graph_.toarray(), other.graph_.toarray())
    assert one.n_iter_ == other.n_iter_ == 2


def test_the_initial_graph_is_the_k_nearest_rows():
    X, y, _ = problem()
    model = classifier(outer_lr=0).fit(X, y)
    row, col = KNNGraph(5, "minkowski")(_Nodes(X))
    np.testing.assert_array_equal(scipy.sparse.triu(model.graph_).nonzero(), np.stack([row, col]))


class _Nodes:
    def __init__(self, X):
        self.x, self.num_nodes = torch.tensor(X, dtype=torch.float32), len(X)


@pytest.mark.parametrize("form", [scipy.sparse.csr_matrix, scipy.sparse.coo_array, np.asarray])
def test_a_given_graph(form):
    X, y, truth = problem()
    a = np.triu((truth[:, None] == truth) * (np.random.RandomState(0).rand(60, 60) < 0.2), 1) * 2.5
    directed = classifier(outer_lr=0).fit(X, y, graph=form(a))
    np.testing.assert_array_equal(directed.graph_.toarray(), (a + a.T > 0))
    same(directed, classifier(outer_lr=0).fit(X, y, form(a + a.T + np.eye(60))))


def test_a_graph_helps_where_the_features_do_not():
    X, y, truth = problem()
    X = np.random.RandomState(0).randn(*X.shape)
    a = scipy.sparse.csr_array((truth[:, None] == truth) * (np.random.RandomState(0).rand(60, 60) < 0.3))
    unlabelled = y == -1
    right = [
        (classifier(inner_steps=100, max_epochs=1, **options).fit(X, y, graph).transduction_ == truth)[
            unlabelled
        ].mean()
        for graph, options in ((None, {}), (a, {"outer_lr": 0}))
    ]
    assert right[1] > right[0] + 0.2


def _dense(rows, value=1.0):
    a = np.zeros((rows, rows))
    a[0, 1] = value
    return a


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (_dense(59), r"shape \(60, 60\).*\(59, 59\) came"),
        (_dense(60, -1.0), "no negative entries, but -1.0 came"),
        (np.eye(60), "it has no edges"),
        (scipy.sparse.csr_array((60, 60)), "it has no edges"),
        (_dense(60, np.nan), "graph contains NaN"),
        (np.ones(60), "2D array"),
    ],
)
def test_a_bad_graph(graph, message):
    X, y, _ = problem()
    with pytest.raises(ValueError, match=message):
        classifier().fit(X, y, graph)


@pytest.mark.parametrize("form", [scipy.sparse.csr_matrix, scipy.sparse.csc_array, scipy.sparse.coo_array])
def test_sparse_features(form):
    X, y, _ = problem()
    X[X < 1] = 0
    dense, sparse = classifier().fit(X, y), classifier().fit(form(X), y)
    np.testing.assert_allclose(sparse.label_distributions_, dense.label_distributions_, atol=1e-3)
    np.testing.assert_allclose(sparse.predict_proba(form(X)), dense.predict_proba(X), atol=1e-3)


def test_sparse_features_stay_sparse():
    """A dense copy of these would take 4 GB."""
    _, y, truth = problem()
    X = scipy.sparse.csr_array((np.ones(60), (np.arange(60), truth * 2**20)), shape=(60, 2**24))
    model = classifier(hidden=1, inner_steps=2, max_epochs=1, refit=False).fit(X, y)
    assert model.predict_proba(X).shape == (60, 3)


def test_new_rows_against_the_network_on_the_extended_graph():
    """On a fixed graph, the formula is the GCN on the extended Â, with no edge from a new row to a training row."""
    X, y, _ = problem()
    model = classifier(outer_lr=0).fit(X, y)
    new = problem(rows=6, seed=1)[0]
    k, rows = 5, np.concatenate([X, new]).astype(np.float32)
    nearest = np.argsort(((new[:, None] - X) ** 2).sum(2), 1)[:, :k]
    a = np.zeros((66, 66))
    a[:60, :60] = model.graph_.toarray()
    a[np.arange(60, 66)[:, None], nearest] = 1
    a += np.eye(66)
    degree = a.sum(1)
    a /= np.sqrt(degree[:, None] * degree)
    first, second = model._extension.weights
    logits = a @ np.maximum(a @ rows @ first, 0) @ second
    np.testing.assert_allclose(model.predict_proba(new), softmax(logits[60:], 1), atol=1e-6)
    np.testing.assert_allclose(model.label_distributions_, softmax(logits[:60], 1), atol=1e-5)


def test_a_new_row_is_on_its_own(fitted):
    model, X, *_ = fitted
    together = model.predict_proba(X)
    np.testing.assert_allclose(np.concatenate([model.predict_proba(row[None]) for row in X]), together, atol=1e-12)
    np.testing.assert_array_equal(model.predict(X), model.classes_[together.argmax(1)])


def test_it_pickles(fitted, tmp_path):
    model, X, *_ = fitted
    joblib.dump(model, tmp_path / "model")
    for copy in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model")):
        np.testing.assert_array_equal(copy.predict_proba(X), model.predict_proba(X))
        same(copy, model)


def test_clone_and_pipeline(fitted):
    model, X, y, _ = fitted
    copy = clone(model)
    assert not hasattr(copy, "classes_")
    assert copy.get_params() == model.get_params()
    graph = scipy.sparse.csr_array(problem()[2][:, None] == problem()[2])
    piped = make_pipeline(StandardScaler(), classifier()).fit(X, y, ldsclassifier__graph=graph)
    assert piped.predict(X).shape == (60,)


def test_grid_search():
    X, _, truth = problem()
    grid = {"n_neighbors": np.array([3, 5]), "dropout": np.array([0.2], np.float32)}
    search = GridSearchCV(classifier(inner_steps=40, max_epochs=1), grid, cv=2).fit(X, truth)
    assert search.best_score_ > 0.8
    assert search.predict(X).shape == (60,)


def test_in_parallel():
    X, _, truth = problem()
    scores = [cross_val_score(classifier(max_epochs=1), X, truth, cv=2, n_jobs=jobs) for jobs in (None, 2)]
    np.testing.assert_array_equal(*scores)


def test_feature_names():
    pandas = pytest.importorskip("pandas")
    X, y, _ = problem()
    model = classifier().fit(pandas.DataFrame(X, columns=list("abcd")), y)
    assert model.feature_names_in_.tolist() == list("abcd")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_neighbors": 0}, "n_neighbors must be an integer >= 1, got 0"),
        ({"n_neighbors": 60}, "smaller than the number of rows, but n_neighbors=60 came with n_samples=60"),
        ({"metric": "euclid"}, "metric must be"),
        ({"metric": "tfidf"}, 'set features="tfidf"'),
        ({"structure": "tree"}, "structure must be one of learned, fixed, none, auto, got 'tree'"),
        ({"scale": "row"}, "scale must be one of none, unit, standard, got 'row'"),
        ({"features": "degree"}, "features must be one of given, tfidf, got 'degree'"),
        ({"features": "tfidf"}, "needs counts or shares of words, but -"),
        ({"tau": 0}, "tau must be an integer >= 1, got 0"),
        ({"outer_lr": -1}, "outer_lr must be finite and >= 0"),
        ({"hidden": 1.5}, "hidden must be an integer >= 1, got 1.5"),
        ({"dropout": 1}, r"dropout must be a number in \[0, 1\)"),
        ({"max_epochs": 0}, "max_epochs must be"),
        ({"validation_fraction": 0}, r"validation_fraction must be a number in \(0, 1\), got 0"),
        ({"graph_threshold": 1.0}, r"graph_threshold must be a number in \[0, 1\), got 1.0"),
        ({"random_state": "x"}, "random_state|seed"),
        ({"device": "gpu"}, "device must be one that torch can use here, such as cpu, got 'gpu'"),
        ({"device": None}, "device must be one that torch can use here, such as cpu, got None"),
    ],
)
def test_bad_arguments_are_named_when_fitted(options, message):
    X, y, _ = problem()
    model = classifier(**options)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "every row is -1"),
        ({0: 0, 1: 0, 2: 0, 3: 0}, "1 class came"),
        ({0: 0, 1: 1}, "2 labels of 2 classes came; label more rows"),
    ],
)
def test_too_few_labels(labels, message):
    X, y, _ = problem()
    y[:] = -1
    y[list(labels)] = list(labels.values())
    with pytest.raises(InputError, match=message):
        classifier().fit(X, y)


@pytest.mark.parametrize("scale", ["unit", "standard"])
def test_scales_are_those_of_a_pipeline(scale):
    X, y, _ = problem()
    X[:, 0] *= 100
    step = {"unit": Normalizer, "standard": StandardScaler}[scale]()
    inside, outside = classifier(scale=scale).fit(X, y), classifier().fit(step.fit_transform(X.astype(np.float32)), y)
    np.testing.assert_allclose(inside.label_distributions_, outside.label_distributions_, atol=1e-5)
    # New rows by the figures of those that were fitted.
    new = X[:7] * 2
    expected = outside.predict_proba(step.transform(new.astype(np.float32)))
    np.testing.assert_allclose(inside.predict_proba(new), expected, atol=1e-5)
    assert not np.allclose(inside.label_distributions_, classifier().fit(X, y).label_distributions_)


@pytest.mark.parametrize("sparse", [False, True])
def test_words_are_weighted(sparse):
    X, y, _ = problem()
    X = np.round(X.clip(0))
    X[:, 3] += 1  # A text without words has no direction.
    words = scipy.sparse.csr_array(X) if sparse else X
    step = TfidfTransformer()
    weighted = step.fit_transform(X)
    inside = classifier(features="tfidf").fit(words, y)
    outside = classifier().fit(weighted.tocsr() if sparse else weighted.toarray(), y)
    np.testing.assert_allclose(inside.label_distributions_, outside.label_distributions_, atol=1e-5)
    new = step.transform(X[:5])
    expected = outside.predict_proba(new if sparse else new.toarray())
    np.testing.assert_allclose(inside.predict_proba(words[:5]), expected, atol=1e-5)


def test_sparse_rows_are_not_made_dense():
    X, y, _ = problem()
    with pytest.raises(ValueError, match='take scale="unit"'):
        classifier(scale="standard").fit(scipy.sparse.csr_array(X), y)


def test_the_structure_is_chosen():
    X, y, truth = problem(rows=90, labelled=12)
    model = classifier(structure="auto", inner_steps=60, max_epochs=1).fit(X, y)
    names = ["ffnn (train+val)", "ffnn", "knn-gcn (train+val)", "knn-gcn", "knn-lds"]
    assert list(model.choice_.scores) == names
    assert model.structure_ == ("none", "none", "fixed", "fixed", "learned")[names.index(model.choice_.name)]
    assert model.choice_.nodes == 36
    assert model.choice_.reason.startswith(f"{model.choice_.name} is chosen: ")
    assert model.choice_.name != "ffnn"  # Else the next line would compare with other labels.
    same(model, classifier(structure=model.structure_, inner_steps=60, max_epochs=1).fit(X, y))
    assert (model.transduction_[y == -1] == truth[y == -1]).mean() > 0.8


def test_without_a_graph_it_is_a_feed_forward_network():
    X, y, truth = problem()
    model = classifier(structure="none", inner_steps=100).fit(X, y)
    assert model.graph_.nnz == 0
    # Each row counts alone, so that those that were trained on are as any other.
    np.testing.assert_allclose(model.predict_proba(X), model.label_distributions_, atol=1e-5)
    assert (model.predict(X) == truth).mean() > 0.8


def test_a_fixed_graph_stays():
    X, y, _ = problem()
    model = classifier(structure="fixed").fit(X, y)
    assert set(np.unique(model.graph_.toarray())) == {0.0, 1.0}
    assert model.structure_ == "fixed"
    assert not hasattr(model, "choice_")
