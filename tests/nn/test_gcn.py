"""The graph convolutional network against its formula."""

import pytest
import torch
from scipy import stats

from lds.errors import InputError
from lds.graph import SparseMatrix
from lds.nn import GCN
from lds.nn._networks import drop
from tests.graph.oracles import dense_adjacency, normalise, structure_of, theta
from tests.oracles import DOUBLE


@pytest.fixture
def graph():
    torch.manual_seed(0)
    return structure_of(theta("sparse", 20)).draw()


@pytest.fixture
def x():
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    return torch.where(x > 0.5, x, 0.0)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("sparse", [True, False])
def test_formula(graph, x, layers, sparse):
    model = GCN(6, 3, num_layers=layers, hidden_channels=5).to(DOUBLE).eval()
    assert (
        [tuple(w.shape) for w in model.weights] == [(6, 3)]
        if layers == 1
        else [(6, 5), *[(5, 5)] * (layers - 2), (5, 3)]
    )
    a = normalise(dense_adjacency(graph))
    expected = x
    for weight in model.weights[:-1]:
        expected = torch.relu(a @ expected @ weight)
    expected = a @ expected @ model.weights[-1]
    found = model(SparseMatrix.from_dense(x) if sparse else x, graph)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


class TestDropout:
    def test_in_training_only(self, graph, x):
        model = GCN(6, 3).to(DOUBLE)
        training = model(x, graph), model(x, graph)
        assert not torch.equal(*training)
        model.eval()
        assert torch.equal(model(x, graph), model(x, graph))
        model = GCN(6, 3, dropout=0.0).to(DOUBLE)
        training = model(x, graph)
        assert torch.equal(training, model.eval()(x, graph))

    def test_is_not_on_the_output(self, graph, x):
        model = GCN(6, 3, num_layers=1).to(DOUBLE)
        assert torch.equal(model.train()(x, graph), model.eval()(x, graph))

    def test_keeps_the_expectation_of_the_logits(self, graph, x):
        """With one hidden layer the logits are linear in the mask."""
        model = GCN(6, 3, dropout=0.4).to(DOUBLE)
        torch.manual_seed(0)
        with torch.no_grad():
            samples = torch.stack([model(x, graph) for _ in range(800)])
            expected = model.eval()(x, graph)
        moving = samples.std(0) > 1e-9
        z = ((samples.mean(0) - expected) / (samples.std(0) / 800**0.5))[moving]
        assert bool(moving.any())
        assert float(z.abs().max()) < 4.5

    @pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
    @pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
    def test_statistics(self, p, dtype, graph):
        torch.manual_seed(0)
        x = torch.full((200, 500), 3.0, dtype=dtype)
        y = drop(x, p, graph)
        kept = y != 0
        torch.testing.assert_close(y[kept], x[kept] / (1 - round(p * 2**16) / 2**16))
        assert y.dtype == dtype
        if p:
            assert stats.binomtest(int(kept.sum()), kept.numel(), 1 - p).pvalue > 1e-3
            assert stats.binomtest(int((kept[:, 1:] & kept[:, :-1]).sum()), 200 * 499, (1 - p) ** 2).pvalue > 1e-3
        else:
            assert bool(kept.all())

    @pytest.mark.parametrize("p", [1e-9, 1 - 1e-9])
    def test_probabilities_next_to_0_and_1(self, p, graph):
        y = drop(torch.ones(50, 3), p, graph)
        assert bool(y.isfinite().all())
        assert bool((y == 1).all() if p < 0.5 else (y == 0).float().mean() > 0.9)

    @pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
    def test_of_any_size(self, count, graph):
        assert drop(torch.ones(count), 0.5, graph).shape == (count,)

    def test_derivative_is_the_mask(self, graph):
        x = torch.randn(40, 5, dtype=DOUBLE, requires_grad=True)
        torch.manual_seed(0)
        y = drop(x, 0.3, graph)
        (g,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(g, y.detach() / x.detach())


def test_initial_weights():
    torch.manual_seed(0)
    first = GCN(200, 4, hidden_channels=50)
    bound = (6 / 250) ** 0.5
    assert 0.98 * bound < float(first.weights[0].detach().abs().max()) <= bound
    assert abs(float(first.weights[0].detach().mean())) < 4 * bound / 3**0.5 / 100
    before = [w.detach().clone() for w in first.weights]
    torch.manual_seed(1)
    first.reset_parameters()
    assert not any(torch.equal(a, b) for a, b in zip(before, first.weights, strict=True))
    torch.manual_seed(0)
    first.reset_parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, first.weights, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"dropout must lie in \[0, 1\), got -0.1"),
        ({"dropout": float("nan")}, r"dropout must lie in \[0, 1\), got nan"),
        ({"hidden_channels": 0}, "hidden_channels must be at least 1, got 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(InputError, match=message):
        GCN(6, 3, **options)
