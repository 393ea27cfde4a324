"""Common slips of users end in the right number or in one sentence that says what to do."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from lds.errors import ForeignTensorWarning, InputError
from lds.hypergrad import (
    Checkpoint,
    FiniteDifference,
    Forward,
    Implicit,
    KeepGraphs,
    KeepStates,
    Reverse,
    check_hypergradient,
    functional,
    hypergradient,
    record,
    sweep,
    truncation_curve,
)
from lds.updaters import SGD, Adagrad, Adam, AdamW, ClipByNorm, Lion, RMSprop, State
from tests.oracles import DOUBLE, regression, relative_error, same_bits

X, Y = torch.linspace(-1, 1, 24, dtype=DOUBLE).reshape(8, 3), torch.linspace(0, 1, 8, dtype=DOUBLE)
THETA = torch.tensor(0.1, dtype=DOUBLE)
BAGS = torch.tensor([0, 1, 2, 3, 1, 3]), torch.tensor([0, 2, 4])


def loss(params, outer):
    return (params["w"] - 1).square().sum() * outer


def call(params=None, *, updater=None, steps=3, state=None, method=None, inner=loss, outer_objective=loss):
    params = {"w": torch.zeros(3, dtype=DOUBLE)} if params is None else params
    return hypergradient(
        inner, outer_objective, params, THETA, updater=updater or SGD(0.1), steps=steps, state=state, method=method
    )


class TestParams:
    def test_a_frozen_parameter_is_not_trained_in_silence(self):
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        net[0].requires_grad_(False)

        def fit(p, o):
            return (functional_call(net, p, (X,)).squeeze(-1) - Y).square().mean() + o * p["2.weight"].square().sum()

        with pytest.raises(InputError, match=r"params\['0.bias'\] is a frozen Parameter .* leave it out of params"):
            call(dict(net.named_parameters()), inner=fit, outer_objective=fit)
        found = call(functional(net)[0], inner=fit, outer_objective=fit)
        assert set(found.params) == {"2.weight", "2.bias"}

    def test_one_tensor_at_two_places_is_not_untied_in_silence(self):
        w = torch.ones(3, 3, dtype=DOUBLE)
        with pytest.raises(InputError, match=r"params\['dec'\] and params\['enc'\] are the same one; give it once"):
            call({"enc": w, "dec": w}, inner=lambda p, o: (p["enc"] @ p["dec"] * o).sum())

    def test_a_module_is_told_of_functional(self):
        with pytest.raises(InputError, match=r"got the module Linear; write params, call = functional\(module\)"):
            call(nn.Linear(3, 3))


class TestInferenceMode:
    def test_around_the_call(self):
        with torch.inference_mode(), pytest.raises(InputError, match="switches off for good; call outside of it"):
            call({"w": torch.zeros(3)})

    def test_around_the_making_of_a_tensor(self):
        with torch.inference_mode():
            w = torch.zeros(3)
        with pytest.raises(InputError, match=r"made under torch.inference_mode\(\); give a .clone\(\)"):
            call({"w": w})
        assert call({"w": w.clone()}).grad.isfinite()


class TestStates:
    @pytest.mark.parametrize(("first", "second"), [(SGD(0.1), Adam(0.1)), (Adam(0.1), SGD(0.1))])
    def test_of_another_updater(self, first, second):
        state = call(updater=first).state
        with pytest.raises(InputError, match=f"state must be of the same updater, but {type(second).__name__} needs"):
            call(updater=second, state=state)
        assert call(updater=second, state=State(state.params, second.init(state.params))).grad.isfinite()

    def test_of_the_same_updater(self):
        problem = regression()
        first = record(problem.inner, *problem[2:], updater=Adam(0.05), steps=3)
        assert record(problem.inner, *problem[2:], updater=Adam(0.05), steps=3, state=first.final_state).steps == 3


def test_integers_of_numpy_are_integers():
    expected = call(steps=3, method=Reverse(2)).grad
    assert torch.equal(call(steps=np.int64(3), method=Reverse(np.int32(2))).grad, expected)
    for wrong in (np.float64(3), "3", True, None, 3.0, np.int64(-1)):
        with pytest.raises(InputError, match="steps must be an integer >= 0"):
            call(steps=wrong)


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_optimizers_of_torch_are_told_of_from_torch(name):
    optimizer = getattr(torch.optim, name)([torch.zeros(1, requires_grad=True)], 0.1)
    with pytest.raises(InputError, match=rf"torch.optim.{name} writes to its parameters; take .*from_torch"):
        call(updater=optimizer)


def test_a_class_is_no_updater():
    with pytest.raises(InputError, match="an updater must be an object, got the class SGD"):
        call(updater=SGD)


class TestNumbers:
    @pytest.mark.parametrize("updater", [Adam(0.1), AdamW(0.1), RMSprop(0.1), Adagrad(0.1), Lion(0.1)], ids=repr)
    def test_complex_params_are_refused_where_squares_or_signs_are_taken(self, updater):
        with pytest.raises(
            InputError, match=r"needs real params, but params\['w'\] is torch.complex64; give torch.view"
        ):
            call({"w": torch.zeros(3, dtype=torch.complex64)}, updater=updater)

    def test_an_autocast_around_the_call_keeps_no_iterate(self, monkeypatch):
        cleared = []
        monkeypatch.setattr(torch, "clear_autocast_cache", lambda: cleared.append(1))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hypergradient(loss, loss, {"w": torch.zeros(3)}, torch.tensor(0.1), updater=SGD(0.1), steps=4)
        assert len(cleared) == 4 + 1 + 1  # And once by the spot check, and by the autocast itself, at its end.
        call()
        assert len(cleared) == 4 + 1 + 1

    def test_central_differences_of_a_transposed_theta(self):
        theta = torch.linspace(-1, 1, 6, dtype=DOUBLE).reshape(3, 2).T

        def squares(p, o):
            return (p - o.exp().sum(0)).square().sum()

        found, expected = (
            hypergradient(
                squares, squares, torch.zeros(3, dtype=DOUBLE), theta, updater=SGD(0.1), steps=3, method=m
            ).grad
            for m in (FiniteDifference(), Reverse())
        )
        assert relative_error(found, expected) <= 1e-8

    def test_the_truncation_curve_of_a_complex_theta(self):
        theta = torch.tensor([0.3 + 0.4j, -0.2 + 0.1j], dtype=torch.complex128)

        def inner(w, o):
            return ((w - 1) * o).abs().square().sum() + 0.1 * w.square().sum()

        w = torch.zeros(2, dtype=DOUBLE)
        trajectory = record(inner, w, theta, updater=SGD(0.3), steps=6)
        curve = truncation_curve(trajectory, lambda w, o: w.sum())
        grads = [step.grad for step in sweep(trajectory, lambda w, o: w.sum())]
        expected = [float((g - grads[-1]).norm() / grads[-1].norm()) for g in grads]
        assert curve.relative_error == pytest.approx(expected, abs=1e-12)


def test_threads_take_turns():
    """The generators belong to the process; two fits at once must not share their draws."""
    problem = regression(dropout=0.5)

    def solve(seed):
        return hypergradient(*problem, updater=Adam(0.05), steps=12, seed=seed).grad

    before = torch.get_rng_state()
    expected = [solve(seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(solve, range(6)))
    assert all(same_bits(x, y) for x, y in zip(found, expected, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


class TestWhatNeverArrives:
    """The objectives call the module itself, whose own weights make their values differentiable."""

    @pytest.fixture
    def net(self):
        torch.manual_seed(0)
        return nn.Linear(3, 1).double()

    def good(self, net):
        params, call = functional(net)
        return params, lambda p, o: (call(p, X)[:, 0] - Y).square().mean() + o * p["weight"].square().sum()

    def bad(self, net):
        return lambda p, o: (net(X)[:, 0] - Y).square().mean() + o * net.weight.square().sum()

    def test_params_in_the_inner_objective(self, net):
        params, good = self.good(net)
        with pytest.raises(InputError, match=r"inner objective must depend on params, .* call = functional\(module\)"):
            call(params, inner=self.bad(net), outer_objective=good)
        with pytest.raises(InputError, match="inner objective must depend on params"):
            check_hypergradient(self.bad(net), good, params, THETA, updater=SGD(0.1), steps=3)

    @pytest.mark.parametrize("method", [Reverse(), Reverse(0), Forward(), Implicit()], ids=repr)
    def test_params_and_outer_in_the_outer_objective(self, net, method):
        params, good = self.good(net)
        with pytest.raises(
            InputError, match=r"outer objective must depend on params or on outer, .* functional\(module"
        ):
            call(params, inner=good, outer_objective=lambda p, o: net(X).square().mean(), method=method)
        assert net.weight.grad is None


class TestThetaThatNeverArrives:
    def theta(self):
        return {name: torch.tensor(0.1, dtype=DOUBLE, requires_grad=True) for name in ("reg", "lr")}

    def solve(self, inner, theta, updater, **options):
        w = {"w": torch.zeros(3, dtype=DOUBLE)}
        return hypergradient(inner, lambda p, o: (p["w"] - 1).square().sum(), w, theta, updater=updater, steps=5)

    def fit(self, p, reg):
        return (X @ p["w"] - Y).square().mean() + reg.exp() * p["w"].square().sum()

    @pytest.mark.filterwarnings("ignore::lds.errors.UnreachedWarning")
    def test_by_a_closure(self):
        theta = self.theta()
        with pytest.warns(
            ForeignTensorWarning, match=r"inner objective, or the step, also depends .* of shape \(\) that"
        ):
            found = self.solve(lambda p, o: self.fit(p, theta["reg"]), theta, SGD(lambda o: o["lr"]))
        assert found.grad["reg"] == 0

    def test_by_a_cache(self):
        theta, cache = self.theta(), {}

        def cached(p, o):
            return self.fit(p, cache.setdefault("reg", o["reg"] * 1.0))

        with pytest.warns(ForeignTensorWarning, match="treated as a constant"):
            self.solve(cached, theta, SGD(lambda o: o["lr"]))

    @pytest.mark.filterwarnings("ignore::lds.errors.UnreachedWarning")
    @pytest.mark.parametrize("wrap", [lambda u: u, lambda u: ClipByNorm(u, 1.0)])
    @pytest.mark.parametrize("make", [SGD, lambda x: SGD(0.1, momentum=x), lambda x: Adam(0.1, betas=(x, 0.9))])
    def test_by_a_coefficient_that_is_a_tensor(self, make, wrap):
        theta = self.theta()
        for x in (theta["lr"], theta["lr"].detach().clone().requires_grad_()):
            with pytest.raises(
                InputError, match=r"as a tensor it is a constant; pass a function such as lambda outer: outer"
            ):
                self.solve(lambda p, o: self.fit(p, o["reg"]), theta, wrap(make(x)))
        constant = self.solve(lambda p, o: self.fit(p, o["reg"]), theta, wrap(make(theta["lr"].detach().clone())))
        assert constant.grad["reg"] != 0

    def test_by_initial_weights(self):
        w = torch.zeros(3, dtype=DOUBLE)
        with pytest.raises(InputError, match=r"params\['w'\] is outer\['init'\]; the gradient in w_0 is `params_grad`"):
            hypergradient(loss, loss, {"w": w}, {"init": w}, updater=SGD(0.1), steps=3)

    def test_weights_that_are_frozen_are_no_surprise(self):
        teacher = nn.Linear(3, 1).double().requires_grad_(False)

        def distilled(p, o):
            return (X @ p["w"] - teacher(X)[:, 0]).square().mean() + o["reg"] * p["w"].square().sum()

        assert self.solve(distilled, self.theta(), SGD(lambda o: o["lr"])).grad["reg"] != 0


class TestSecondDerivatives:
    C = torch.linspace(-1, 1, 12).reshape(4, 3)

    def solve(self, inner, params, memory=None):
        return hypergradient(
            inner,
            lambda w, o: sum(x.square().mean() for x in (w.values() if isinstance(w, dict) else [w])),
            params,
            torch.tensor(0.3),
            updater=SGD(0.1),
            steps=3,
            method=Reverse(memory=memory),
        )

    @pytest.mark.parametrize("memory", [None, KeepStates()], ids=repr)
    @pytest.mark.parametrize(
        ("inner", "instead"),
        [
            (lambda w, o: torch.exp(-o * torch.cdist(X.float(), w)).sum(), "use_mm_for_euclid_dist"),
            pytest.param(
                lambda w, o: o * nn.functional.embedding_bag(BAGS[0], w, BAGS[1]).sum(),
                r"functional.embedding\(…\).mean",
                marks=pytest.mark.skipif(
                    not hasattr(torch.serialization, "safe_globals"), reason="torch 2.4 does not name the operation"
                ),
            ),
        ],
    )
    def test_that_torch_lacks(self, inner, instead, memory):
        def squared(w, o):
            return inner(w, o).square()

        with pytest.raises(InputError, match=f"must have a second derivative, but torch has none .* use .*{instead}"):
            self.solve(squared, self.C, memory)

    def test_of_attention(self):
        net = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        params, fit = functional(net)
        x = torch.linspace(-1, 1, 160).reshape(4, 5, 8)

        def inner(p, o):
            return fit(p, x).square().mean() * o

        with pytest.raises(
            InputError, match=r"must have a second derivative, but torch has none .* use sdpa_kernel\(SDPBackend.MATH\)"
        ):
            self.solve(inner, params)
        with sdpa_kernel(SDPBackend.MATH):
            assert self.solve(inner, params).grad.isfinite()


class TestWritesOfObjectives:
    METHODS = pytest.mark.parametrize(
        "method", [Reverse(), Reverse(memory=KeepStates()), Forward(), FiniteDifference(), Implicit()], ids=repr
    )

    def projected(self, p, o):
        with torch.no_grad():
            p["w"].clamp_(-0.3, 0.3)
        return loss(p, o)

    @METHODS
    def test_of_the_inner_objective(self, method):
        with pytest.raises(
            InputError, match=r"the inner objective must not write to params, but changed params\['w'\]"
        ):
            call(inner=self.projected, method=method)

    @METHODS
    def test_of_the_outer_objective(self, method):
        with pytest.raises(
            InputError, match=r"the outer objective must not write to params, but changed params\['w'\]"
        ):
            call(outer_objective=self.projected, method=method)

    def test_of_an_embedding(self):
        net = nn.Sequential(nn.Embedding(5, 3, max_norm=0.5), nn.Flatten(), nn.Linear(3, 1)).double()
        params, fit = functional(net)

        def inner(p, o):
            return (fit(p, torch.arange(5)).squeeze() - 1).square().mean() + o * p["2.weight"].square().sum()

        with pytest.raises(InputError, match=r"changed params\['0.weight'\] in place, such as by an embedding"):
            call(params, inner=inner, outer_objective=inner)


@pytest.mark.parametrize("memory", [None, KeepGraphs(math.inf), KeepGraphs(0), KeepStates(), Checkpoint()], ids=repr)
def test_transforms_of_torch_func_inside_an_objective(memory):
    """Gradients per sample: torch.func refuses the hooks by which the size of a graph is measured."""

    def per_sample(w, x, y):
        return (x @ w - y).square()

    def inner(p, o):
        grads = torch.func.vmap(torch.func.grad(per_sample), (None, 0, 0))(p["w"], X, Y)
        return (X @ p["w"] - Y).square().mean() + o * grads.square().mean()

    def plain(p, o):
        grads = 2 * (X @ p["w"] - Y)[:, None] * X
        return (X @ p["w"] - Y).square().mean() + o * grads.square().mean()

    found = call(inner=inner, steps=5, method=Reverse(memory=memory)).grad
    assert relative_error(found, call(inner=plain, steps=5).grad) <= 1e-12


class TestNesting:
    def nested(self, w, o):
        """The gradient of an inner problem in its regularisation, as a part of an objective around it."""
        found = hypergradient(
            lambda v, p: (v - w).square().sum() + p * v.square().sum(),
            lambda v, p: v.square().sum(),
            torch.zeros(3, dtype=DOUBLE),
            o,
            updater=SGD(0.1),
            steps=2,
        )
        return (w - 1).square().sum() * o + found.grad

    def test_is_no_constant_in_silence(self):
        for inner, outer in ((self.nested, loss_of), (loss_of, self.nested)):
            with pytest.raises(
                InputError, match="is a constant to the hypergradient around it, but its params or outer"
            ):
                hypergradient(inner, outer, torch.zeros(3, dtype=DOUBLE), THETA, updater=SGD(0.1), steps=2)

    def test_of_constants_is_allowed(self):
        def inner(w, o):
            found = call().grad  # Of other tensors altogether.
            return loss_of(w, o) * found

        assert hypergradient(
            inner, loss_of, torch.zeros(3, dtype=DOUBLE), THETA, updater=SGD(0.1), steps=2
        ).grad.isfinite()

    def test_beside_each_other_is_allowed(self):
        w = torch.zeros(3, dtype=DOUBLE, requires_grad=True)
        for _ in range(2):
            assert hypergradient(loss_of, loss_of, w, THETA, updater=SGD(0.1), steps=2).grad.isfinite()


def loss_of(w, o):
    return (w - 1).square().sum() * o
