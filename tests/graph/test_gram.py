"""Inner products of structure gradients, and the truncation curve of a structure."""

import pytest
import torch

from lds.errors import NumericalError
from lds.graph import AllPairs, CandidatePairs, FactorPairs
from lds.hypergrad import record, sweep, truncation_curve
from lds.updaters import Adam
from tests.graph.oracles import node_classification, structure_of, theta
from tests.oracles import DOUBLE


def factors(seed, n=40, ranks=(3, 5)):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=DOUBLE)

    return FactorPairs(tuple((draw(n, r), draw(n, r)) for r in ranks), draw(n))


def test_equals_the_dense_inner_products():
    gradients = [factors(0), factors(1, ranks=(2,)), factors(2, ranks=())]
    upper = [g.to_dense().triu(1).flatten() for g in gradients]
    expected = torch.stack([torch.stack([a @ b for b in upper]) for a in upper])
    structure = AllPairs(40, torch.tensor([[0], [1]]))
    assert torch.allclose(structure.gram(gradients), expected, rtol=1e-12, atol=0)


def test_a_sum_has_the_gradients_of_both():
    a, b = factors(0), factors(1)
    assert torch.allclose((a + b).to_dense(), a.to_dense() + b.to_dense(), rtol=1e-13)


@pytest.mark.parametrize("model", ["gcn-2", "mean"])
def test_the_truncation_curve_of_all_pairs(model):
    problem = node_classification(structure_of(theta("random", 40)), model)
    trajectory = record(problem.inner, problem.params, problem.outer, updater=Adam(0.05), steps=6, seed=2)
    curve = truncation_curve(trajectory, problem.outer_objective)
    rest = [k for k in problem.outer if k != "structure"]
    grads = [
        torch.cat([step.grad["structure"].to_dense().triu(1).flatten(), *(step.grad[k].flatten() for k in rest)])
        for step in sweep(trajectory, problem.outer_objective)
    ]
    full = grads[-1]
    for k, grad in enumerate(grads):
        assert curve.relative_error[k] == pytest.approx(float((grad - full).norm() / full.norm()), abs=1e-9)
        assert curve.cosine[k] == pytest.approx(float(grad @ full / grad.norm() / full.norm()), abs=1e-9)


def test_candidates_count_alone():
    pairs = torch.tensor([[0, 1, 2, 0], [3, 2, 5, 7]])
    structure = CandidatePairs(40, pairs)
    accumulators = [structure.accumulator() for _ in range(2)]
    weights = [torch.tensor(w) for w in ([1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 0.0, -1.0])]
    for accumulator, weight in zip(accumulators, weights, strict=True):
        tracer = structure.trace(structure.draw())
        assert [x.shape for x in (tracer.value.edge_weight, *tracer.inputs())] == [(8,), (4,)]
        accumulator.add(tracer, [weight])
    values = [a.value() for a in accumulators]
    assert structure.gram(values).tolist() == [[30.0, -2.0], [-2.0, 2.0]]
    assert torch.equal((values[0] + values[1]).at(*pairs), weights[0] + weights[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["degree", "left", "right"])
def test_factors_that_are_not_finite(value, part):
    """Also where the degrees alone are not: no pair holds them."""
    gradient = factors(0)
    side = gradient.degree if part == "degree" else gradient.pairs[1][part == "right"]
    side.view(-1)[7] = value
    structure = AllPairs(40, torch.tensor([[0], [1]]), dtype=DOUBLE)
    before = structure.state()
    with pytest.raises(NumericalError, match="the hypergradient of the structure holds NaN or infinity"):
        structure.project_(gradient, 0.1)
    assert torch.equal(structure.state(), before)
    with pytest.raises(NumericalError, match="holds NaN or infinity"):
        gradient.at(torch.tensor([0]), torch.tensor([1]))
