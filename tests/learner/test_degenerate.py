"""Degenerate data: handled, or refused in one line; and numbers that are not finite."""

import numpy as np
import pytest
import torch

import lds
from lds.errors import DataError, InputError, NumericalError, OuterStepError, PremiseWarning
from lds.graph import AllPairs, CandidatePairs, KNNGraph
from lds.learner import FixedGraphLearner
from lds.learner._progress import Progress, report_explosion
from tests.hypergrad.test_diagnostics import diagnostics
from tests.learner.problems import MASKS, Recorder, blocks

N = 48
NODES = torch.arange(N)
NONE = torch.zeros(2, 0, dtype=torch.int64)


def structure(**options):
    return lds.StructureLearner(**{"tau": 2, "inner_steps": 4, "max_epochs": 1, "samples": 2, **options})


LEARNERS = {
    "lds": structure(),
    "candidates": structure(edges=CandidatePairs),
    "knn": structure(graph=KNNGraph(3)),
    "minkowski": structure(graph=KNNGraph(3, "minkowski")),
    "frozen": structure(learn_structure=False),
    "gcn": FixedGraphLearner(steps=3),
    "ffnn": FixedGraphLearner(steps=3, graph=None),
}
NEED_EDGES = ("lds", "candidates", "frozen", "gcn")
every_learner = pytest.mark.parametrize("name", LEARNERS)


def changed(**changes):
    data = blocks()
    for name, value in changes.items():
        data[name] = value(data)
    return data


def small(n):
    """A graph of n nodes, each in the next of the splits."""
    data = blocks(max(n, 2) * 4, isolated=0).subgraph(NODES[:n])
    data.y = NODES[:n] % 2
    data.edge_index = NODES[:n].repeat(2, 1) if n < 2 else torch.tensor([[0, 1], [1, 0]])
    for index, name in enumerate(MASKS):
        data[name] = NODES[:n] % 4 == index
    return data


HANDLED = {
    "isolated nodes": lambda: blocks(isolated=40),
    "duplicated edges": lambda: changed(edge_index=lambda d: d.edge_index.repeat(1, 3)),
    "self loops": lambda: changed(edge_index=lambda d: torch.cat([d.edge_index, NODES.repeat(2, 1)], 1)),
    "one direction": lambda: changed(edge_index=lambda d: d.edge_index[:, d.edge_index[0] > d.edge_index[1]]),
    "a complete graph": lambda: changed(edge_index=lambda d: torch.triu_indices(N, N, 1)),
    "one edge": lambda: changed(edge_index=lambda d: d.edge_index[:, :1]),
    "all-zero rows": lambda: changed(x=lambda d: d.x * (NODES > 20)[:, None]),
    "all features zero": lambda: changed(x=lambda d: d.x * 0),
    "equal rows": lambda: changed(x=lambda d: d.x[:1].repeat(N, 1)),
    "one feature": lambda: changed(x=lambda d: d.x[:, :1]),
    "a class without nodes": lambda: changed(num_classes=lambda d: 5),
    **{
        f"a class missing from {mask}": lambda mask=mask: changed(y=lambda d: torch.where(d[mask], 0, d.y))
        for mask in MASKS
    },
    "one training node": lambda: changed(train_mask=lambda d: d.train_mask.nonzero()[0] == NODES),
    "one node in each split": lambda: changed(**{m: lambda d, m=m: d[m].nonzero()[0] == NODES for m in MASKS}),
    "four nodes": lambda: small(4),
}


@every_learner
@pytest.mark.parametrize("case", HANDLED)
def test_handled(name, case):
    fit = LEARNERS[name].fit(HANDLED[case]())
    assert fit.logits.isfinite().all()
    assert fit.predict_proba().isfinite().all()
    assert 0 <= fit.accuracy("test") <= 1
    pairs, probabilities = fit.structure.edges()
    assert (pairs[0] < pairs[1]).all()
    assert ((probabilities > 0) & (probabilities <= 1)).all()


@pytest.mark.parametrize("case", ["duplicated edges", "self loops", "one direction"])
@pytest.mark.parametrize("name", NEED_EDGES)
def test_the_way_an_edge_is_written_does_not_matter(name, case):
    fits = [LEARNERS[name].fit(data) for data in (blocks(), HANDLED[case]())]
    assert torch.equal(fits[0].logits, fits[1].logits)
    assert torch.equal(fits[0].structure.state(), fits[1].structure.state())


REFUSED = {
    "one class only": (
        lambda: changed(y=lambda d: d.y * 0, num_classes=lambda d: 1),
        "labels must be of at least 2 classes, but 1 came",
    ),
    "one class of two": (lambda: changed(y=lambda d: d.y * 0), "labels must be of at least 2 classes, but 1 came"),
    "NaN features": (lambda: changed(x=lambda d: d.x / (NODES > 20)[:, None] * 0), "x must be finite, but NaN"),
    "infinite features": (lambda: changed(x=lambda d: d.x / (NODES > 20)[:, None]), "x must be finite, but NaN or inf"),
    "no features": (lambda: changed(x=lambda d: d.x[:, :0]), "x must have nodes and features"),
    "one node": (lambda: small(1), "val_mask must select at least one node"),
    "two nodes": (lambda: small(2), "es_mask must select at least one node"),
    "no training node": (lambda: changed(train_mask=lambda d: d.train_mask & False), "train_mask must select at least"),
    "nodes without features": (
        lambda: changed(num_nodes=lambda d: 60),
        "num_nodes must be the number of rows of x, 48",
    ),
    "no class": (lambda: changed(num_classes=lambda d: 0), "num_classes must be a positive integer"),
    "edges to nowhere": (lambda: changed(edge_index=lambda d: d.edge_index + 9), "edge_index must lie in"),
}


@every_learner
@pytest.mark.parametrize("case", REFUSED)
def test_refused(name, case):
    make, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        LEARNERS[name].fit(make())


@pytest.mark.parametrize("name", NEED_EDGES)
@pytest.mark.parametrize("edges", [NONE, None, NODES.repeat(2, 1)], ids=["empty", "missing", "self loops only"])
def test_no_edges_to_start_from(name, edges):
    data = changed(edge_index=lambda d: edges)
    with pytest.raises(InputError, match=r"brings no edges to start from.*use a kNN graph"):
        LEARNERS[name].fit(data)
    assert LEARNERS["knn"].fit(data).logits.isfinite().all()


@pytest.mark.parametrize("model", [lds.nn.GCN, lds.nn.SAGE])
def test_an_empty_sampled_graph(model):
    """The structure starts without an edge: every draw is empty, and each pair may still get one."""
    learner = structure(edges=lambda n, e, dtype: AllPairs(n, NONE, dtype=dtype), model=model, outer_lr=10.0)
    fit = learner.fit(blocks())
    assert fit.logits.isfinite().all()
    assert fit.expected_edges > 0


class TestTheClassifier:
    @pytest.mark.parametrize("case", [name for name in HANDLED if "class" not in name and "node" not in name])
    def test_handled(self, case):
        data = HANDLED[case]()
        y = np.where(NODES < 24, data.y, -1)
        graph = np.zeros((N, N))
        graph[tuple(data.edge_index)] = 1
        fitted = lds.LDSClassifier(max_epochs=1, inner_steps=4, samples=2, random_state=0).fit(data.x.numpy(), y, graph)
        assert np.isfinite(fitted.label_distributions_).all()

    def test_features_that_are_not_finite(self):
        x = blocks().x.numpy()
        for bad in (np.nan, np.inf):
            x[3, 3] = bad
            with pytest.raises(ValueError, match="contains"):
                lds.LDSClassifier().fit(x, np.arange(N) % 2)


class TestNumbers:
    HUGE = staticmethod(lambda: changed(x=lambda d: d.x * 1e38))

    @pytest.mark.parametrize("options", [{}, {"horizon": 4}, {"interval": 1}])
    def test_an_outer_step_that_fails_can_be_run_again(self, options):
        learner, recorder = structure(**options, inner_steps=8), Recorder()
        with pytest.raises(OuterStepError, match=r"in outer step 1, epoch 1: the \w+ objective") as caught:
            learner.fit(self.HUGE(), seed=3, callbacks=(recorder,))
        assert caught.value.outer_step == len(recorder.steps) + 1
        with pytest.raises(OuterStepError) as again:
            learner.fit(self.HUGE(), seed=3, resume=caught.value.progress)
        assert str(again.value) == str(caught.value)

    @pytest.mark.parametrize("options", [{}, {"horizon": 5}])
    @pytest.mark.parametrize("fails_at", [2, 5])
    def test_it_begins_where_learning_stood_before(self, options, fails_at):
        """θ has moved by then; with a horizon beyond the interval, the epoch is run again from its beginning."""
        learner = structure(**options, inner_steps=12, updater=Failing(2 * fails_at - 2))
        with pytest.raises(OuterStepError) as caught:
            learner.fit(blocks(), seed=3)
        assert f"in outer step {fails_at}, epoch 1: the inner objective must be finite" in str(caught.value)
        assert f"at step {2 * fails_at - 1}, where state.params" in str(caught.value)
        assert caught.value.progress["outer_step"] == (0 if options else fails_at - 1)
        recorder = Recorder()
        with pytest.raises(OuterStepError) as again:
            learner.fit(blocks(), seed=3, resume=caught.value.progress, callbacks=(recorder,))
        assert str(again.value) == str(caught.value)
        assert len(recorder.steps) == (fails_at - 1 if options else 0)

    def test_a_fixed_graph(self):
        with pytest.raises(NumericalError, match="inner objective must be finite, but is nan at step"):
            FixedGraphLearner(steps=30, lr=1e30).fit(blocks())

    @pytest.mark.parametrize("learner", [structure(learn_structure=False), FixedGraphLearner(steps=2)])
    def test_logits_that_are_not_finite_on_other_graphs(self, learner, monkeypatch):
        monkeypatch.setattr("lds.learner._task.Task.mean_logits", lambda *_: torch.full((N, 2), torch.nan))
        with pytest.raises(NumericalError, match="loss on the early-stopping nodes must be finite, but is nan"):
            learner.fit(blocks())

    def test_exploding_costates_are_reported_once(self):
        progress, found = Progress({}), diagnostics([1.0] * 9)
        report_explosion(progress, found)
        found.explodes_at = 3
        with pytest.warns(PremiseWarning, match=r"in outer step 1 .* from depth 3 of 8 on; take a horizon below 3"):
            report_explosion(progress, found)
        report_explosion(progress, found)

    def test_the_learner_reports_them(self):
        learner = structure(tau=8, inner_steps=8, updater=lds.updaters.SGD(30.0))
        with pytest.warns(PremiseWarning, match="costates explode: in outer step 1 they exceed a million"):
            learner.fit(blocks(noise=3.0))


class Failing(lds.updaters.SGD):
    """Weights become infinite in one step."""

    def __init__(self, at):
        super().__init__(0.1)
        object.__setattr__(self, "at", at)

    def step(self, state, outer, inner):
        new = super().step(state, outer, inner)
        size = 0.0 if state.step == self.at else 1.0
        return new._replace(params={name: w / size for name, w in new.params.items()})
