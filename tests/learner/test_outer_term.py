"""A further term of the outer objective."""

from functools import partial

import pytest
import torch

from lds.errors import InputError
from lds.graph import AllPairs, CandidatePairs
from lds.hypergrad import Reverse
from lds.learner import StructureLearner
from tests.learner.problems import blocks
from tests.oracles import relative_error

PAIRS = torch.triu_indices(24, 24, 1)


def energy(data):
    """The Dirichlet energy of features, ½ Σ_ij A_ij ‖x_i − x_j‖², from products with A."""
    squares = data.x.square().sum(1, keepdim=True)
    return lambda graph: (graph.matmul(squares) - (data.x * graph.matmul(data.x)).sum(1, keepdim=True)).sum()


@pytest.mark.parametrize("edges", [AllPairs, partial(CandidatePairs, candidates=PAIRS)])
def test_the_hypergradient_gains_the_gradient_of_the_term(edges):
    data = blocks(24, dtype=torch.float64)
    found = [
        Reverse().solve(StructureLearner(edges=edges, outer_term=term).problem(data, steps=3, seed=1))
        for term in (None, energy)
    ]
    # All probabilities are 0 or 1: every draw is the initial graph.
    i, j = data.edge_index[:, data.edge_index[0] < data.edge_index[1]]
    value = (data.x[i] - data.x[j]).square().sum()
    assert float(found[1].outer_loss - found[0].outer_loss) == pytest.approx(float(value), rel=1e-12)
    plain, more = (result.grad["structure"].at(*PAIRS) for result in found)
    expected = (data.x[PAIRS[0]] - data.x[PAIRS[1]]).square().sum(1)
    assert relative_error(more - plain, expected) < 1e-10


def test_a_fit_follows_it():
    short = {"tau": 2, "inner_steps": 6, "max_epochs": 2, "samples": 2}
    plain, again, large = (
        StructureLearner(**short, outer_term=term).fit(blocks(24), seed=1)
        for term in (None, lambda data: lambda graph: 0 * energy(data)(graph), lambda data: energy(data))
    )
    torch.testing.assert_close(plain.structure.state(), again.structure.state())
    assert large.expected_edges < plain.expected_edges  # Edges between unlike nodes cost.


@pytest.mark.parametrize(
    ("term", "came"),
    [(0.1, "but float came"), (lambda data: data.x, "but a function that returns Tensor came")],
)
def test_refused(term, came):
    with pytest.raises(InputError, match=f"outer_term must be a function of the data .* {came}; write"):
        StructureLearner(outer_term=term).fit(blocks(24))


@pytest.mark.parametrize(
    ("value", "came"),
    [(None, "NoneType came"), (1.0, "float came"), (torch.zeros(3), r"shape \(3,\) came")],
)
def test_a_term_must_be_a_scalar(value, came):
    learner = StructureLearner(outer_term=lambda data: lambda graph: value, inner_steps=4, max_epochs=1)
    with pytest.raises(InputError, match=f"a term of outer_term must return a scalar tensor, but {came}"):
        learner.fit(blocks(24))
