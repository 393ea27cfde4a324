"""The structure learner: arguments, determinism, stopping and selection, pluggable parts, and that it learns."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import lds
from lds.errors import DataError, InputError
from lds.graph import AllPairs, GivenGraph, KNNGraph
from lds.learner import StructureLearner
from lds.learner._task import Task
from lds.nn import GCN
from lds.updaters import SGD, Adam
from tests.learner.problems import Recorder, blocks
from tests.oracles import same_bits

NAN, INFINITY = float("nan"), float("inf")
SHORT = {"tau": 2, "inner_steps": 6, "max_epochs": 2, "samples": 2}


def learner(**options):
    return StructureLearner(**(SHORT | options))


def spied(calls):
    """An `edges` factory that keeps the structures it made and the step sizes they were given."""

    class Spy(AllPairs):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            calls.append(self)
            self.rates, self.gradients, self.restored = [], [], []

        def project_(self, gradient, lr):
            self.rates.append(lr)
            self.gradients.append(gradient.to_dense())
            super().project_(gradient, lr)

        def restore_(self, state):
            self.restored.append(state)
            super().restore_(state)

    return Spy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[({name: value}, f"{name} must be an integer >= 1, got {value!r}")
          for name in ("tau", "inner_steps", "inner_patience", "patience", "samples", "max_epochs")
          for value in (0, -1, 2.0, True, "3")],
        *[({name: value}, f"{name} must be finite and >= 0, got {value!r}")
          for name in ("outer_lr", "outer_lr_decay", "inner_lr", "weight_decay", "inner_tolerance")
          for value in (-0.1, NAN, INFINITY, "1", None)],
        ({"interval": 0}, "interval must be an integer >= 1, got 0"),
        ({"horizon": -1}, "horizon must be an integer >= 0, got -1"),
        ({"horizon": 1.5}, "horizon must be an integer >= 0, got 1.5"),
        ({"horizon": True}, "horizon must be an integer >= 0, got True"),
        ({"noise": "fresh"}, "noise must be \"replay\" or \"resample\", got 'fresh'"),
        ({"learn_structure": False, "noise": 1}, "noise must be"),
        ({"learn_inner_lr": True, "updater": SGD(0.1)}, "needs the default updater"),
        ({"learn_inner_lr": True, "inner_lr": 0.05}, "inner_lr must be between 0.0001 and 0.05 to be learned"),
        ({"learn_inner_lr": True, "inner_lr": 1e-4}, "inner_lr must be between 0.0001 and 0.05 to be learned"),
    ],
)  # fmt: skip
def test_arguments_out_of_range(options, message):
    with pytest.raises(InputError) as error:
        StructureLearner(**options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_lazily_exported():
    assert lds.StructureLearner is StructureLearner
    assert lds.StructureLearner().tau == 5
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        lds.Nothing


class TestDeterminism:
    def test_the_seed_decides(self):
        data = blocks()
        first, again, other = (learner().fit(data, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(first.logits, again.logits)
        assert torch.equal(first.structure.state(), again.structure.state())
        assert first.history == again.history
        assert same_bits(first.params, again.params)
        assert not torch.equal(first.logits, other.logits)
        assert first.history != other.history

    def test_the_state_of_the_generators_does_not(self):
        data = blocks()
        torch.manual_seed(1)
        first = learner(model=Plain).fit(data)
        torch.manual_seed(2)
        assert torch.equal(first.logits, learner(model=Plain).fit(data).logits)

    @pytest.mark.parametrize("options", [{}, {"learn_structure": False}, {"noise": "resample"}])
    def test_nothing_of_the_caller_is_touched(self, options):
        data = blocks()
        before = data.clone()
        torch.manual_seed(0)
        state = torch.get_rng_state()
        fit = learner(**options).fit(data)
        assert torch.equal(torch.get_rng_state(), state)
        assert data.to_dict().keys() == before.to_dict().keys()
        assert same_bits(data.to_dict(), before.to_dict())
        assert not any(p.requires_grad for p in fit.params.values())
        assert not fit.logits.requires_grad

    def test_epochs_start_from_new_weights(self, monkeypatch):
        made = []
        initial = Task.initial_params
        monkeypatch.setattr(Task, "initial_params", lambda self: made.append(initial(self)) or made[-1])
        # Plain draws its weights when it is made and has no reset_parameters.
        for model in (GCN, Plain):
            made.clear()
            learner(model=model, max_epochs=3).fit(blocks())
            assert len(made) == 3
            assert not any(same_bits(made[i], made[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


class Plain(nn.Module):
    """A user's model: weights without a reset_parameters, in a module that knows nothing of sparse features."""

    def __init__(self, features, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features, classes) / 4)
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x, graph):
        assert isinstance(x, torch.Tensor)
        return graph.propagate(graph.propagate(x @ self.weight)) + self.bias


class TestStructure:
    def test_frozen_leaves_it_alone(self):
        data = blocks()
        recorder = Recorder()
        fit = learner(learn_structure=False).fit(data, callbacks=[recorder])
        assert torch.equal(fit.structure.to_dense(), AllPairs(48, data.edge_index).to_dense())
        assert all(step.outer_loss is None for step in recorder.steps)
        assert all(math.isfinite(step.inner_loss) for step in recorder.steps)

    @pytest.mark.parametrize("horizon", [None, 0, 1, 2])
    def test_moves_at_every_horizon(self, horizon):
        """The direct gradient counts too: the outer objective sees a graph."""
        data = blocks()
        fit = learner(horizon=horizon).fit(data)
        moved = fit.structure.to_dense() - AllPairs(48, data.edge_index).to_dense()
        assert float(moved.abs().max()) > 1e-4
        dense = fit.structure.to_dense()
        assert bool(((dense >= 0) & (dense <= 1)).all())

    def test_horizons_differ(self):
        gradients = []
        for horizon in (0, 1, None):
            made = []
            learner(horizon=horizon, max_epochs=1, edges=spied(made)).fit(blocks())
            gradients.append(made[0].gradients[0])
        assert not torch.equal(gradients[0], gradients[1])
        assert not torch.equal(gradients[1], gradients[2])

    def test_tau_sets_interval_and_horizon(self):
        data = blocks()
        both = learner(tau=3).fit(data)
        apart = learner(tau=1, interval=3, horizon=3).fit(data)
        assert same_bits(both.structure.state(), apart.structure.state())

    def test_a_horizon_beyond_the_interval_reaches_over_earlier_windows(self):
        """The first window has nothing before it; the second adds what the first one's steps depend on."""
        calls = []
        for horizon in (2, 3, 4, 99):
            spy = spied(calls)
            learner(interval=2, horizon=horizon, edges=spy, max_epochs=1, outer_lr=1e-12).fit(blocks())
        first, second = ([c.gradients[k] for c in calls] for k in (0, 1))
        assert all(torch.equal(first[0], g) for g in first)
        assert not torch.allclose(second[0], second[1])
        assert not torch.allclose(second[1], second[2])
        assert torch.equal(second[2], second[3])
        # θ hardly moves at this step size, so that two windows of 2 are one of 4 steps, but for the draws of the outer
        # objective: the same.
        spy = spied(whole := [])
        learner(interval=4, horizon=4, edges=spy, max_epochs=1, outer_lr=1e-12).fit(blocks())
        assert torch.allclose(whole[0].gradients[0], second[2], rtol=1e-4, atol=1e-9)

    def test_the_inner_loss_is_that_of_the_whole_window_at_every_horizon(self):
        losses = []
        for horizon in (0, 1, 3):
            recorder = Recorder()
            learner(interval=3, horizon=horizon, max_epochs=1, outer_lr=0.0).fit(blocks(), callbacks=[recorder])
            losses.append([record.inner_loss for record in recorder.steps])
        assert losses[0] == losses[1] == losses[2]

    def test_noise_reaches_the_sweep(self):
        """The same inner steps, swept back over on other graphs."""
        first = {noise: Recorder() for noise in ("replay", "resample")}
        fits = [
            learner(noise=noise, max_epochs=1).fit(blocks(), callbacks=[recorder]) for noise, recorder in first.items()
        ]
        assert first["replay"].steps[0].outer_loss == first["resample"].steps[0].outer_loss
        assert not torch.equal(fits[0].structure.state(), fits[1].structure.state())

    def test_step_sizes_fall(self):
        made = []
        recorder = Recorder()
        edges = spied(made)
        learner(outer_lr=0.5, outer_lr_decay=0.25, edges=edges).fit(blocks(), callbacks=[recorder])
        (structure,) = made
        assert structure.rates == [0.5 / (1 + 0.25 * k) for k in range(6)]
        assert [step.outer_step for step in recorder.steps] == [1, 2, 3, 4, 5, 6]

    def test_outer_lr_zero(self):
        data = blocks()
        fit = learner(outer_lr=0.0).fit(data)
        assert torch.equal(fit.structure.to_dense(), AllPairs(48, data.edge_index).to_dense())

    def test_the_best_theta_comes_back(self, monkeypatch):
        """Scripted accuracies make the second of four epochs the best."""
        made = []
        edges = spied(made)
        script_accuracy(monkeypatch, [0.25, 0.75, 0.5, 0.5], [1.0] * 4)
        snapshots, evaluated = [], []
        mean_logits = Task.mean_logits

        def spy(self, params, draw, samples, nodes=None):
            assert samples == 2
            evaluated.append((params, mean_logits(self, params, draw, samples, nodes)))
            return evaluated[-1][1]

        monkeypatch.setattr(Task, "mean_logits", spy)

        class Snapshot(Recorder):
            def on_epoch(self, record):
                super().on_epoch(record)
                snapshots.append(made[0].to_dense())

        recorder = Snapshot()
        fit = learner(max_epochs=4, edges=edges).fit(blocks(), callbacks=[recorder])
        assert [epoch.improved for epoch in fit.history] == [True, True, False, False]
        assert fit.structure is made[0]
        assert torch.equal(fit.structure.to_dense(), snapshots[1])
        assert not torch.equal(snapshots[1], snapshots[3])
        assert abs(fit.structure.expected_edges - fit.history[1].expected_edges) < 1e-3
        # Those of the early-stopping nodes came with the epoch, and at last those of all nodes on the same graphs.
        params, logits = evaluated[1]
        nodes = fit._known.nodes["es"]
        assert same_bits((fit.params, fit.logits[nodes]), (params, logits[nodes]))
        assert not torch.equal(fit.logits[nodes], evaluated[3][1][nodes])
        assert int(logits.isnan().any(1).sum()) == 48 - nodes.numel()
        assert len(evaluated) == 5


def script_accuracy(monkeypatch, accuracies, losses):
    """Early stopping sees these figures, an epoch each."""
    accuracy, loss = Task.accuracy, Task.loss
    accuracies, losses = iter(accuracies), iter(losses)

    def scripted_accuracy(self, logits, split):
        return next(accuracies) if split == "es" else accuracy(self, logits, split)

    def scripted_loss(self, logits, split):
        return torch.tensor(next(losses)) if split == "es" else loss(self, logits, split)

    monkeypatch.setattr(Task, "accuracy", scripted_accuracy)
    monkeypatch.setattr(Task, "loss", scripted_loss)


class TestStopping:
    @pytest.mark.parametrize(
        ("patience", "accuracies", "losses", "epochs", "best"),
        [
            (1, [0.5, 0.5], [1.0, 2.0], 2, 1),
            (2, [0.5, 0.4, 0.6, 0.6, 0.1], [1.0] * 5, 5, 3),
            (3, [0.9, 0.1, 0.2, 0.3], [1.0, 0.1, 0.1, 0.1], 4, 1),
            # Falling losses break ties, but buy no time.
            (2, [0.5, 0.5, 0.5], [1.0, 0.5, 0.4], 3, 3),
            (2, [0.5, 0.5, 0.5], [1.0, 0.5, 0.7], 3, 2),
            (2, [0.5, 0.5, 0.6, 0.5, 0.5], [1.0, 0.5, 5.0, 0.1, 0.1], 5, 3),
        ],
    )
    def test_patience_and_ties(self, monkeypatch, patience, accuracies, losses, epochs, best):
        script_accuracy(monkeypatch, accuracies, losses)
        fit = learner(patience=patience, max_epochs=None, inner_steps=2).fit(blocks(isolated=0))
        assert fit.outer_epochs == epochs
        assert [e.es_accuracy for e in fit.history] == accuracies
        assert max(e.epoch for e in fit.history if e.improved) == best

    def test_the_untrained_network_is_never_accepted(self):
        """Every epoch is trained before it is looked at, and the first is always accepted."""
        fit = learner(max_epochs=1).fit(blocks())
        assert [(e.epoch, e.outer_step, e.improved) for e in fit.history] == [(1, 3, True)]
        initial = learner(max_epochs=1, inner_lr=0.0).fit(blocks())
        assert not same_bits(fit.params, initial.params)

    @pytest.mark.parametrize("max_epochs", [1, 3])
    def test_max_epochs(self, max_epochs):
        fit = learner(max_epochs=max_epochs, patience=50).fit(blocks())
        assert fit.outer_epochs == max_epochs
        assert [e.epoch for e in fit.history] == list(range(1, max_epochs + 1))
        assert fit.outer_steps == 3 * max_epochs

    def test_inner_patience(self):
        """With step size 0 the inner loss cannot fall but by luck; by a tolerance of 0.9 not at all."""
        options = {"inner_lr": 0.0, "inner_tolerance": 0.9, "inner_steps": 100, "max_epochs": 1}
        assert learner(inner_patience=4, **options).fit(blocks()).outer_steps == 5
        assert learner(inner_patience=1, **options).fit(blocks()).outer_steps == 2

    def test_inner_steps_are_rounded_up_to_windows(self):
        recorder = Recorder()
        learner(tau=4, inner_steps=6, max_epochs=1).fit(blocks(), callbacks=[recorder])
        assert len(recorder.steps) == 2


class TestCallbacks:
    def test_order_and_content(self):
        first, second = Recorder(), Recorder()
        fit = learner().fit(blocks(), callbacks=(first, second))
        assert first.events == second.events
        assert [type(e).__name__ for e in first.events] == (["StepRecord"] * 3 + ["EpochRecord"]) * 2
        assert tuple(first.epochs) == fit.history
        assert [s.epoch for s in first.steps] == [1, 1, 1, 2, 2, 2]
        assert all(math.isfinite(s.inner_loss) and math.isfinite(s.outer_loss) for s in first.steps)
        for index, epoch in enumerate(first.epochs):
            last = first.steps[3 * index + 2]
            assert (epoch.inner_loss, epoch.outer_step) == (last.inner_loss, last.outer_step)
            assert epoch.expected_edges == last.expected_edges


class TestInnerLearningRate:
    def rates(self, monkeypatch, **options):
        """The inner learning rate at every step of the recorder."""
        seen = []
        step = Adam.step

        def spy(self, state, outer, inner):
            seen.append(self.lr(outer).item() if callable(self.lr) else self.lr)
            return step(self, state, outer, inner)

        monkeypatch.setattr(Adam, "step", spy)
        learner(max_epochs=1, **options).fit(blocks(dtype=torch.float64))
        return seen

    def test_is_learned(self, monkeypatch):
        rates = self.rates(monkeypatch, learn_inner_lr=True, inner_lr=0.02)
        assert abs(rates[0] - 0.02) < 1e-12
        assert len(set(rates)) == 3 + 1  # And one a little way off, where the spot check looks.
        assert all(1e-4 <= r <= 0.05 for r in rates)

    def test_stays_in_range(self, monkeypatch):
        rates = self.rates(monkeypatch, learn_inner_lr=True, outer_lr=1e6)
        assert all(1e-4 <= r <= 0.05 for r in rates)
        assert min(abs(rates[-1] - 1e-4), abs(rates[-1] - 0.05)) < 1e-6

    def test_is_left_alone_otherwise(self, monkeypatch):
        assert set(self.rates(monkeypatch)) == {0.02}

    def test_goes_down_its_hypergradient(self, monkeypatch):
        """So near to the initial weights a larger rate lowers the validation loss."""
        up = self.rates(monkeypatch, learn_inner_lr=True, outer_lr=0.3, inner_lr=0.001)
        assert up[-1] > up[0]


class TestData:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_the_type_of_the_features_is_the_type_of_all(self, dtype):
        fit = learner().fit(blocks(dtype=dtype))
        assert fit.structure.dtype == dtype
        assert fit.logits.dtype == dtype
        assert {p.dtype for p in fit.params.values()} == {dtype}
        assert bool(fit.logits.isfinite().all())

    def test_sparse_and_dense_features_agree(self):
        data = blocks(dtype=torch.float64)
        data.x = torch.where(data.x > 1.2, data.x, 0.0)
        assert data.x.count_nonzero() < 0.25 * data.x.numel()
        found = learner().fit(data)
        for change in (data.x.to_sparse_coo(), data.x.to_sparse_csr()):
            other = data.clone()
            other.x = change
            other.num_nodes = data.num_nodes
            torch.testing.assert_close(learner().fit(other).logits, found.logits)
        dense = learner(model=_dense_only).fit(data)
        torch.testing.assert_close(dense.logits, found.logits)

    def test_a_class_that_is_missing_in_training(self):
        data = blocks(classes=3)
        data.train_mask &= data.y != 2
        fit = learner().fit(data)
        assert fit.logits.shape == (48, 3)
        assert bool(fit.logits.isfinite().all())

    def test_zero_rows_and_unlabelled_nodes(self):
        data = blocks()
        data.x[:6] = 0
        data.y[data.test_mask.nonzero()[0]] = -1
        data.test_mask &= data.y >= 0
        assert bool(learner(graph=KNNGraph(3)).fit(data).logits.isfinite().all())

    def test_bad_data(self):
        data = blocks()
        data.x[3, 2] = NAN
        with pytest.raises(DataError, match="finite"):
            learner().fit(data)
        data = blocks()
        data.train_mask = None
        with pytest.raises(DataError, match="train_mask"):
            learner().fit(data)

    def test_no_edges(self):
        data = blocks()
        del data.edge_index
        with pytest.raises(InputError, match="use a kNN graph"):
            learner().fit(data)
        assert learner(graph=KNNGraph(3)).fit(data).outer_epochs == 2


def _dense_only(features, classes):
    model = GCN(features, classes)
    model.accepts_sparse = False
    return model


class TestPluggableParts:
    def test_a_model_of_the_user(self):
        fit = learner(model=Plain, max_epochs=3).fit(blocks())
        assert set(fit.params) == {"weight", "bias"}
        assert fit.logits.shape == (48, 2)

    @pytest.mark.parametrize("model", [lambda f, c: nn.ReLU(), lambda f, c: "gcn"])
    def test_a_model_without_parameters(self, model):
        with pytest.raises(InputError, match=r"model must make a torch.nn.Module with parameters, got (ReLU|str)"):
            learner(model=model).fit(blocks())

    def test_the_penalty_is_on_the_first_parameter(self):
        data = blocks(dtype=torch.float64)
        task, free = (Task(data, Plain, weight_decay) for weight_decay in (0.3, 0.0))
        params = task.initial_params()
        graph = AllPairs(48, data.edge_index, dtype=torch.float64).draw()
        difference = task.inner_loss(params, graph) - free.inner_loss(params, graph)
        torch.testing.assert_close(difference, 0.15 * params["weight"].square().sum())

    @pytest.mark.parametrize("updater", [SGD(0.5), SGD(0.1, momentum=0.9, nesterov=True), Adam(0.01)])
    def test_an_updater(self, updater):
        fit = learner(updater=updater).fit(blocks())
        other = learner().fit(blocks())
        assert not torch.equal(fit.logits, other.logits)

    def test_a_bad_updater(self):
        with pytest.raises(InputError, match="an updater needs methods init and step"):
            learner(updater="sgd").fit(blocks())

    def test_an_own_graph(self):
        def ring(data):
            nodes = torch.arange(data.num_nodes)
            return torch.stack([nodes, (nodes + 1) % data.num_nodes])

        fit = learner(graph=ring, learn_structure=False).fit(blocks())
        assert fit.structure.expected_edges == 48
        assert fit.graph().edge_index.shape == (2, 96)

    def test_a_graph_out_of_range(self):
        with pytest.raises(InputError, match=r"node numbers in 0..47, got 0 to 48"):
            learner(graph=lambda data: torch.tensor([[0], [48]])).fit(blocks())

    def test_knn(self):
        data = blocks()
        fit = learner(graph=KNNGraph(3, "minkowski"), learn_structure=False).fit(data)
        assert torch.equal(fit.structure.to_dense(), AllPairs(48, KNNGraph(3, "minkowski")(data)).to_dense())
        given = learner(graph=GivenGraph(), learn_structure=False).fit(data)
        assert not torch.equal(given.structure.to_dense(), fit.structure.to_dense())


LONGER = {"tau": 5, "inner_steps": 60, "max_epochs": 3, "outer_lr": 3.0, "samples": 8}


class TestLearning:
    """On graphs where half of the edges are wrong, over three problems."""

    @pytest.fixture(scope="class")
    @staticmethod
    def fits():
        results = []
        for seed in range(3):
            data = blocks(60, seed=seed)
            learned = StructureLearner(**LONGER).fit(data, seed=seed)
            frozen = StructureLearner(**LONGER, learn_structure=False).fit(data, seed=seed)
            results.append(SimpleNamespace(data=data, learned=learned, frozen=frozen))
        return results

    def test_homophily_rises(self, fits):
        """Ten seeds gave gains of 0.05 to 0.14."""

        def share(fit, result):
            same = fit.data.y[:, None] == fit.data.y[None]
            theta = result.structure.to_dense()
            return float(theta[same].sum() / theta.sum())

        gains = [share(fit, fit.learned) - share(fit, fit.frozen) for fit in fits]
        assert min(gains) > 0
        assert sum(gains) / len(gains) > 0.03

    def test_the_validation_loss_falls(self, fits):
        """Ten seeds gave gains of 0.4 to 3."""

        def loss(fit, result):
            return float(nn.functional.cross_entropy(result.logits[fit.data.val_mask], fit.data.y[fit.data.val_mask]))

        gains = [loss(fit, fit.frozen) - loss(fit, fit.learned) for fit in fits]
        assert min(gains) > 0
        assert sum(gains) / len(gains) > 0.2
