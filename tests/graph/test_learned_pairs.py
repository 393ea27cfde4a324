"""Edge probabilities as a function of φ: gradients, steps, states."""

from functools import partial

import pytest
import torch

from lds.errors import InputError, NumericalError
from lds.graph import CandidatePairs, LearnedPairs
from lds.learner import Callback, StructureLearner
from lds.updaters import Adam, State
from tests.learner.problems import blocks
from tests.oracles import same_bits

SCORES = ("logit", "metric")
EDGES = torch.tensor([[0, 0, 1, 2], [1, 3, 4, 5]])
FURTHER = torch.tensor([[0, 1, 3], [5, 2, 4]])


def make(**options):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    start = torch.tensor([0.9, 0.5, 0.7, 0.2], dtype=torch.float64)
    defaults = {"x": x, "candidates": FURTHER, "probability": start, "rank": 2, "dtype": torch.float64}
    return LearnedPairs(6, EDGES, **(defaults | options))


class Gradient:
    """A gradient in θ that is given."""

    def __init__(self, values):
        self.values = values

    def at(self, row, col):
        return self.values

    def entries(self):
        return None, self.values


def some_gradient(seed=1):
    return torch.randn(7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("score", SCORES)
def test_it_starts_where_it_is_told(score):
    plain = CandidatePairs(6, EDGES, candidates=FURTHER, probability=torch.tensor([0.9, 0.5, 0.7, 0.2]).double(),
                           dtype=torch.float64)  # fmt: skip
    torch.testing.assert_close(make(score=score).pairs_alone().state(), plain.state().clamp(0.01, 0.99))


@pytest.mark.parametrize("score", SCORES)
def test_the_pull_back_against_central_differences(score):
    pairs, gradient = make(score=score), some_gradient()
    found = pairs.pull_back(gradient)
    for name, value in pairs.phi.items():
        for place in range(value.numel()):
            moved = []
            for sign in (1, -1):
                phi = pairs.phi
                phi[name].view(-1)[place] += sign * 1e-6
                moved.append(float(pairs.probabilities(phi) @ gradient))
            assert float(found[name].view(-1)[place]) == pytest.approx((moved[0] - moved[1]) / 2e-6, rel=1e-6, abs=1e-8)


def test_sparse_features_give_the_same():
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    dense = make(score="metric")
    dense.project_(Gradient(some_gradient()), 0.1)
    for layout in (torch.sparse_coo, torch.sparse_csr):
        sparse = make(x=x.to_sparse(layout=layout), score="metric")
        sparse.project_(Gradient(some_gradient()), 0.1)
        torch.testing.assert_close(sparse.state(), dense.state())


def test_adam_moves_logits_as_adam_does():
    pairs, updater = make(score="logit", x=None), Adam(0.1)
    state = State({"phi": torch.zeros(7, dtype=torch.float64)}, updater.init({"phi": torch.zeros(7).double()}), 0)
    offset = make(score="logit").pairs_alone().state().logit()
    for seed in range(3):
        theta = (offset + state.params["phi"]).sigmoid()
        gradient = some_gradient(seed) * theta * (1 - theta)
        params = {"phi": state.params["phi"].detach().requires_grad_()}
        state = updater.step(state._replace(params=params), (), lambda w, _, g=gradient: w["phi"] @ g)
        pairs.project_(Gradient(some_gradient(seed)), 0.1)
        torch.testing.assert_close(pairs.phi["phi"], state.params["phi"])


@pytest.mark.parametrize("score", SCORES)
def test_a_state_goes_on_to_the_same_bits(score):
    one, other = make(score=score), make(score=score)
    for seed in range(3):
        one.project_(Gradient(some_gradient(seed)), 0.1)
    other.restore_(one.state())
    for pairs in (one, other):
        pairs.project_(Gradient(some_gradient(9)), 0.1)
    assert torch.equal(one.state(), other.state())
    assert torch.equal(one.pairs_alone().state(), other.pairs_alone().state())
    assert not torch.equal(one.state(), make(score=score).state())


@pytest.mark.parametrize("score", SCORES)
def test_each_lowers_a_function_of_the_structure(score):
    """θ is to have edges on two pairs and none on the others."""
    wanted = torch.tensor([1.0, 1, 0, 0, 0, 0, 0], dtype=torch.float64)
    pairs = make(score=score, x=torch.eye(6, dtype=torch.float64), rank=6)
    before = float((pairs.pairs_alone().state() - wanted).square().sum())
    for _ in range(100):
        pairs.project_(Gradient(2 * (pairs.pairs_alone().state() - wanted)), 0.05)
    assert float((pairs.pairs_alone().state() - wanted).square().sum()) < 0.3 * before


def test_a_step_that_is_not_finite_changes_nothing():
    pairs = make(score="metric")
    before = pairs.state()
    with pytest.raises(NumericalError):
        pairs.project_(Gradient(torch.full((7,), float("nan")).double()), 0.1)
    assert torch.equal(pairs.state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "tree"}, "score must be one of logit, metric, got 'tree'"),
        ({"score": "metric", "x": None}, "score metric needs x, the features of the nodes, but none came"),
    ],
)
def test_refused(options, message):
    with pytest.raises(InputError, match=message):
        make(**options)


class Keep(Callback):
    """Keeps the third thing to resume from."""

    values = None
    count = 0

    def on_resumable(self, dump):
        self.count += 1
        if self.count == 3:
            self.values = dump()


@pytest.mark.parametrize("score", SCORES)
def test_learned_and_resumed(score):
    data = blocks()
    further = torch.triu_indices(48, 48, 1)
    edges = partial(LearnedPairs, x=data.x, candidates=further, score=score)
    learner = StructureLearner(edges=edges, outer_lr=0.05, tau=2, inner_steps=10, max_epochs=2, samples=2)
    keep = Keep()
    fit = learner.fit(data, seed=1, callbacks=[keep])
    again = learner.fit(data, seed=1, resume=keep.values)
    assert torch.equal(fit.structure.state(), again.structure.state())
    assert same_bits(fit.params, again.params)
    assert type(fit.structure) is CandidatePairs
    # A learned graph's hypergradient can be looked at, as that of any.
    assert learner.problem(data, steps=2, theta=fit.structure.state()) is not None
