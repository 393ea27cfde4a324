"""Updaters that have the name of one of torch.optim take its steps, up and down, and have the derivative of them."""

import inspect

import pytest
import torch

from lds import updaters
from lds.errors import InputError
from lds.hypergrad import Checkpoint, Disk, Reverse, hypergradient, record
from lds.updaters import ASGD, SGD, Adadelta, Adafactor, Adamax, Groups, Muon, NAdam, RAdam, Rprop, State
from lds.updaters.schedules import PerStep
from tests.oracles import DOUBLE, Problem, central_differences, relative_error, same_bits, unroll
from tests.updaters.torch_optim import assert_differs_by_epsilon, flat_problem, run, torch_run

EXACT = {
    "sgd-dampened": ("SGD", {"lr": 0.03, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.1}),
    "adadelta": ("Adadelta", {"lr": 0.5}),
    "adadelta-all": ("Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    "adafactor": ("Adafactor", {"lr": 0.02}),
    # The step sizes and the root mean squares are on both sides of their bounds.
    "adafactor-all": (
        "Adafactor",
        {"lr": 0.15, "beta2_decay": -0.5, "eps": (1e-2, 0.6), "d": 1.2, "weight_decay": 0.1},
    ),
    "adamax": ("Adamax", {"lr": 0.02}),
    "adamax-all": ("Adamax", {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-2, "weight_decay": 0.1}),
    "asgd": ("ASGD", {"lr": 0.03}),
    "asgd-all": ("ASGD", {"lr": 0.03, "lambd": 0.1, "alpha": 0.6, "t0": 10, "weight_decay": 0.1}),
    "rprop": ("Rprop", {"lr": 0.01}),
    "rprop-all": ("Rprop", {"lr": 0.01, "etas": (0.4, 1.5), "step_sizes": (1e-3, 0.02)}),
}
BUT_FOR_EPSILON = {
    "adam-amsgrad": ("Adam", {"lr": 0.02, "betas": (0.8, 0.9), "amsgrad": True, "weight_decay": 0.1}),
    "adamw-amsgrad": ("AdamW", {"lr": 0.02, "betas": (0.8, 0.9), "amsgrad": True}),
    "nadam": ("NAdam", {"lr": 0.02}),
    "nadam-all": ("NAdam", {"lr": 0.02, "betas": (0.8, 0.9), "momentum_decay": 0.1, "weight_decay": 0.1}),
    "nadam-decoupled": ("NAdam", {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "radam": ("RAdam", {"lr": 0.02}),
    "radam-all": ("RAdam", {"lr": 0.02, "betas": (0.8, 0.9), "weight_decay": 0.1}),
    "radam-decoupled": ("RAdam", {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True}),
}
UP = {
    "sgd": ("SGD", {"lr": 1e-3, "momentum": 0.5}),
    "adadelta": ("Adadelta", {"lr": 0.05}),
    "adafactor": ("Adafactor", {"lr": 1e-3}),
    "adagrad": ("Adagrad", {"lr": 1e-3}),
    "adam": ("Adam", {"lr": 1e-3}),
    "adamax": ("Adamax", {"lr": 1e-3}),
    "adamw": ("AdamW", {"lr": 1e-3}),
    "asgd": ("ASGD", {"lr": 1e-3}),
    "nadam": ("NAdam", {"lr": 1e-3}),
    "radam": ("RAdam", {"lr": 1e-3}),
    "rmsprop": ("RMSprop", {"lr": 1e-3}),
    "rprop": ("Rprop", {"lr": 1e-4}),
}


def of_this_torch(table):
    """The cases whose optimizer this torch has, with these options."""
    found = {name: (getattr(torch.optim, kind, None), options) for name, (kind, options) in table.items()}
    kept = [n for n, (kind, o) in found.items() if kind and o.keys() <= inspect.signature(kind).parameters.keys()]
    return {name: table[name] for name in kept}


EXACT, BUT_FOR_EPSILON, UP = map(of_this_torch, (EXACT, BUT_FOR_EPSILON, UP))


@pytest.fixture
def double():
    """torch keeps scalars of its state, such as NAdam's product, in the default dtype."""
    torch.set_default_dtype(DOUBLE)
    yield
    torch.set_default_dtype(torch.float32)


def both(name):
    return getattr(updaters, name), getattr(torch.optim, name)


@pytest.mark.usefixtures("double")
class TestFiftySteps:
    @pytest.mark.parametrize(("name", "options"), EXACT.values(), ids=EXACT)
    def test_agree_with_torch(self, name, options):
        ours, theirs = both(name)
        assert relative_error(run(ours(**options)), torch_run(theirs, **options)) <= 1e-12
        assert relative_error(run(ours(lr=options["lr"])), run(ours(**options))) > 1e-4 or len(options) == 1

    @pytest.mark.parametrize(("name", "options"), BUT_FOR_EPSILON.values(), ids=BUT_FOR_EPSILON)
    def test_agree_with_torch_but_for_epsilon(self, name, options):
        assert_differs_by_epsilon(*both(name), **options)

    @pytest.mark.parametrize(("name", "options"), UP.values(), ids=UP)
    def test_up_agree_with_torch(self, name, options):
        ours, theirs = both(name)
        options = {**options, "maximize": True}
        expected = torch_run(theirs, **options)
        assert relative_error(run(ours(**options)), expected) <= 1e-4
        assert relative_error(run(ours(**options | {"maximize": False})), expected) > 1e-3

    @pytest.mark.parametrize(
        "name",
        [n for n in ["Adadelta", "Adafactor", "Adamax", "NAdam", "RAdam", "ASGD", "Rprop"] if hasattr(torch.optim, n)],
    )
    def test_defaults_are_those_of_torch(self, name):
        ours, theirs = both(name)
        assert relative_error(run(ours(), 20), torch_run(theirs, 20)) <= 1e-6


def test_the_largest_second_moment_makes_a_difference():
    _, options = BUT_FOR_EPSILON["adam-amsgrad"]
    assert relative_error(run(updaters.Adam(**options)), run(updaters.Adam(**options | {"amsgrad": False}))) > 1e-3


class TestASGD:
    @pytest.mark.usefixtures("double")
    def test_the_slots_are_the_average(self):
        problem = flat_problem()
        options = {"lr": 0.03, "t0": 10}
        params = {k: v.clone().requires_grad_() for k, v in problem.params.items()}
        optimizer = torch.optim.ASGD(params.values(), **options)
        for _ in range(30):
            optimizer.zero_grad()
            problem.inner(params, problem.outer).backward()
            optimizer.step()
        found = record(
            problem.inner, problem.params, problem.outer, updater=ASGD(**options), steps=30, horizon=0
        ).final_state
        assert relative_error(found.slots.mean, {k: optimizer.state[p]["ax"] for k, p in params.items()}) <= 1e-12

    def test_the_rate_decays_on_after_a_warm_start(self):
        problem, updater = flat_problem(), ASGD(0.05, lambd=0.3, t0=2)

        def go(steps, state=None):
            return record(
                problem.inner, problem.params, problem.outer, updater=updater, steps=steps, horizon=0, state=state
            ).final_state

        assert same_bits(go(4, go(3)), go(7))


class TestAdafactor:
    def test_it_keeps_a_row_and_a_column_of_a_matrix(self):
        params = {
            "matrix": torch.ones(3, 4),
            "stack": torch.ones(2, 3, 4),
            "vector": torch.ones(5),
            "scalar": torch.ones(()),
        }
        slots = Adafactor().init(params)
        assert slots.row["matrix"].shape == (3, 1)
        assert slots.column["stack"].shape == (2, 1, 4)
        assert slots.row["vector"] is None
        assert slots.v["matrix"] is None
        assert slots.v["scalar"].shape == ()

    def test_the_entries_of_a_matrix_share_an_exponent(self):
        w = torch.ones(2, 2)
        with pytest.raises(InputError, match=r"beta2_decay must be one number for each matrix, .* got shape \(2, 2\)"):
            Adafactor(beta2_decay=lambda outer: -w).step(State(w, Adafactor().init(w)), (), lambda w, o: w.sum())

    def test_the_scale_of_the_weights_is_part_of_the_derivative(self):
        # With one weight u = g/|g| and α = η|w|, so that w_1 = w (1 − η); F = w_1²/2.
        w, rate = torch.tensor([3.0], dtype=DOUBLE), torch.tensor(0.1, dtype=DOUBLE)
        grad = hypergradient(
            lambda w, lr: w.square().sum(),
            lambda w, lr: w.square().sum() / 2,
            w,
            rate,
            updater=Adafactor(lambda lr: lr, d=2.0),
            steps=1,
        ).grad
        assert torch.allclose(grad, -(w[0] ** 2) * (1 - rate), rtol=1e-12)


def matrices():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=DOUBLE)

    x, y = normal(6, 3), normal(6, 5)
    params = {"square": normal(3, 3), "tall": normal(3, 2), "wide": normal(2, 5)}
    outer = {k: torch.tensor(v, dtype=DOUBLE) for k, v in {"lr": 0.05, "momentum": 0.8, "decay": 0.1}.items()}

    def network(p):
        return torch.tanh(x @ p["square"]) @ p["tall"] @ p["wide"]

    def outer_objective(p, o):
        return (network(p) - y.flip(0)).square().mean() + sum(x**2 for x in o.values())

    return Problem(lambda p, o: (network(p) - y).square().mean(), outer_objective, params, outer)


class TestMuon:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"lr": 0.05, "momentum": 0.8, "nesterov": False, "weight_decay": 0.3},
            {"lr": 0.05, "ns_steps": 3, "ns_coefficients": (3.0, -4.0, 2.0), "adjust_lr_fn": "match_rms_adamw"},
            {"lr": 0.05, "adjust_lr_fn": "original", "eps": 0.5},
        ],
        ids=["defaults", "heavy-ball", "adjusted", "original"],
    )
    @pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
    def test_fifty_steps_agree_with_torch(self, options, monkeypatch):
        rounded = torch_run(torch.optim.Muon, problem=matrices(), **options)
        assert relative_error(run(Muon(**options, dtype=torch.bfloat16), problem=matrices()), rounded) <= 1e-12
        # torch without its rounding to bfloat16.
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
        exact = torch_run(torch.optim.Muon, problem=matrices(), **options)
        assert relative_error(run(Muon(**options), problem=matrices()), exact) <= 1e-12
        assert relative_error(rounded, exact) > 1e-7

    @pytest.mark.parametrize("nesterov", [True, False])
    def test_all_coefficients_are_in_the_derivative(self, nesterov):
        problem = matrices()
        updater = Muon(lambda o: o["lr"], lambda o: o["decay"], lambda o: o["momentum"], nesterov)
        found = hypergradient(*problem, updater=updater, steps=6).grad
        assert relative_error(found, unroll(problem, updater, 6).grad) <= 1e-10
        assert relative_error(found, central_differences(problem, updater, 6)) <= 1e-6
        assert all(abs(x) > 1e-6 for x in found.values())

    def test_decoupled_decay_is_part_of_the_adjoint(self):
        # Without slots, steps that do not depend on w: w_T = (1 − ηλ)^T w_0 − …, so dF/dw_0 shrinks with it.
        w = torch.eye(2, dtype=DOUBLE)
        outer = {"lr": torch.tensor(0.1, dtype=DOUBLE), "decay": torch.tensor(0.5, dtype=DOUBLE)}
        slope = torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=DOUBLE)
        steps, updater = 5, Muon(lambda o: o["lr"], lambda o: o["decay"], momentum=0.0)
        grad = hypergradient(
            lambda w, o: (slope * w).sum(), lambda w, o: w.sum(), w, outer, updater=updater, steps=steps
        ).grad
        once = updater.step(State(torch.zeros_like(w), torch.zeros_like(w)), outer, lambda w, o: (slope * w).sum())
        length = -once.params.detach().sum() / outer["lr"]

        def final(lr, decay):
            shrink = 1 - lr * decay
            return w.sum() * shrink**steps - lr * length * sum(shrink**k for k in range(steps))

        expected = torch.autograd.functional.jacobian(final, (outer["lr"], outer["decay"]))
        assert torch.allclose(grad["lr"], expected[0], rtol=1e-12)
        assert torch.allclose(grad["decay"], expected[1], rtol=1e-12)

    @pytest.mark.filterwarnings("ignore::lds.errors.DerivativeWarning")  # It is not that of the rounded values.
    def test_bfloat16_has_the_derivative_of_the_iteration_without_rounding(self):
        problem = matrices()
        one, other = (
            hypergradient(*problem, updater=Muon(lambda o: o["lr"], dtype=dtype), steps=4).grad["lr"]
            for dtype in (None, torch.bfloat16)
        )
        assert 0 < abs(one - other) < 0.05 * abs(one)

    def test_needs_matrices(self):
        with pytest.raises(
            InputError, match=r"Muon needs matrices, but params\['b'\] has shape \(3,\); give such to .*Groups"
        ):
            Muon().init({"a": torch.ones(2, 2), "b": torch.ones(3)})

    def test_beside_another_updater(self):
        updater = Groups(
            {"muon": Muon(0.02), "adamw": updaters.AdamW(0.01)}, lambda name, w: "muon" if w.ndim == 2 else "adamw"
        )
        updaters.check_updater(updater)


class TestRprop:
    def test_what_is_outside_the_sign_has_a_hypergradient(self):
        # All signs stay the same: w_T = w_0 − η Σ_k η₊^k, from the second step on.
        outer = {k: torch.tensor(v, dtype=DOUBLE) for k, v in {"lr": 0.01, "larger": 1.3, "scale": 2.0}.items()}
        grad = hypergradient(
            lambda w, o: o["scale"] * (w + 100).square().sum(),
            lambda w, o: w.sum(),
            torch.tensor(1.0, dtype=DOUBLE),
            outer,
            updater=Rprop(lambda o: o["lr"], (0.5, lambda o: o["larger"])),
            steps=5,
        ).grad

        def final(lr, larger):
            return -lr * sum(larger**k for k in range(5))

        expected = torch.autograd.functional.jacobian(final, (outer["lr"], outer["larger"]))
        assert torch.allclose(grad["lr"], expected[0], rtol=1e-12)
        assert torch.allclose(grad["larger"], expected[1], rtol=1e-12)
        assert grad["scale"] == 0

    def test_a_change_of_sign_takes_back_nothing(self):
        # From 1 with steps of 0.8: 0.2, then −0.76; there the sign changes, so one step waits.
        w = torch.tensor(1.0, dtype=DOUBLE)
        updater = Rprop(0.8)
        state, seen = State(w, updater.init(w)), []
        for _ in range(4):
            state = updater.step(state, (), lambda w, o: w.square())
            seen.append(state.params.item())
        assert torch.allclose(torch.tensor(seen), torch.tensor([0.2, -0.76, -0.76, -0.28]))


class TestRAdam:
    @pytest.mark.parametrize("beta2", [0.999, 0.9, 0.5, 0.0])
    def test_a_learned_beta_waits_as_a_number_does(self, beta2):
        learned = run(RAdam(0.02, (0.9, torch.tensor(beta2, dtype=DOUBLE))), 20)
        assert relative_error(learned, run(RAdam(0.02, (0.9, beta2)), 20)) <= 1e-12

    @pytest.mark.filterwarnings("ignore::lds.errors.UnreachedWarning")
    def test_its_derivative_is_finite_before_and_after_the_wait(self):
        problem = flat_problem()
        outer = {**problem.outer, "beta": torch.tensor(0.9, dtype=DOUBLE)}
        asked = Problem(problem.inner, lambda p, o: p["w"].square().sum() + o["beta"] ** 2, problem.params, outer)
        updater = RAdam(0.02, (0.9, lambda o: o["beta"]))
        for steps in (2, 6, 9):
            found = hypergradient(*asked, updater=updater, steps=steps).grad["beta"]
            assert relative_error(found, central_differences(asked, updater, steps)["beta"]) <= 1e-6


class TestNAdam:
    def test_keeps_a_number_where_it_can(self):
        w = torch.ones(3)
        assert NAdam().init(w).product == 1.0
        assert torch.equal(NAdam(betas=(lambda o: o, 0.9)).init(w).product, torch.ones(3))
        assert torch.equal(NAdam(momentum_decay=PerStep([0.1, 0.2])).init(w).product, torch.ones(3))

    def test_both_are_the_same(self):
        options = {"lr": 0.02, "betas": (0.8, 0.9)}
        learned = run(NAdam(**options | {"betas": (torch.tensor(0.8, dtype=DOUBLE), 0.9)}), 20)
        assert relative_error(learned, run(NAdam(**options), 20)) <= 1e-12


class TestKinks:
    """What stands in for the derivative where there is none."""

    def one_step(self, updater, slope):
        w = torch.tensor([1.0, 1.0], dtype=DOUBLE)
        outer = torch.tensor([slope, 0.0], dtype=DOUBLE)
        return hypergradient(lambda w, o: (o * w).sum(), lambda w, o: w.sum(), w, outer, updater=updater, steps=1).grad

    def test_adamax_of_a_zero_gradient(self):
        # η/(1−β₁) · m/(|g| + ε) with m = (1−β₁) g: the slope at 0 is η/ε.
        grad = self.one_step(Adamax(0.1, eps=1e-3), 2.0)
        assert torch.allclose(grad[1], torch.tensor(-0.1 / 1e-3, dtype=DOUBLE))
        assert torch.allclose(grad[0], torch.tensor(-0.1 * 1e-3 / 2.001**2, dtype=DOUBLE))

    def test_adadelta_of_a_zero_gradient(self):
        assert torch.allclose(self.one_step(Adadelta(0.1, eps=1e-6), 2.0)[1], torch.tensor(-0.1, dtype=DOUBLE))

    @pytest.mark.parametrize("updater", [Adafactor(0.1), Muon(0.1)])
    def test_all_gradients_zero(self, updater):
        w = torch.ones(2, 2, dtype=DOUBLE)
        grad = hypergradient(
            lambda w, o: (o * w).sum(),
            lambda w, o: w.sum(),
            w,
            torch.zeros(2, 2, dtype=DOUBLE),
            updater=updater,
            steps=3,
        ).grad
        assert torch.isfinite(grad).all()


class TestDampening:
    def test_the_first_step_is_not_dampened(self):
        w = torch.tensor(1.0, dtype=DOUBLE)
        updater = SGD(0.1, 0.9, dampening=0.5)
        state = updater.step(State(w, updater.init(w)), (), lambda w, o: w)
        assert state.params == 0.9
        assert torch.allclose(updater.step(state, (), lambda w, o: w).params, torch.tensor(0.9 - 0.14, dtype=DOUBLE))

    def test_a_learned_one(self):
        updaters.check_updater(SGD(0.05, 0.9, dampening=lambda o: o["momentum"]))

    def test_nesterov_has_none(self):
        with pytest.raises(InputError, match=r"nesterov=True needs dampening=0, got 0.5"):
            SGD(0.1, 0.9, nesterov=True, dampening=0.5)


@pytest.mark.parametrize(
    "updater",
    [
        Adadelta(),
        Adafactor(0.1),
        Adamax(lambda o: o["lr"]),
        ASGD(lambda o: o["lr"], t0=3),
        NAdam(lambda o: o["lr"]),
        NAdam(0.1, (lambda o: o["momentum"], 0.9)),
        RAdam(0.1, (0.9, 0.9)),
        Rprop(lambda o: o["lr"]),
        SGD(0.1, 0.5, dampening=0.1),
        updaters.Adam(0.1, amsgrad=True),
    ],
    ids=lambda updater: type(updater).__name__,
)
@pytest.mark.filterwarnings("ignore::lds.errors.UnreachedWarning")
def test_every_memory_policy_gives_the_same(updater, tmp_path):
    problem = flat_problem()
    asked = (problem.inner, lambda p, o: p["w"].square().sum() + o["lr"], problem.params, problem.outer)
    found = [
        hypergradient(*asked, updater=updater, steps=8, method=Reverse(memory=memory)).grad
        for memory in (None, Checkpoint(), Disk(tmp_path))
    ]
    assert same_bits(found[0], found[1])
    assert same_bits(found[0], found[2])
