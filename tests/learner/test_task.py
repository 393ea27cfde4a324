"""Node classification as an inner and an outer objective."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import BatchNorm, HeteroBatchNorm, InstanceNorm

from lds.errors import InputError
from lds.graph import AllPairs, SparseMatrix
from lds.learner._task import Task
from lds.nn import GCN
from tests.learner.problems import blocks
from tests.oracles import DOUBLE


@pytest.fixture
def data():
    return blocks(classes=3, dtype=DOUBLE)


@pytest.fixture
def task(data):
    return Task(data, GCN, 0.3)


@pytest.fixture
def graphs(data):
    return [AllPairs(48, data.edge_index[:, k:], dtype=DOUBLE).draw() for k in (0, 20, 40)]


def eval_logits(task, params, graph):
    module = task.module.eval()
    return torch.func.functional_call(module, params, (task.x, graph))


def test_the_outer_loss_is_on_validation_nodes_without_dropout_and_penalty(task, data, graphs):
    params = task.initial_params()
    logits = eval_logits(task, params, graphs[0])
    expected = nn.functional.cross_entropy(logits[data.val_mask], data.y[data.val_mask])
    task.module.train()
    torch.testing.assert_close(task.outer_loss(params, graphs[0]), expected)


def test_the_inner_loss_is_with_both(data, graphs):
    task, plain = Task(data, GCN, 0.3), Task(data, lambda f, c: GCN(f, c, dropout=0.0), 0.3)
    params = task.initial_params()
    task.module.eval()
    assert task.inner_loss(params, graphs[0]) != task.inner_loss(params, graphs[0])
    mask = data.train_mask
    entropy = nn.functional.cross_entropy(eval_logits(plain, params, graphs[0])[mask], data.y[mask])
    penalty = 0.15 * params["weights.0"].square().sum()
    torch.testing.assert_close(plain.inner_loss(params, graphs[0]), entropy + penalty)


@pytest.mark.parametrize("samples", [1, 3])
def test_logits_are_averaged_over_graphs(task, graphs, samples):
    params = task.initial_params()
    expected = sum(eval_logits(task, params, graph) for graph in graphs[:samples]) / samples
    task.module.train()
    source = iter(graphs)
    found = task.mean_logits(params, lambda: next(source), samples)
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad


def test_accuracy(task, data):
    logits = nn.functional.one_hot(data.y, 3).double()
    wrong = data.test_mask.nonzero().flatten()[:3]
    logits[wrong] = logits[wrong].roll(1, 1)
    assert task.accuracy(logits, "train") == 1
    assert task.accuracy(logits, "test") == pytest.approx(1 - 3 / 12)


@pytest.mark.parametrize("layout", [torch.strided, torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_features_in_the_form_that_is_fastest(data, layout, share):
    """Sparse where they are sparse and the model takes it; sparse tensors of the user stay sparse."""
    keep = torch.rand(data.x.shape, generator=torch.Generator().manual_seed(0)) < share
    x = torch.where(keep, data.x, 0.0)
    data.x = x if layout == torch.strided else x.to_sparse(layout=layout)
    data.num_nodes = 48
    task = Task(data, GCN, 0.0)
    assert isinstance(task.x, SparseMatrix) is (layout != torch.strided or share < 0.25)
    assert torch.equal(task.x.csr.to_dense() if isinstance(task.x, SparseMatrix) else task.x, x)

    class DenseOnly(nn.Linear):
        pass

    assert torch.equal(Task(data, DenseOnly, 0.0).x, x)


class Normed(nn.Module):
    """A graph network around a module that turns features into others."""

    def __init__(self, norm, features, classes):
        super().__init__()
        self.norm, self.last = norm, nn.Linear(features, classes)

    def forward(self, x, graph):
        return graph.propagate(self.last(self.norm(x)))


class Counter(nn.Module):
    def __init__(self, *, in_place):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.in_place = in_place

    def forward(self, x):
        self.calls = self.calls.add_(1) if self.in_place else self.calls + 1
        return x / self.calls


class ByType(HeteroBatchNorm):
    def forward(self, x):
        return super().forward(x, torch.arange(len(x)) % 2)


class Frozen(nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(False)


@pytest.mark.parametrize(
    ("norm", "name"),
    [
        (lambda f: nn.BatchNorm1d(f), "norm.num_batches_tracked"),
        (lambda f: BatchNorm(f), "norm.module.num_batches_tracked"),
        (lambda f: ByType(f, 2), "norm.running_mean"),
        (lambda f: InstanceNorm(f, track_running_stats=True), "norm.running_mean"),
        (lambda f: nn.utils.parametrizations.spectral_norm(nn.Linear(f, f)), "norm.parametrizations.weight.0._u"),
        (lambda f: Counter(in_place=True), "norm.calls"),
        (lambda f: Counter(in_place=False), "norm.calls"),
    ],
)
def test_a_model_that_changes_its_buffers(data, graphs, norm, name):
    """Replay, a resume and the order of evaluations would see other ones."""
    task = Task(data, lambda f, c: Normed(norm(f), f, c), 0.0)
    params = task.initial_params()
    task.outer_loss(params, graphs[0])
    with pytest.raises(InputError, match=f"training changed {name}; set track_running_stats=False .* LayerNorm"):
        task.inner_loss(params, graphs[0])


def test_buffers_drawn_at_random_do_not_depend_on_the_caller(data):
    class Projected(nn.Linear):
        def __init__(self, features, classes):
            super().__init__(features, classes)
            self.register_buffer("projection", torch.randn(features, features))

    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(Task(data, Projected, 0.0).module.projection)
    assert torch.equal(*found)


@pytest.mark.parametrize("norm", [lambda f: nn.BatchNorm1d(f, track_running_stats=False), nn.LayerNorm, Frozen])
def test_a_norm_that_keeps_nothing(data, graphs, norm):
    task = Task(data, lambda f, c: Normed(norm(f), f, c), 0.0)
    params = task.initial_params()
    assert torch.equal(task.inner_loss(params, graphs[0]), task.inner_loss(params, graphs[0]))


@pytest.mark.parametrize(
    ("output", "came"),
    [
        (lambda logits: logits[:, 0], r"shape \[48\]"),
        (lambda logits: logits[:, :2], r"shape \[48, 2\]"),
        (lambda logits: logits.T, r"shape \[3, 48\]"),
        (lambda logits: (logits, None), "tuple"),
    ],
)
def test_logits_of_another_shape(data, graphs, output, came):
    class Model(GCN):
        def forward(self, x, graph):
            return output(super().forward(x, graph))

    task = Task(data, Model, 0.0)
    with pytest.raises(InputError, match=rf"logits \[N, C\], here \[48, 3\], but {came} came; return a number"):
        task.inner_loss(task.initial_params(), graphs[0])


@pytest.mark.parametrize("model", [GCN(8, 3), "gcn"])
def test_a_model_that_is_no_factory(data, model):
    with pytest.raises(InputError, match=f"must be a factory, .* but {type(model).__name__} came; give its class"):
        Task(data, model, 0.0)
