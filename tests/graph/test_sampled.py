"""A sampled graph: its products, their derivatives, and the record of them that the sweep reads."""

import pytest
import torch

from lds.errors import InputError
from lds.graph import SampledGraph
from lds.graph import _sampled as sampled
from lds.graph._factors import FactorAccumulator
from lds.graph._sampled import GraphTracer
from tests.graph.oracles import dense_adjacency, normalise
from tests.oracles import DOUBLE


def graph_of(kind="weighted", n=12):
    row, col = torch.triu_indices(n, n, 1)
    kept = torch.rand(row.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    kept &= (row != 0) & (row != 3) & (col != 3)  # Nodes 0 and 3 have no neighbours.
    if kind == "empty":
        kept[:] = False
    row, col = row[kept], col[kept]
    # Neither sorted nor with the smaller end first.
    order = torch.randperm(row.numel(), generator=torch.Generator().manual_seed(1))
    row, col = row[order], col[order]
    row[::2], col[::2] = col[::2].clone(), row[::2].clone()
    weight = torch.rand(row.shape, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    return SampledGraph(n, row, col, torch.ones_like(weight) if kind == "plain" else weight)


def operand(n=12, r=3, **options):
    return torch.randn(n, r, generator=torch.Generator().manual_seed(3), dtype=DOUBLE, **options)


@pytest.mark.parametrize("kind", ["weighted", "plain", "empty"])
class TestProducts:
    def test_equal_dense_ones(self, kind):
        graph, m = graph_of(kind), operand()
        a = dense_adjacency(graph)
        torch.testing.assert_close(graph.matmul(m), a @ m, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(graph.propagate(m), normalise(a) @ m, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(graph.degree, a.sum(1) + 1, rtol=1e-14, atol=0)
        torch.testing.assert_close(graph.scale, graph.degree**-0.5, rtol=1e-14, atol=0)
        assert graph.num_edges == int((a != 0).sum()) // 2

    def test_are_symmetric_and_keep_isolated_nodes(self, kind):
        graph, eye = graph_of(kind), torch.eye(12, dtype=DOUBLE)
        for product in (graph.matmul, graph.propagate):
            assert torch.equal(product(eye), product(eye).T)
        assert torch.equal(graph.propagate(eye)[0], eye[0])
        assert not graph.matmul(eye)[0].any()

    def test_derivatives(self, kind):
        graph = graph_of(kind).traced()
        m = operand(requires_grad=True)
        for product in (graph.matmul, graph.propagate):
            assert torch.autograd.gradcheck(product, (m,))
            assert torch.autograd.gradgradcheck(product, (m,))
        graph.take_products()


def test_products_take_what_autograd_makes():
    graph = graph_of()
    expanded = torch.ones((), dtype=DOUBLE).expand(12, 3)
    torch.testing.assert_close(graph.propagate(expanded), graph.propagate(expanded.clone()))
    transposed = operand(3, 12).T
    torch.testing.assert_close(graph.propagate(transposed), graph.propagate(transposed.contiguous()))
    assert graph.matmul(operand(12, 0)).shape == (12, 0)


@pytest.mark.parametrize("shape", [(12,), (11, 3), (13, 3), (2, 12, 3), ()])
def test_operands_of_another_shape(shape):
    for product in (graph_of().matmul, graph_of().propagate, graph_of().traced().matmul):
        with pytest.raises(InputError, match=r"needs a matrix with 12 rows, got shape \("):
            product(torch.ones(shape, dtype=DOUBLE))


class TestTheRecordOfProducts:
    def test_without_tracing_there_is_none(self):
        graph = graph_of()
        result = graph.propagate(operand())
        assert not result.requires_grad
        assert graph.product_edges() == []

    def test_takes_every_product_of_both_passes_once(self):
        graph = graph_of().traced()
        w = torch.ones(3, 2, dtype=DOUBLE, requires_grad=True)
        y = graph.propagate(torch.tanh(graph.matmul(operand() @ w)))
        assert len(graph.product_edges()) == 2
        (g,) = torch.autograd.grad(y.square().sum(), w, create_graph=True)
        assert len(graph.product_edges()) == 4
        torch.autograd.grad(g.sum(), w)  # The sweep's own pass.
        products = graph.take_products()
        assert [product.normalised for product in products] == [False, True, True, False]
        assert graph.product_edges() == []

    def test_leaves_the_graph_itself_alone(self):
        graph = graph_of()
        graph.degree.clone()
        first, second = graph.traced(), graph.traced()
        first.matmul(operand())
        assert len(first.product_edges()) == 1
        assert second.product_edges() == []
        assert graph.product_edges() == []
        assert first.degree is graph.degree

    def test_is_off_without_gradients(self):
        graph = graph_of().traced()
        with torch.no_grad():
            graph.matmul(operand())
        assert graph.product_edges() == []

    @pytest.mark.parametrize("which", ["operand", "result"])
    @pytest.mark.parametrize("constant", [True, False])
    def test_changes_in_place_are_caught(self, which, constant):
        tracer = GraphTracer(graph_of())
        m = operand() if constant else operand(requires_grad=True) * 1.0
        y = tracer.value.propagate(m)
        {"operand": m, "result": y}[which].relu_()
        grads = torch.autograd.grad(y.square().sum(), tracer.inputs())
        accumulator = FactorAccumulator(12, y)
        with pytest.raises(InputError, match=r"in place, but one was; use the out-of-place operation"):
            accumulator.add(tracer, grads)

    def test_operands_that_were_changed_before_are_fine(self):
        tracer = GraphTracer(graph_of())
        m = operand().relu_()
        y = tracer.value.propagate(m)
        grads = torch.autograd.grad(y.square().sum(), tracer.inputs())
        FactorAccumulator(12, y).add(tracer, grads)

    @pytest.mark.parametrize("kind", ["weighted", "plain", "empty"])
    def test_gives_the_gradient_of_a_dense_adjacency(self, kind):
        graph = graph_of(kind)
        w = torch.ones(3, 2, dtype=DOUBLE, requires_grad=True)
        x = operand()

        def scalar(propagate, matmul):
            h = propagate(torch.tanh(matmul(x @ w))) + matmul(x[:, :2])
            (g,) = torch.autograd.grad(h.square().sum(), w, create_graph=True)
            return g.square().sum() + propagate(propagate(x)).sin().sum()

        tracer = GraphTracer(graph)
        value = scalar(tracer.value.propagate, tracer.value.matmul)
        accumulator = FactorAccumulator(12, x)
        accumulator.add(tracer, torch.autograd.grad(value, tracer.inputs()))
        accumulator.add(GraphTracer(graph), ())  # A step that did not use the graph.
        a = dense_adjacency(graph).requires_grad_()
        expected = scalar(lambda m: normalise(a) @ m, lambda m: a @ m)
        (g,) = torch.autograd.grad(expected, a)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(accumulator.value().to_dense(), (g + g.T).fill_diagonal_(0), rtol=1e-10, atol=1e-10)

    def test_the_product_of_another_pass_is_not_taken_for_that_of_the_sweep(self):
        """Both passes go back over one product; the degrees need that of the sweep's cotangent."""
        graph, w = graph_of(), torch.ones(3, 2, dtype=DOUBLE, requires_grad=True)
        tracer = GraphTracer(graph)
        y = tracer.value.propagate(operand() @ w)
        value = y.sin().sum()
        cotangents = torch.autograd.grad(value, [w, *tracer.inputs()], retain_graph=True)[1:]
        torch.autograd.grad(y.square().sum(), w)
        accumulator = FactorAccumulator(12, w)
        accumulator.add(tracer, cotangents)
        a = dense_adjacency(graph).requires_grad_()
        (g,) = torch.autograd.grad((normalise(a) @ operand() @ w).sin().sum(), a)
        torch.testing.assert_close(accumulator.value().to_dense(), (g + g.T).fill_diagonal_(0), rtol=1e-10, atol=1e-10)

    def test_the_product_of_the_sweep_is_not_made_twice(self, monkeypatch):
        made, multiply = [], sampled.multiply
        w = torch.ones(3, 2, dtype=DOUBLE, requires_grad=True)
        tracer = GraphTracer(graph_of())
        y = tracer.value.propagate(operand() @ w)
        monkeypatch.setattr(sampled, "multiply", lambda *args: made.append(args) or multiply(*args))
        (_, cotangent) = torch.autograd.grad(y.sin().sum(), [w, *tracer.inputs()])
        (product,) = tracer.value.take_products()
        assert len(made) == 1
        assert torch.equal(product.propagated(cotangent), tracer.value.normalised @ cotangent)
        assert product.propagated(2 * cotangent) is None

    def test_what_was_returned_stays_as_it_is(self):
        accumulator = FactorAccumulator(12, operand())

        def add():
            tracer = GraphTracer(graph_of())
            y = tracer.value.propagate(operand())
            accumulator.add(tracer, torch.autograd.grad(y.square().sum(), tracer.inputs()))

        add()
        early = accumulator.value()
        before = early.to_dense()
        add()
        assert torch.equal(early.to_dense(), before)
        torch.testing.assert_close(accumulator.value().to_dense(), 2 * before)

    def test_unused_products_count_nothing(self):
        tracer = GraphTracer(graph_of())
        tracer.value.matmul(operand())
        tracer.value.propagate(operand())
        accumulator = FactorAccumulator(12, operand())
        accumulator.add(tracer, (None, None))
        assert accumulator.value().pairs == ()
        assert not accumulator.value().to_dense().any()


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 1 - 2**-20])
def test_a_dropout_mask_has_its_scale_or_zero(p):
    graph = graph_of()
    values = graph.dropout_mask(torch.zeros(12, 100_000, dtype=DOUBLE), p).unique().tolist()
    assert values == pytest.approx([0, graph.dropout_scale(p)], rel=1e-9)
