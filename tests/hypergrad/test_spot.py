"""The spot check of the last step: what it finds, what it must not find, and what it costs."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lds.errors import DerivativeWarning, InputError, ReplayError, UnreachedWarning
from lds.hypergrad import (
    Checkpoint,
    FiniteDifference,
    Forward,
    Implicit,
    KeepGraphs,
    KeepStates,
    Reverse,
    functional,
    hypergradient,
    record,
    sweep,
)
from lds.hypergrad._attached import Walk
from lds.hypergrad._reverse import UsualWatchers
from lds.updaters import SGD, Adam, State, gradient
from tests.oracles import DOUBLE

generator = torch.Generator().manual_seed(0)
A, B = torch.randn(6, 3, generator=generator).double(), torch.randn(6, generator=generator).double()
X, Y = torch.randn(8, 3, generator=generator).double(), torch.randn(8, generator=generator).double()
W0 = {"w": torch.zeros(3, dtype=DOUBLE)}
MEMORIES = [None, KeepStates(), Checkpoint(), KeepGraphs(0)]


def fit(p, o):
    return (A @ p["w"] - B).square().mean()


def distance(p, o):
    return (p["w"] - 1).square().sum()


class FirstOrder:
    """Descent that forgets `create_graph=True`."""

    def __init__(self, cut=lambda g: g.detach()):
        self.cut = cut

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        grads = gradient(inner, state.params, outer)
        return State({k: w - outer["lr"] * self.cut(grads[k]) for k, w in state.params.items()})


class TestCutPaths:
    @pytest.mark.parametrize("memory", MEMORIES, ids=repr)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_inner_gradients_without_a_graph(self, memory, dtype):
        a, b = A.to(dtype), B.to(dtype)
        problem = (lambda p, o: (a @ p["w"] - b).square().mean(), distance, {"w": torch.zeros(3, dtype=dtype)})
        theta = {"lr": torch.tensor(0.1, dtype=dtype)}
        with pytest.warns(DerivativeWarning, match="the step of FirstOrder in the state is not that of its values"):
            hypergradient(*problem, theta, updater=FirstOrder(), steps=10, method=Reverse(memory=memory))

    @pytest.mark.parametrize("by", ["state", "after"])
    def test_a_problem_that_is_gone_on_with_is_looked_at_less_and_less_often(self, by):
        class Gone(FirstOrder):
            """A class of this test, which nobody else has been seen to call."""

        problem, theta = (fit, distance, W0), {"lr": torch.tensor(0.1).double()}
        warned, state, trajectory = [], None, None
        for _ in range(10):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                if by == "state":
                    options = {"updater": Gone(), "steps": 3, "state": state}
                    state = hypergradient(*problem, theta, **options).state
                else:
                    trajectory = record(fit, W0, theta, updater=Gone(), steps=3, horizon=3, after=trajectory)
                    watched = UsualWatchers(trajectory, noise="replay", check_replay=True, to_start=False)
                    warned.append(any(isinstance(w, Walk) for w in watched._watchers))
            if by == "state":
                warned.append(any(w.category is DerivativeWarning for w in caught))
        # The first call begins anew; of those that go on, the first, second, fourth and eighth.
        assert warned == [True, True, True, False, True, False, False, False, True, False]

    def test_in_forward_mode(self):
        with pytest.warns(DerivativeWarning, match="in the state"):
            hypergradient(
                fit, distance, W0, {"lr": torch.tensor(0.1).double()}, updater=FirstOrder(), steps=3, method=Forward()
            )

    @pytest.mark.parametrize("memory", MEMORIES, ids=repr)
    def test_one_of_two_ways_of_a_variable(self, memory):
        """θ weighs the loss and decays the weights; the latter way is cut."""

        def half(p, o):
            return o["a"] * fit(p, o) + o["a"].detach() * p["w"].square().sum()

        theta = {"a": torch.tensor(0.3, dtype=DOUBLE)}
        with pytest.warns(DerivativeWarning, match=r"outer\['a'\] is not that of its values"):
            hypergradient(half, distance, W0, theta, updater=SGD(0.1), steps=10, method=Reverse(memory=memory))

    def test_a_small_part_of_a_derivative(self):
        theta = {"a": torch.tensor(0.3, dtype=DOUBLE)}
        with pytest.warns(DerivativeWarning):
            hypergradient(
                lambda p, o: o["a"] * fit(p, o) + 0.02 * (o["a"].detach() * p["w"].square()).sum(),
                distance, W0, theta, updater=SGD(0.1), steps=10,
            )  # fmt: skip

    def test_a_projection_without_gradients(self):
        class Projected(SGD):
            def step(self, state, outer, inner):
                new = super().step(state, outer, inner)
                return State({k: (w / w.norm().detach()) for k, w in new.params.items()}, new.slots)

        theta = torch.tensor(0.3, dtype=DOUBLE)
        with pytest.warns(DerivativeWarning, match="step of Projected in the state"):
            hypergradient(
                lambda p, o: fit(p, o) + o * p["w"].square().sum(), distance, W0, theta, updater=Projected(0.1), steps=5
            )

    def test_every_variable_that_is_wrong_is_named(self):
        def cut(p, o):
            return (o["a"] + o["a"].detach()) * fit(p, o) + (o["b"] + 2 * o["b"].detach()) * p["w"].square().sum()

        theta = {k: torch.tensor(0.1, dtype=DOUBLE) for k in "ab"}
        with pytest.warns(DerivativeWarning, match=r"in outer\['a'\] is not .* \(nor in outer\['b'\]\)"):
            hypergradient(cut, distance, W0, theta, updater=SGD(0.1), steps=4)


class TestWrongDerivativesOfTorch:
    @pytest.mark.parametrize("seed", range(20))
    def test_weight_norm(self, seed):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 1)).double()
        w0, call = functional(net)
        with pytest.warns(DerivativeWarning, match="weight_norm"):
            hypergradient(
                lambda p, o: (call(p, X).squeeze() - Y).square().mean() + o * sum(w.square().sum() for w in p.values()),
                lambda p, o: (call(p, X[:4]).squeeze() - Y[:4]).square().mean(),
                w0, torch.tensor(0.01, dtype=DOUBLE), updater=SGD(0.1), steps=4,
            )  # fmt: skip

    @pytest.mark.parametrize("make", [nn.BatchNorm1d, nn.LayerNorm])
    def test_a_hessian_through_a_norm(self, make):
        class Curved:
            def init(self, params):
                return ()

            def step(self, state, outer, inner):
                with torch.enable_grad():
                    g = gradient(inner, state.params, outer)
                    ones = [torch.ones_like(v) for v in g.values()]
                    found = torch.autograd.grad(
                        list(g.values()), list(state.params.values()), ones, create_graph=True, materialize_grads=True
                    )
                return State(
                    {k: w - 0.05 * (g[k] + 0.05 * v) for (k, w), v in zip(state.params.items(), found, strict=True)}
                )

        torch.manual_seed(0)
        w0, call = functional(nn.Sequential(nn.Linear(3, 4), make(4), nn.Tanh(), nn.Linear(4, 1)).double())
        with pytest.warns(DerivativeWarning):
            hypergradient(
                lambda p, o: (call(p, X).squeeze() - Y).square().mean() + o * sum(w.square().sum() for w in p.values()),
                lambda p, o: (call(p, X[:4]).squeeze() - Y[:4]).square().mean(),
                w0, torch.tensor(0.01, dtype=DOUBLE), updater=Curved(), steps=3,
            )  # fmt: skip


class TestImplicit:
    """Its linear system is that of the last step, or of the inner gradient, and is looked at likewise."""

    def test_a_step_that_is_cut_off_from_its_gradient(self):
        class Detached:
            def init(self, params):
                return ()

            def step(self, state, outer, inner):
                grads = gradient(inner, state.params, outer)
                return State({k: w - 0.1 * grads[k].detach() for k, w in state.params.items()})

        with pytest.raises(InputError, match="must be differentiable in outer: its result changes"):
            hypergradient(
                lambda p, o: fit(p, o) + o * p["w"].square().sum(),
                distance, W0, torch.tensor(0.1, dtype=DOUBLE), updater=Detached(), steps=3,
                method=Implicit("fixed_point", stationarity_tol=math.inf),
            )  # fmt: skip

    def test_a_hessian_that_torch_has_wrong(self):
        torch.manual_seed(0)
        net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), nn.Tanh(), nn.Linear(2, 1)).double()
        w0, call = functional(net)
        with pytest.warns(DerivativeWarning, match="in the state"):
            hypergradient(
                lambda p, o: (call(p, X)[:, 0] - Y).square().mean() + o * sum(w.square().sum() for w in p.values()),
                lambda p, o: (call(p, X[:4])[:, 0] - Y[:4]).square().mean(),
                w0, torch.tensor(0.3, dtype=DOUBLE), updater=SGD(0.1), steps=50,
                method=Implicit("dense", stationarity_tol=math.inf),
            )  # fmt: skip


class TestHiddenState:
    """The default policy runs no step again of its own."""

    methods = pytest.mark.parametrize(
        "method",
        [Reverse(), Forward(), Reverse(memory=KeepStates()), Reverse(2)],
        ids=["graphs", "forward", "states", "2"],
    )

    def solve(self, inner, method, updater=None, steps=5):
        theta = torch.tensor(0.1, dtype=DOUBLE)
        return hypergradient(inner, distance, W0, theta, updater=updater or SGD(0.1), steps=steps, method=method)

    @methods
    def test_momentum_on_the_updater(self, method):
        class Momentum:
            def init(self, params):
                self.v = {k: torch.zeros_like(w) for k, w in params.items()}
                return ()

            def step(self, state, outer, inner):
                g = gradient(inner, state.params, outer)
                self.v = {k: 0.9 * self.v[k].detach() + g[k] for k in g}
                return State({k: w - 0.1 * self.v[k] for k, w in state.params.items()})

        with pytest.raises(ReplayError, match="an attribute that is written to"):
            self.solve(lambda p, o: fit(p, o) + o * p["w"].square().sum(), method, Momentum())

    @methods
    @pytest.mark.parametrize("kind", ["torch", "numpy"])
    def test_a_generator_of_its_own(self, method, kind):
        generator = torch.Generator().manual_seed(0) if kind == "torch" else np.random.default_rng(0)

        def draw():
            if kind == "torch":
                return torch.randint(6, (2,), generator=generator)
            return torch.from_numpy(generator.integers(6, size=2))

        def inner(p, o):
            i = draw()
            return (A[i] @ p["w"] - B[i]).square().mean() + o * p["w"].square().sum()

        with pytest.raises(ReplayError, match="it reads generator, a random generator of its own"):
            self.solve(inner, method)

    @methods
    def test_a_loader_of_as_many_batches_as_steps(self, method):
        batches = iter(DataLoader(TensorDataset(A, B), batch_size=2))

        def inner(p, o):
            a, b = next(batches)
            return (a @ p["w"] - b).square().mean() + o * p["w"].square().sum()

        with pytest.raises((ReplayError, InputError), match=r"an iterator.* give the batches as batches="):
            self.solve(inner, method, steps=3)

    @methods
    @pytest.mark.parametrize("refill", ["numpy", "torch", "data"])
    def test_a_buffer_that_is_refilled(self, method, refill):
        rows = np.zeros((2, 3))
        buffer, count = torch.from_numpy(rows) if refill == "numpy" else torch.zeros(2, 3, dtype=DOUBLE), [0]

        def inner(p, o):
            count[0] += 1
            fresh = A[:2] + count[0]
            if refill == "numpy":
                rows[:] = fresh.numpy()
            elif refill == "torch":
                buffer.copy_(fresh)
            else:
                buffer.data = fresh
            return (buffer.clone() @ p["w"] - B[:2]).square().mean() + o * p["w"].square().sum()

        with pytest.raises(ReplayError, match="written to"):
            self.solve(inner, method)

    def test_a_module_in_train_mode_is_named(self):
        net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double().requires_grad_(False)
        running = net[1].running_mean

        def inner(p, o):
            return (net(A).detach() * 0 + running.clone() - p["w"]).square().mean() + o * p["w"].square().sum()

        with pytest.raises(ReplayError, match="net, a module with buffers in train mode"):
            self.solve(inner, Reverse())


class TestNoFalseAlarm:
    """Warnings are errors in all tests."""

    def check(self, inner, w, theta=0.3, *, dtype=DOUBLE, updater=None, steps=6, outer_objective=None):
        w0 = {"w": torch.as_tensor(w, dtype=dtype)}
        theta = torch.tensor(theta, dtype=dtype)
        final = outer_objective or (lambda p, o: (p["w"] - 1).square().sum())
        return hypergradient(inner, final, w0, theta, updater=updater or SGD(0.1), steps=steps).grad

    def test_where_theta_sits_on_a_kink(self):
        assert self.check(lambda p, o: (p["w"] - o.relu() - 1).square().sum(), [0.5], 0.0) == 0
        self.check(lambda p, o: (p["w"] - o.abs() - 1).square().sum(), [0.5], 0.0)
        self.check(lambda p, o: (p["w"] - o.clamp(0, 1)).square().sum(), [0.5], 1.0)

    def test_where_the_weights_sit_on_a_kink(self):
        self.check(lambda p, o: (o * p["w"].abs()).sum() + (p["w"][1] - 2).square(), [0.0, 0.5], steps=1)
        self.check(lambda p, o: (o * p["w"].abs()).sum(), [0.0, 0.0], updater=SGD(0.3), steps=1)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("size", [20, 2000])
    def test_absolute_errors_over_many_data(self, dtype, size):
        """Between two steps the mean of |x| has a curvature that no derivative at a point has."""
        x = torch.randn(size, 3, generator=torch.Generator().manual_seed(1), dtype=dtype)
        y = torch.randn(size, generator=torch.Generator().manual_seed(2), dtype=dtype)
        self.check(lambda p, o: (x @ p["w"] - y).abs().mean() + o * p["w"].square().sum(), [0.1, 0.2, 0.3], dtype=dtype)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Hardtanh, nn.Tanh, nn.GELU, nn.Softplus])
    def test_networks_over_many_data(self, dtype, activation):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 1)).to(dtype)
        x, y = torch.randn(1000, 5, dtype=dtype), torch.randn(1000, dtype=dtype)
        w0, call = functional(net)
        for updater in (SGD(0.05), Adam(lambda o: o.exp() * 0.01)):
            hypergradient(
                lambda p, o: (call(p, x)[:, 0] - y).square().mean() + o.exp() * p["0.weight"].square().sum(),
                lambda p, o: (call(p, x[:50])[:, 0] - y[:50]).square().mean(),
                w0, torch.tensor(-3.0, dtype=dtype), updater=updater, steps=3,
            )  # fmt: skip

    def test_a_straight_through_estimator_of_theta(self):
        def gate(o):
            soft = o.sigmoid()
            return soft + ((soft > 0.5).to(soft.dtype) - soft).detach()

        self.check(lambda p, o: (gate(o) * p["w"] - 2).square().sum(), [0.5])

    def test_probabilities_that_are_checked(self):
        def inner(p, o):
            law = torch.distributions.Bernoulli(probs=o)  # Refuses what is above 1.
            return -law.log_prob(p["w"].detach().round()).sum() + p["w"].square().sum() * o

        self.check(inner, [0.2], 1.0 - 1e-9)

    @pytest.mark.parametrize("scale", [1e-12, 1e-4, 1.0, 1e6, 1e12])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_any_units(self, scale, dtype):
        a, b = A.to(dtype), scale * B.to(dtype)
        self.check(lambda p, o: (a @ p["w"] - b).square().mean() + o * p["w"].square().sum(), [scale] * 3, dtype=dtype)

    @pytest.mark.parametrize("lr", [1e-8, 1e-3, 1.0])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
    def test_any_learning_rate(self, lr, dtype):
        a, b = A.to(dtype), B.to(dtype)
        self.check(
            lambda p, o: (a @ p["w"] - b).square().mean() + o * p["w"].square().sum(), [1.0, 2.0, 3.0], dtype=dtype,
            updater=SGD(lr),
        )  # fmt: skip

    def test_dropout_and_other_noise(self):
        self.check(lambda p, o: (nn.functional.dropout(p["w"]) - o * torch.randn(3)).square().sum(), [1.0, 2.0, 3.0])

    def test_an_iterator_that_is_resampled(self):
        batches = iter(range(100))
        theta = torch.tensor(0.1, dtype=DOUBLE)
        hypergradient(
            lambda p, o: fit(p, o) + o * next(batches) * p["w"].square().sum() / 100,
            distance, W0, theta, updater=SGD(0.1), steps=3, method=Reverse(noise="resample"),
        )  # fmt: skip


class TestUnreached:
    def test_is_named_with_the_way_out(self):
        theta = {"a": torch.tensor(0.1, dtype=DOUBLE), "b": torch.tensor(0.1, dtype=DOUBLE)}
        with pytest.warns(UnreachedWarning, match=r"nothing depends on outer\['b'\], neither .* 3 steps"):
            found = hypergradient(
                lambda p, o: fit(p, o) + o["a"] * p["w"].square().sum(), distance, W0, theta, updater=SGD(0.1), steps=3
            )
        assert found.grad["b"] == 0

    def test_by_a_sweep_that_does_not_reach_it(self):
        """A rate of the first step alone."""
        theta = {"a": torch.tensor(0.1, dtype=DOUBLE), "first": torch.tensor(0.1, dtype=DOUBLE)}

        class Two(SGD):
            def step(self, state, outer, inner):
                rate = outer["first"] if state.step == 0 else outer["a"]
                return SGD(lambda o: rate).step(state, outer, inner)

        with pytest.warns(UnreachedWarning, match=r"outer\['first'\].* larger horizon"):
            hypergradient(fit, distance, W0, theta, updater=Two(0.1), steps=4, method=Reverse(2))
        assert hypergradient(fit, distance, W0, theta, updater=Two(0.1), steps=4).grad["first"] != 0

    def test_the_direct_gradient_alone_was_asked_for(self):
        theta = {"a": torch.tensor(0.1, dtype=DOUBLE)}
        inner = lambda p, o: fit(p, o) + o["a"] * p["w"].square().sum()  # noqa: E731
        assert hypergradient(inner, distance, W0, theta, updater=SGD(0.1), steps=3, method=Reverse(0)).grad["a"] == 0


class TestCost:
    def test_one_evaluation_a_trajectory(self):
        calls = []

        def inner(p, o):
            calls.append(1)
            return fit(p, o) + o * p["w"].square().sum()

        theta = torch.tensor(0.1, dtype=DOUBLE)
        hypergradient(inner, distance, W0, theta, updater=SGD(0.1), steps=20)
        assert len(calls) == 20 + 1
        first = record(inner, W0, theta, updater=SGD(0.1), steps=5)
        calls.clear()
        for _ in sweep(first, distance):
            pass
        assert len(calls) == 1 + 0  # The graphs are there.
        after = record(inner, W0, theta, updater=SGD(0.1), steps=5, after=first, horizon=5)
        calls.clear()
        for _ in sweep(after, distance):
            pass
        assert not calls, "a trajectory that goes on is looked at once"

    def test_can_be_turned_off(self):
        theta = {"lr": torch.tensor(0.1, dtype=DOUBLE)}
        method = Reverse(check_replay=False)
        hypergradient(fit, distance, W0, theta, updater=FirstOrder(), steps=3, method=method)
        hypergradient(fit, distance, W0, theta, updater=FirstOrder(), steps=3, method=Reverse(noise="resample"))

    def test_the_callers_random_numbers_are_left_alone(self):
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        theta = {"lr": torch.tensor(0.1, dtype=DOUBLE)}
        hypergradient(fit, distance, W0, theta, updater=SGD(lambda o: o["lr"]), steps=3)
        assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("memory", [None, KeepStates()], ids=["graphs", "states"])
def test_a_missing_second_derivative_is_found_before_all_steps_are_taken(memory):
    calls = []
    centres = torch.linspace(-1, 1, 12, dtype=DOUBLE).reshape(4, 3)

    def inner(p, o):
        calls.append(1)
        return o * torch.cdist(p["w"][None], centres, compute_mode="donot_use_mm_for_euclid_dist").square().mean()

    with pytest.raises(InputError, match="must have a second derivative"):
        hypergradient(
            inner, distance, W0, torch.tensor(0.1, dtype=DOUBLE), updater=SGD(0.1), steps=50,
            method=Reverse(memory=memory),
        )  # fmt: skip
    assert len(calls) == (1 if memory is None else 51)


def test_finite_differences_need_no_derivative_to_be_right():
    """The method that the others are compared with takes no vector-Jacobian product, and warns of none."""
    theta = {"lr": torch.tensor(0.1, dtype=DOUBLE)}
    found = hypergradient(fit, distance, W0, theta, updater=FirstOrder(), steps=10, method=FiniteDifference())
    expected = hypergradient(fit, distance, W0, theta, updater=SGD(lambda o: o["lr"]), steps=10)
    assert math.isclose(found.grad["lr"], expected.grad["lr"], rel_tol=1e-6)
