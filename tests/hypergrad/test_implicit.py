"""Implicit differentiation against closed forms and the other methods; and what it says where its premise fails."""

import math
import warnings
from contextlib import contextmanager

import optree
import pytest
import torch

from lds._random import DRAW, OUTER_DRAW, forked, reseed
from lds.errors import InputError, NumericalError, PremiseWarning
from lds.graph import AllPairs
from lds.hypergrad import Derived, FiniteDifference, Forward, Implicit, Reverse, hypergradient
from lds.updaters import SGD, Adam, State, gradient
from tests.hypergrad.test_outer import StraightThrough
from tests.oracles import DOUBLE, Problem, relative_error, ridge, same_bits

SOLVERS = ("cg", "neumann", "fixed_point", "dense")
all_solvers = pytest.mark.parametrize("solver", SOLVERS)


def scalar(theta=0.7):
    """L = (w − θ²)², F = 2w, so that dF/dθ = 4θ."""
    return Problem(
        lambda w, theta: (w - theta**2) ** 2,
        lambda w, theta: 2 * w,
        torch.tensor(0.0, dtype=DOUBLE),
        torch.tensor(theta, dtype=DOUBLE),
    )


def quadratic(dtype=DOUBLE):
    """Params of two shapes, and outer variables that enter through L, through F, and through neither."""
    generator = torch.Generator().manual_seed(0)
    a, target = (torch.randn(n, 6, generator=generator, dtype=DOUBLE).to(dtype) for n in (6, 1))
    hessian = a @ a.T / 6 + torch.eye(6, dtype=dtype)

    def vector(params):
        return torch.cat([params["w"].flatten(), params["b"]])

    def inner(params, outer):
        x = vector(params) - target[0] * outer["scale"]
        return (x @ hessian @ x + outer["curvature"].exp() @ vector(params).square()) / 2

    def outer_objective(params, outer):
        return vector(params).pow(3).sum() + outer["direct"] ** 2 * params["b"].sum()

    outer = {
        "scale": torch.tensor(1.3, dtype=dtype),
        "curvature": torch.zeros(6, dtype=dtype),
        "direct": torch.tensor(0.5, dtype=dtype),
        "nothing": torch.ones(2, dtype=dtype),
    }
    params = {"w": torch.zeros(2, 2, dtype=dtype), "b": torch.ones(2, dtype=dtype)}
    return Problem(inner, outer_objective, params, outer)


@contextmanager
def premise(*words, count=1):
    """Expect so many warnings, of one line each, that have the words between them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    messages = [str(w.message) for w in caught]
    assert all(w.category is PremiseWarning for w in caught), messages
    assert len(messages) == count, messages
    assert not any("\n" in message for message in messages)
    for word in words:
        assert any(word in message for message in messages), (word, messages)


class TestClosedForms:
    @all_solvers
    @pytest.mark.parametrize("theta", [0.7, -1.5])
    def test_scalar(self, solver, theta):
        result = hypergradient(*scalar(theta), updater=SGD(0.3), steps=60, method=Implicit(solver, tol=1e-12))
        assert result.grad.item() == pytest.approx(4 * theta, rel=1e-10)
        assert result.params.item() == pytest.approx(theta**2, rel=1e-10)
        assert result.outer_loss == 2 * result.params.item()

    @all_solvers
    def test_ridge(self, solver):
        problem, minimiser, expected = ridge()
        result = hypergradient(*problem, updater=SGD(0.5), steps=200, method=Implicit(solver, tol=1e-12))
        assert relative_error(result.params, minimiser) <= 1e-10
        assert relative_error(result.grad, expected) <= 1e-10

    def test_what_phi_alone_reads_counts_at_its_fixed_point(self):
        """With weight decay λ in Φ the fixed point is t/(1 + λ), no minimum of L = ½‖w − t‖²."""
        t = torch.tensor([1.0, -2.0], dtype=DOUBLE)
        outer = {"decay": torch.tensor(0.25, dtype=DOUBLE), "lr": torch.tensor(0.4, dtype=DOUBLE)}
        problem = Problem(
            lambda w, o: (w - t).square().sum() / 2, lambda w, o: (w * torch.tensor([3.0, 1.0])).sum(), 0 * t, outer
        )
        for momentum in (0.0, 0.5):
            updater = SGD(lambda o: o["lr"], momentum=momentum, weight_decay=lambda o: o["decay"])
            found = hypergradient(*problem, updater=updater, steps=100, method=Implicit("fixed_point", tol=1e-13))
            assert found.grad["decay"].item() == pytest.approx(-1 / 1.25**2, rel=1e-10)
            assert abs(found.grad["lr"].item()) <= 1e-10
        with premise("needs a stationary point of the inner objective"):
            assert hypergradient(*problem, updater=updater, steps=100, method=Implicit("cg")).grad["decay"] == 0

    @pytest.mark.filterwarnings("ignore::lds.errors.UnreachedWarning")
    @pytest.mark.parametrize("momentum", [0.0, 0.6])
    def test_all_methods_agree_on_a_minimum(self, momentum):
        problem, updater = quadratic(), SGD(0.2, momentum=momentum)
        methods = [Reverse(), Forward(), FiniteDifference(), *(Implicit(solver, tol=1e-10) for solver in SOLVERS)]
        grads = [hypergradient(*problem, updater=updater, steps=300, method=method).grad for method in methods]
        for method, grad in zip(methods[1:], grads[1:], strict=True):
            assert relative_error(grad, grads[0]) <= 1e-6, method
        assert grads[0]["scale"].abs() > 0.1
        assert grads[0]["curvature"].all()


class TestOuterVariables:
    @all_solvers
    def test_derived(self, solver):
        problem = quadratic()
        theta = {"log": problem.outer["scale"].log()}
        derived = problem._replace(
            inner=lambda p, o: problem.inner(p, {**o, "scale": o["scale"]["value"]}),
            outer={**problem.outer, "scale": Derived(lambda t: {"value": t["log"].exp()}, theta)},
        )
        plain, found = (
            hypergradient(*p, updater=SGD(0.2), steps=200, method=Implicit(solver)).grad for p in (problem, derived)
        )
        assert found["scale"]["log"].item() == pytest.approx((1.3 * plain["scale"]).item(), rel=1e-10)

    @all_solvers
    def test_one_that_draws_is_drawn_once(self, solver):
        """The mask that comes next is that of L, and another one is that of F, as in a sweep."""
        generator = torch.Generator().manual_seed(1)
        x, y = torch.randn(12, 6, generator=generator, dtype=DOUBLE), torch.randn(12, generator=generator, dtype=DOUBLE)
        theta = torch.rand(6, generator=generator, dtype=DOUBLE)
        w = torch.randn(6, generator=generator, dtype=DOUBLE)

        def inner(w, mask):
            return (x @ (w * mask) - y).square().mean() + w @ w / 2

        def outer_objective(w, mask):
            return (x.cos() @ (w * mask) - y).square().mean()

        with forked():
            reseed(4, 0, DRAW)
            mask = torch.bernoulli(theta)
            reseed(4, 0, OUTER_DRAW)
            shown = torch.bernoulli(theta)
        assert not torch.equal(mask, shown)
        slope, direct = torch.func.grad(outer_objective, argnums=(0, 1))(w, shown)
        hessian = torch.func.hessian(inner)(w, mask)
        mixed = torch.func.jacrev(torch.func.grad(inner), argnums=1)(w, mask)
        expected = direct - torch.linalg.solve(hessian, slope) @ mixed

        problem = Problem(inner, outer_objective, w, StraightThrough(theta))
        variable = problem.outer
        with premise("stationary" if solver != "fixed_point" else "a fixed point"):
            found = hypergradient(*problem, updater=SGD(0.1), steps=0, method=Implicit(solver, tol=1e-12), seed=4)
        assert relative_error(found.grad, expected) <= 1e-9
        assert len(variable.draws) == 3  # One for the inner gradient norm.

    def test_a_structure(self):
        """Edges that all have probability one or zero make Φ the same in every step, so that both methods agree."""
        generator = torch.Generator().manual_seed(0)
        x, y = (torch.randn(6, 3, generator=generator, dtype=DOUBLE) for _ in range(2))
        structure = AllPairs(6, torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]]), dtype=DOUBLE)

        def inner(w, graph):
            return (graph.propagate(x @ w) - y).square().sum() + 5 * w.square().sum()

        def outer_objective(w, graph):
            return (graph.propagate(x @ w) - y.flip(0)).square().sum()

        problem = Problem(inner, outer_objective, torch.zeros(3, 3, dtype=DOUBLE), structure)
        expected = hypergradient(*problem, updater=SGD(0.02), steps=400).grad.to_dense()
        for solver in SOLVERS:
            found = hypergradient(*problem, updater=SGD(0.02), steps=400, method=Implicit(solver, tol=1e-10))
            assert relative_error(found.grad.to_dense(), expected) <= 1e-7


class TestDiagnostics:
    def test_figures_of_a_quadratic(self):
        problem = quadratic()
        results = {s: hypergradient(*problem, updater=SGD(0.2), steps=80, method=Implicit(s)) for s in SOLVERS}
        leaves, spec = optree.tree_flatten(results["cg"].params)
        sizes = [x.numel() for x in leaves]

        def flat(vector):
            parts = [part.reshape(x.shape) for part, x in zip(vector.split(sizes), leaves, strict=True)]
            return problem.inner(optree.tree_unflatten(spec, parts), problem.outer)

        w = torch.cat([x.flatten() for x in leaves])
        values = torch.linalg.eigvalsh(torch.func.hessian(flat)(w))
        slope = torch.func.grad(flat)(w)
        distance = torch.linalg.solve(torch.func.hessian(flat)(w), slope).norm() / w.norm()
        for solver, result in results.items():
            found = result.diagnostics
            assert found.converged
            assert found.residual <= 1.5e-8
            assert found.inner_gradient_norm == pytest.approx(slope.norm().item(), rel=1e-10)
            assert found.inner_losses == pytest.approx([flat(w).item()], abs=1e-8)
            if solver == "fixed_point":
                assert all(map(math.isnan, found.curvature))
            else:
                # By the slowest direction, which is what is left after so many steps.
                assert found.distance == pytest.approx(distance.item(), rel=1e-2)
                low, high = found.curvature
                assert values[0] * (1 - 1e-9) <= low < high <= values[-1] * (1 + 1e-9)
        assert results["dense"].diagnostics.curvature == pytest.approx((values[0].item(), values[-1].item()), rel=1e-12)
        assert results["dense"].diagnostics.iterations == 6
        assert results["cg"].diagnostics.iterations <= 14  # A second look among them.
        assert math.isnan(results["cg"].diagnostics.contraction)
        slowest = 1 - 0.2 * values[0].item()
        assert results["fixed_point"].diagnostics.contraction == pytest.approx(
            slowest, rel=0.1
        )  # A mean over all iterations.
        assert results["fixed_point"].diagnostics.distance == pytest.approx(distance.item(), rel=0.5)

    def test_the_inner_gradient_norm_is_that_of_then(self):
        problem = quadratic()
        result = hypergradient(*problem, updater=SGD(0.2), steps=50, method=Implicit())
        problem.outer["scale"].fill_(100.0)
        assert result.diagnostics.inner_gradient_norm < 1e-3

    def test_an_outer_objective_that_ignores_params_needs_no_solver(self):
        problem = quadratic()._replace(outer_objective=lambda p, o: o["direct"] ** 2)
        for solver in SOLVERS:
            result = hypergradient(*problem, updater=SGD(0.2), steps=200, method=Implicit(solver, tol=0.0))
            assert result.grad["direct"] == 1.0
            assert result.grad["scale"] == 0
            assert result.diagnostics.iterations == 0
            assert result.diagnostics.converged

    def test_neumann_takes_a_step_size(self):
        problem = quadratic()
        plain = hypergradient(*problem, updater=SGD(0.2), steps=200, method=Implicit("neumann"))
        small = hypergradient(*problem, updater=SGD(0.2), steps=200, method=Implicit("neumann", step_size=0.05))
        assert relative_error(small.grad, plain.grad) <= 1e-6
        assert small.diagnostics.iterations > 2 * plain.diagnostics.iterations


def stiff(condition, dtype=DOUBLE, begin=0.0):
    """Two directions, one of which hardly curves: L = ½ Σ h_i (w_i − θ_i)², F = ½ ‖w‖², with the minimum at θ."""
    h = torch.tensor([1.0, 1 / condition], dtype=dtype)
    ones = torch.ones(2, dtype=dtype)
    return Problem(lambda p, o: (h * (p - o).square()).sum() / 2, lambda p, o: p.square().sum() / 2, begin * ones, ones)


class TestFiguresHold:
    """What the diagnostics say of the distance and of the error, where one direction hides behind another."""

    @all_solvers
    @pytest.mark.parametrize(("condition", "steps"), [(10.0, 3), (100.0, 80), (1e4, 80), (1e6, 200)])
    def test_the_distance_is_no_less_than_it_is(self, solver, condition, steps):
        """The gradient is large where the curvature is, and the way is long where it is not."""
        problem = stiff(condition)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = hypergradient(*problem, updater=SGD(1.9), steps=steps, method=Implicit(solver))
        way = found.params - problem.outer
        true = float(way.norm() / max(found.params.norm(), torch.tensor(0.0)))
        estimated = found.diagnostics.distance
        if solver in ("cg", "dense"):
            assert estimated == pytest.approx(true, rel=0.1)
        assert caught or estimated >= 0.9 * true
        assert bool(caught) == (true > 1e-3) or solver in ("neumann", "fixed_point")

    @all_solvers
    @pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
    @pytest.mark.parametrize("condition", [1e2, 1e4, 1e5])
    @pytest.mark.parametrize("part", [1.0, 3e-4, 3e-5])
    def test_a_solution_that_is_called_converged_is_right(self, solver, dtype, condition, part):
        """dF/dθ = H⁻¹ ∂F, of whose second entry the residual shows little."""
        h = torch.tensor([1.0, 1 / condition], dtype=dtype)
        slope = torch.tensor([1.0, part], dtype=dtype)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = hypergradient(
                lambda p, o: (h * p * p).sum() / 2 - (o * p).sum(),
                lambda p, o: slope @ p,
                torch.ones(2, dtype=dtype),
                h.clone(),
                updater=SGD(0.1),
                steps=0,
                method=Implicit(solver),
            )
        expected = slope / h
        error = float((found.grad - expected).norm() / expected.norm())
        if found.diagnostics.converged:
            assert error <= 1e-2
        else:
            assert "did not converge" in str(caught[0].message)
        # A series needs as many terms as the condition; "dense" says what rounding may have done at the worst.
        rounded = condition == 1e5 and dtype == torch.float32
        assert found.diagnostics.converged or solver in ("neumann", "fixed_point") or rounded

    @all_solvers
    def test_a_well_conditioned_problem_converges_in_single_precision(self, solver):
        """No alarm by rounding: warnings fail tests."""
        generator = torch.Generator().manual_seed(3)
        a = torch.randn(60, 20, generator=generator)
        hessian = a.T @ a / 60 + 0.1 * torch.eye(20)
        b = torch.randn(20, generator=generator)
        found = hypergradient(
            lambda w, o: w @ hessian @ w / 2 - o @ w,
            lambda w, o: b @ w,
            torch.zeros(20),
            torch.ones(20),
            updater=SGD(0.3),
            steps=400,
            method=Implicit(solver),
        )
        expected = torch.linalg.solve(hessian.double(), b.double()).float()
        assert found.diagnostics.error <= 1e-3
        assert relative_error(found.grad, expected) <= 1e-3


class TestPremise:
    """Every failure is told, with figures; and where all is well, nothing is (warnings fail tests)."""

    @all_solvers
    @pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
    def test_a_warm_start_at_the_minimum_is_no_cause_for_alarm(self, solver, dtype):
        problem = quadratic(dtype)
        first = hypergradient(*problem, updater=SGD(0.2), steps=200, method=Implicit(solver))
        again = hypergradient(*problem, updater=SGD(0.2), steps=1, state=first.state, method=Implicit(solver))
        assert again.diagnostics.distance <= 1e-5
        assert relative_error(again.grad, first.grad) <= (1e-3 if dtype == torch.float32 else 1e-8)

    @all_solvers
    def test_too_few_steps(self, solver):
        needed = "a fixed point of Φ" if solver == "fixed_point" else "a stationary point of the inner objective"
        with premise(needed, "‖∇L‖ = ", "‖w_T‖ = ", "stationarity_tol = 0.001", "run more steps"):
            result = hypergradient(*quadratic(), updater=SGD(0.2), steps=2, method=Implicit(solver))
        assert result.diagnostics.distance > 0.01
        quiet = Implicit(solver, stationarity_tol=10.0)
        assert same_bits(hypergradient(*quadratic(), updater=SGD(0.2), steps=2, method=quiet).grad, result.grad)

    def test_the_warning_points_at_the_caller(self):
        with pytest.warns(PremiseWarning) as caught:
            hypergradient(*quadratic(), updater=SGD(0.2), steps=2, method=Implicit())
        assert caught[0].filename == __file__

    def test_a_filter_makes_it_an_error(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error", PremiseWarning)
            with pytest.raises(PremiseWarning, match="stationary point"):
                hypergradient(*quadratic(), updater=SGD(0.2), steps=2, method=Implicit())

    @all_solvers
    @pytest.mark.parametrize("steps", [100, 3000])
    def test_a_minimum_at_infinity(self, solver, steps):
        """Separable data without a penalty: the gradient vanishes, and there is no minimum."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(30, 4, generator=generator, dtype=DOUBLE)
        y = torch.sign(x[:, 0])

        def inner(w, outer):
            return (outer.exp() * torch.nn.functional.softplus(-y * (x @ w))).mean()

        problem = Problem(
            inner, lambda w, o: (w - 1).square().sum(), torch.zeros(4, dtype=DOUBLE), torch.zeros(30, dtype=DOUBLE)
        )
        grown = "the weights grew from 0 and descent lengthens them further"
        count = 2 if solver == "fixed_point" else 1  # Φ hardly contracts, so its series does not converge either.
        with premise(grown, "the minimum lies at infinity", "‖w_T‖ = ", count=count):
            result = hypergradient(*problem, updater=SGD(50.0), steps=steps, method=Implicit(solver))
        assert result.diagnostics.inner_gradient_norm < 1e-3
        assert result.diagnostics.distance > 0.1

    @pytest.mark.parametrize("solver", ["cg", "neumann", "dense"])
    def test_a_singular_hessian(self, solver):
        """L is flat along w₂, and F is not."""
        problem = Problem(
            lambda w, o: (w[0] - o) ** 2,
            lambda w, o: w[0] + w[1],
            torch.ones(2, dtype=DOUBLE),
            torch.tensor(1.0, dtype=DOUBLE),
        )
        with premise("met a singular Hessian", "curvature from", "add a penalty"):
            result = hypergradient(*problem, updater=SGD(0.1), steps=0, method=Implicit(solver, max_iterations=50))
        low, high = result.diagnostics.curvature
        assert abs(low) <= 1e-12
        assert high == pytest.approx(1.0 if solver == "cg" else 2.0)  # What conjugate gradients met first.
        assert not result.diagnostics.converged
        assert result.grad.abs() < 10  # Nothing is divided by a curvature of zero.
        if solver == "cg":
            assert result.diagnostics.iterations <= 2  # No product more once a direction is flat.

    def test_where_the_outer_objective_does_not_slope_a_flat_direction_costs_a_warning_only(self):
        problem = Problem(
            lambda w, o: (w[0] - o**2) ** 2,
            lambda w, o: 2 * w[0],
            torch.ones(2, dtype=DOUBLE),
            torch.tensor(0.7, dtype=DOUBLE),
        )
        with premise("met a singular Hessian"):
            result = hypergradient(*problem, updater=SGD(0.1), steps=200, method=Implicit("dense"))
        assert result.grad.item() == pytest.approx(2.8, rel=1e-10)

    @pytest.mark.parametrize("solver", ["cg", "neumann", "dense"])
    def test_a_saddle(self, solver):
        problem = Problem(
            lambda w, o: o * w[0] ** 2 - w[1] ** 2,
            lambda w, o: w[0] + 2 * w[1],
            torch.zeros(2, dtype=DOUBLE),
            torch.tensor(1.0, dtype=DOUBLE),
        )
        with premise("met an indefinite Hessian", "or w_T is a saddle"):
            result = hypergradient(*problem, updater=SGD(0.1), steps=0, method=Implicit(solver, max_iterations=50))
        assert result.diagnostics.curvature[0] < 0

    @pytest.mark.parametrize("solver", ["cg", "neumann", "fixed_point"])
    def test_too_few_iterations(self, solver):
        with premise(f'solver "{solver}" of Implicit() did not converge', "after 2 iterations", "raise max_iterations"):
            result = hypergradient(*quadratic(), updater=SGD(0.2), steps=200, method=Implicit(solver, max_iterations=2))
        assert result.diagnostics.iterations == 2
        assert result.diagnostics.residual > 1e-3
        assert not result.diagnostics.converged

    def test_a_step_size_that_diverges(self):
        with premise("did not converge", "choose a step_size below 2 over the largest curvature"):
            result = hypergradient(
                *quadratic(), updater=SGD(0.2), steps=200, method=Implicit("neumann", step_size=1.0, max_iterations=30)
            )
        assert result.diagnostics.contraction > 1

    def test_a_step_that_does_not_contract(self):
        """w_T is the minimum, which Φ with too large a step size would run away from."""
        problem = scalar()._replace(params=torch.tensor(0.49, dtype=DOUBLE))
        with premise("did not converge", "let Φ contract", count=2):
            result = hypergradient(*problem, updater=SGD(1.1), steps=0, method=Implicit("fixed_point"))
        assert result.diagnostics.contraction == pytest.approx(1.2, rel=0.01)

    @all_solvers
    def test_no_finite_number(self, solver):
        problem = Problem(
            lambda w, o: (o * (w.abs() + 1).log() * w.sign() * math.inf).sum(),
            lambda w, o: w.sum(),
            torch.ones(2, dtype=DOUBLE),
            torch.tensor(1.0, dtype=DOUBLE),
        )
        with (
            pytest.warns(PremiseWarning),
            pytest.raises(NumericalError, match=r"the hypergradient of Implicit\(\) must be finite"),
        ):
            hypergradient(*problem, updater=SGD(0.1), steps=0, method=Implicit(solver, max_iterations=5))


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"solver": "lbfgs"}, "solver must be one of 'cg', 'neumann', 'fixed_point', 'dense', got 'lbfgs'"),
            ({"tol": -1.0}, "tol must be a number >= 0 or None, got -1.0"),
            ({"tol": math.nan}, "tol must be a number >= 0"),
            ({"max_iterations": 0}, "max_iterations must be an integer >= 1, got 0"),
            ({"max_iterations": 2.5}, "max_iterations must be an integer >= 1, got 2.5"),
            ({"step_size": 0.1}, "step_size belongs to solver=\"neumann\", got it with 'cg'"),
            ({"solver": "neumann", "step_size": 0.0}, "step_size must be a number > 0 or None, got 0.0"),
            ({"stationarity_tol": -1.0}, "stationarity_tol must be a number >= 0, got -1.0"),
        ],
    )
    def test_are_checked(self, options, message):
        with pytest.raises(InputError) as caught:
            Implicit(**options)
        assert message in str(caught.value)

    def test_complex_params_are_refused(self):
        problem = Problem(
            lambda w, o: (w * w.conj()).real.sum() * o, lambda w, o: w.real.sum(), torch.ones(2) * 1j, torch.tensor(1.0)
        )
        with pytest.raises(InputError, match="needs real params and slots"):
            hypergradient(*problem, updater=SGD(0.1), steps=1, method=Implicit())

    def test_an_inner_objective_without_params_is_refused(self):
        problem = Problem(lambda w, o: o**2, lambda w, o: w.sum(), torch.ones(2), torch.tensor(1.0))
        with pytest.raises(InputError, match="inner objective must depend on params"):
            hypergradient(*problem, updater=SGD(0.1), steps=0, method=Implicit())

    @all_solvers
    def test_slots_that_are_written_in_place_are_those_of_the_last_step(self, solver):
        class Counting:
            def init(self, params):
                return torch.zeros((), dtype=torch.int64)

            def step(self, state, outer, inner):
                state.slots.add_(1)
                return State(state.params - 0.3 * gradient(inner, state.params, outer), state.slots)

        result = hypergradient(*scalar(), updater=Counting(), steps=60, method=Implicit(solver))
        assert result.state.slots == 60
        assert result.grad.item() == pytest.approx(2.8, rel=1e-7)

    @all_solvers
    def test_the_caller_is_left_alone(self, solver):
        problem = quadratic()
        tensors = [x.requires_grad_() for x in optree.tree_leaves((problem.params, problem.outer))]
        before = [x.detach().clone() for x in tensors]
        expected = torch.rand(3, generator=torch.Generator().manual_seed(5))
        torch.manual_seed(5)
        result = hypergradient(*problem, updater=Adam(0.1), steps=600, method=Implicit(solver, stationarity_tol=1.0))
        assert torch.equal(torch.rand(3), expected)
        assert same_bits([x.detach() for x in tensors], before)
        assert all(x.grad is None for x in tensors)
        returned = optree.tree_leaves((result.grad, result.params, result.state))
        assert not any(x.requires_grad for x in returned if isinstance(x, torch.Tensor))
