"""The self-supervised term of the outer objective: its value, its gradient in θ, and where it reaches."""

from functools import partial

import pytest
import torch

from lds.errors import InputError
from lds.graph import AllPairs, CandidatePairs
from lds.hypergrad import Reverse
from lds.learner import Denoising, StructureLearner
from tests.learner.problems import blocks
from tests.oracles import relative_error

PAIRS = torch.triu_indices(24, 24, 1)


def directions(x, width):
    """As the docstring says, with the signs that the class draws."""
    z = x - x.mean(0)
    if z.shape[1] > width:
        signs = torch.randint(2, (z.shape[1], width), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
        z = z @ signs.to(z)
    return z / z.norm(dim=1, keepdim=True)


def by_definition(a, z, coefficient):
    u = a @ z
    return coefficient * sum(1 - (z[i] @ u[i]) / (1 + u[i] @ u[i]).sqrt() for i in range(len(z))) / len(z)


@pytest.mark.parametrize("width", [3, 64])
@pytest.mark.parametrize("edges", [AllPairs, partial(CandidatePairs, candidates=PAIRS)])
def test_the_gradient_of_a_problem_has_that_of_the_term(edges, width):
    """The hypergradient with the term, less that without it, is the term's gradient in the entries of A."""
    data = blocks(24, dtype=torch.float64)
    plain = StructureLearner(edges=edges)
    learner = StructureLearner(edges=edges, outer_term=Denoising(0.7, width))
    found = {}
    for name, one in (("plain", plain), ("with", learner)):
        result = Reverse().solve(one.problem(data, steps=2, seed=1))
        found[name] = result.outer_loss, result.grad["structure"].at(*PAIRS)
    # All probabilities are 0 or 1: every draw is the initial graph.
    a = torch.zeros(24, 24, dtype=torch.float64)
    a[tuple(data.edge_index)] = 1
    a.requires_grad_()
    value = by_definition(a, directions(data.x, width), 0.7)
    (gradient,) = torch.autograd.grad(value, a)
    expected = (gradient + gradient.T)[tuple(PAIRS)]
    assert found["with"][0] - found["plain"][0] == pytest.approx(float(value.detach()), rel=1e-12)
    assert relative_error(found["with"][1] - found["plain"][1], expected) < 1e-10


def test_pairs_far_from_every_label_get_a_gradient():
    data = blocks(24, dtype=torch.float64)
    alone = torch.arange(24) >= 20  # Without edges, and none of them labelled.
    for split in ("train", "val", "es", "test"):
        data[f"{split}_mask"] &= ~alone
    data.test_mask |= alone
    data.edge_index = data.edge_index[:, ~(alone[data.edge_index[0]] | alone[data.edge_index[1]])]
    pair = torch.tensor([20]), torch.tensor([22])
    for term in (None, Denoising()):
        result = Reverse().solve(StructureLearner(outer_term=term).problem(data, steps=1))
        assert bool(result.grad["structure"].at(*pair) != 0) == (term is not None)


def test_sparse_features_give_the_same():
    data = blocks(24)
    graph = AllPairs(24, data.edge_index).draw()
    dense = [Denoising(1.0, width)(data)(graph) for width in (3, 64)]
    data.x = data.x.to_sparse_csr()
    torch.testing.assert_close([Denoising(1.0, width)(data)(graph) for width in (3, 64)], dense)


def test_features_that_are_all_the_same_ask_for_nothing():
    data = blocks(24)
    data.x = torch.ones(24, 3)
    graph = AllPairs(24, data.edge_index).draw()
    assert float(Denoising(0.5)(data)(graph)) == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coefficient": -1.0}, "coefficient must be finite and >= 0, got -1.0"),
        ({"width": 0}, "width must be an integer >= 1, got 0"),
    ],
)
def test_refused(options, message):
    with pytest.raises(InputError, match=message):
        Denoising(**options)
