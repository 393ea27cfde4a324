"""SGC and APPNP: their formulas, sparse features, and the hypergradient through many products."""

import pytest
import torch

from lds.errors import InputError
from lds.graph import AllPairs, SparseMatrix
from lds.hypergrad import Reverse
from lds.learner import FixedGraphLearner, StructureLearner
from lds.learner._task import Task
from lds.nn import APPNP, GCN, SGC
from tests.learner.problems import blocks


def normalised(a):
    a = a + torch.eye(len(a), dtype=a.dtype)
    s = a.sum(1).rsqrt()
    return s[:, None] * a * s


@pytest.fixture
def problem():
    data = blocks(dtype=torch.float64)
    structure = AllPairs(48, data.edge_index, dtype=torch.float64)
    return data.x, structure.draw(), normalised(structure.to_dense())


def test_sgc(problem):
    x, graph, a = problem
    model = SGC(8, 2, steps=3).double()
    torch.testing.assert_close(model(x, graph), a @ a @ a @ x @ model.weight)
    torch.testing.assert_close(model(SparseMatrix.from_dense(x), graph), model(x, graph))


def test_appnp(problem):
    x, graph, a = problem
    model = APPNP(8, 2, hidden_channels=5, steps=3, alpha=0.2).double().eval()
    h = (x @ model.weights[0]).relu() @ model.weights[1]
    z = h
    for _ in range(3):
        z = 0.8 * a @ z + 0.2 * h
    torch.testing.assert_close(model(x, graph), z)
    torch.testing.assert_close(model(SparseMatrix.from_dense(x), graph), model(x, graph))
    assert not torch.equal(model.train()(x, graph), z)


class Dense:
    """A graph of a dense matrix that autograd follows."""

    def __init__(self, a):
        self.a = normalised(a)

    def propagate(self, m):
        return self.a @ m


@pytest.mark.parametrize("model", [lambda f, c: SGC(f, c, steps=3), lambda f, c: APPNP(f, c, steps=3, dropout=0.0)])
@pytest.mark.parametrize("decay", ["first", "all"])
def test_the_hypergradient_is_that_of_a_full_unroll(model, decay):
    data = blocks(n=24, dtype=torch.float64)
    learner = StructureLearner(model=model, decay=decay, weight_decay=0.1)
    problem = learner.problem(data, steps=3, seed=1)
    gradient = Reverse().solve(problem).grad["structure"]
    task = Task(data, model, 0.1, decay)
    a = AllPairs(24, data.edge_index, dtype=torch.float64).to_dense().requires_grad_()
    params = {name: value.clone().requires_grad_() for name, value in problem.params.items()}
    m = {name: torch.zeros_like(value) for name, value in params.items()}
    v = {name: torch.zeros_like(value) for name, value in params.items()}
    for t in range(1, 4):
        grads = torch.autograd.grad(task.inner_loss(params, Dense(a)), list(params.values()), create_graph=True)
        for (name, value), grad in zip(list(params.items()), grads, strict=True):
            m[name], v[name] = 0.9 * m[name] + 0.1 * grad, 0.999 * v[name] + 0.001 * grad**2
            root = (v[name] / (1 - 0.999**t) + 1e-10).sqrt()
            params[name] = value - 0.02 * (m[name] / (1 - 0.9**t)) / root
    (expected,) = torch.autograd.grad(task.outer_loss(params, Dense(a)), a)
    row, col = torch.triu_indices(24, 24, 1)
    torch.testing.assert_close(gradient.at(row, col), (expected + expected.T)[row, col])


def test_they_train():
    data = blocks(noise=0.3, wrong=0.1)
    for model in (SGC, APPNP):
        assert FixedGraphLearner(model=model, steps=100).fit(data).accuracy("train") > 0.9


def test_the_penalty_on_all_layers():
    data = blocks(dtype=torch.float64)
    graph = AllPairs(48, data.edge_index, dtype=torch.float64).draw()
    model = lambda f, c: GCN(f, c, dropout=0.0)  # noqa: E731
    tasks = {decay: Task(data, model, 0.3, decay) for decay in ("first", "all")}
    params = tasks["first"].initial_params()
    last = params["weights.1"].square().sum()
    difference = tasks["all"].inner_loss(params, graph) - tasks["first"].inner_loss(params, graph)
    torch.testing.assert_close(difference, 0.15 * last)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGC(3, 2, steps=0), "steps must be an integer >= 1, got 0"),
        (lambda: APPNP(3, 2, alpha=1.5), r"alpha must be a number in \[0, 1\], got 1.5"),
        (lambda: APPNP(3, 2, dropout=1.0), "dropout must lie in"),
        (lambda: FixedGraphLearner(decay="last"), 'decay must be "first" or "all", got \'last\''),
        (lambda: StructureLearner(decay="last"), 'decay must be "first" or "all"'),
    ],
)
def test_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
