"""An updater may differentiate whatever it likes: players with losses of their own, a map that has no objective."""

import pytest
import torch

from lds.errors import InputError
from lds.hypergrad import Checkpoint, Reverse, functional, hypergradient
from lds.updaters import SGD, Adam, State, gradient
from tests.oracles import DOUBLE, Problem, central_differences, relative_error, unroll

START = {"g": torch.tensor([1.0, -0.5, 0.3], dtype=DOUBLE), "d": torch.tensor([0.4, 0.2, -0.7], dtype=DOUBLE)}
OUTER = {"lr": torch.tensor(0.1, dtype=DOUBLE), "penalty": torch.tensor(0.5, dtype=DOUBLE)}
TARGET = torch.tensor([0.5, 1.0, 2.0], dtype=DOUBLE)


def value(params, outer):
    """What the generator lowers and the discriminator raises."""
    return (params["d"].tanh() * (params["g"].exp() - TARGET)).sum() - outer["penalty"] * params["d"].square().sum()


def distance(params, outer):
    return (params["g"].exp() - TARGET).square().sum() + outer["lr"] ** 2 + outer["penalty"] ** 2


class Game:
    """Simultaneous steps of two players; `inner` is not used."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        g, d = state.params["g"], state.params["d"]
        down = gradient(lambda g, outer: value({"g": g, "d": d}, outer), g, outer)
        up = gradient(lambda d, outer: -value({"g": g, "d": d}, outer), d, outer)
        return State({"g": g - outer["lr"] * down, "d": d - outer["lr"] * up})


class ByHand(Game):
    """The same, with autograd called by hand."""

    def step(self, state, outer, inner):
        g, d = state.params["g"], state.params["d"]
        with torch.enable_grad():
            down, up = torch.autograd.grad(value(state.params, outer), (g, d), create_graph=True)
        return State({"g": g - outer["lr"] * down, "d": d + outer["lr"] * up})


class Alternating(Game):
    """The discriminator answers the generator's move, which counts as given."""

    def step(self, state, outer, inner):
        g, d = state.params["g"], state.params["d"]
        g = g - outer["lr"] * gradient(lambda g, outer: value({"g": g, "d": d}, outer), g, outer)
        up = gradient(lambda d, outer: value({"g": g, "d": d}, outer), d, outer)
        return State({"g": g, "d": d + outer["lr"] * up})


class Composed(Game):
    """Two updaters of the package, one for each player."""

    players = (SGD(lambda outer: outer["lr"]), Adam(lambda outer: outer["lr"], maximize=True))

    def init(self, params):
        return tuple(player.init(params[k]) for player, k in zip(self.players, "gd", strict=True))

    def step(self, state, outer, inner):
        new = [
            player.step(
                State(state.params[k], slots, state.step),
                outer,
                lambda x, outer, k=k: value({**state.params, k: x}, outer),
            )
            for player, slots, k in zip(self.players, state.slots, "gd", strict=True)
        ]
        return State({k: x.params for k, x in zip("gd", new, strict=True)}, tuple(x.slots for x in new))


class Root:
    """A fixed-point map without any objective: Heron's step to the square root of the penalty."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        return State({k: (x + outer["penalty"] / x) / 2 for k, x in state.params.items()})


def unused(params, outer):
    raise AssertionError("the inner objective is called")


PLAYERS = pytest.mark.parametrize(
    "updater", [Game(), ByHand(), Alternating(), Composed()], ids=lambda x: type(x).__name__
)


@PLAYERS
@pytest.mark.parametrize("method", [Reverse(), Reverse(memory=Checkpoint())], ids=["graphs", "checkpoints"])
def test_a_game_of_two_players(updater, method):
    problem = Problem(unused, distance, START, OUTER)
    found = hypergradient(*problem, updater=updater, steps=8, method=method).grad
    assert relative_error(found, unroll(problem, updater, 8).grad) <= 1e-12
    assert relative_error(found, central_differences(problem, updater, 8)) <= 1e-7


def test_the_players_take_the_steps_of_torch():
    g, d = (START[k].clone().requires_grad_() for k in "gd")
    optimizers = torch.optim.SGD([g], 0.1), torch.optim.Adam([d], 0.1, maximize=True, eps=1e-14)
    for _ in range(20):
        for x in (g, d):
            x.grad = None
        value({"g": g, "d": d}, OUTER).backward()
        for optimizer in optimizers:
            optimizer.step()
    found = hypergradient(unused, distance, START, OUTER, updater=Composed(), steps=20).params
    assert relative_error(found, {"g": g.detach(), "d": d.detach()}) <= 1e-10


def test_the_answer_takes_the_move_as_given():
    # One step by hand: up is the partial derivative at the new g, though g depends on d.
    state = Alternating().step(State(START), OUTER, None)
    g = START["g"] - 0.1 * START["d"].tanh() * START["g"].exp()
    up = (1 - START["d"].tanh() ** 2) * (g.exp() - TARGET) - START["d"]
    assert torch.allclose(state.params["g"], g)
    assert torch.allclose(state.params["d"], START["d"] + 0.1 * up)


@pytest.mark.parametrize("updater", [Game(), Alternating()], ids=lambda x: type(x).__name__)
def test_what_is_captured_is_constant_in_one_graph_through_all_steps_too(updater):
    g, d = (START[k].clone().requires_grad_() for k in "gd")
    whole = State({"g": g, "d": d})
    cut = State(START)
    for _ in range(3):
        whole = updater.step(whole, OUTER, None)
        cut = updater.step(State({k: x.detach().requires_grad_() for k, x in cut.params.items()}), OUTER, None)
    assert (
        relative_error({k: x.detach() for k, x in whole.params.items()}, {k: x.detach() for k, x in cut.params.items()})
        == 0
    )


def test_a_fixed_point_map():
    # Converged: x = √penalty, so dF/dpenalty is that of F(√penalty).
    problem = Problem(unused, lambda p, o: p["x"].sum() + o["lr"], {"x": torch.tensor([1.0, 3.0], dtype=DOUBLE)}, OUTER)
    found = hypergradient(*problem, updater=Root(), steps=12)
    assert torch.allclose(found.params["x"], OUTER["penalty"].sqrt().expand(2))
    assert torch.allclose(found.grad["penalty"], 1 / OUTER["penalty"].sqrt(), rtol=1e-10)


def test_gradient_of_a_part_names_what_is_missing():
    with pytest.raises(InputError, match="the inner objective must depend on params"):
        gradient(lambda g, outer: START["d"].sum(), START["g"], OUTER)


def test_sparse_gradients_are_refused():
    params, call = functional(torch.nn.Embedding(5, 3, sparse=True))
    with pytest.raises(
        InputError, match=r"inner gradients must be dense, got a sparse one of shape \(5, 3\); .*sparse=False"
    ):
        hypergradient(
            lambda p, o: o * call(p, torch.tensor([1, 2])).square().sum(),
            lambda p, o: call(p, torch.tensor([1])).square().sum(),
            params,
            torch.tensor(0.1),
            updater=SGD(0.1),
            steps=4,
        )


@pytest.mark.parametrize(
    ("inner", "came"),
    [
        (lambda w, outer: w**2, r"torch.float32 of shape \(3,\)"),
        (lambda w, outer: w.sum() * 1j, r"torch.complex64 of shape \(\)"),
    ],
)
def test_objectives_that_are_no_real_scalar_are_refused(inner, came):
    with pytest.raises(InputError, match=f"inner objective must be a real scalar, got {came}; reduce it"):
        gradient(inner, torch.ones(3), None)
