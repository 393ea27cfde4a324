"""`unroll`: w_T attached to autograd, against one graph through all steps in float64, at all levels and orders."""

import _thread
import gc
import threading
import warnings
import weakref

import optree
import pytest
import torch
from torch import nn

from lds._random import INIT, STEP, forked, reseed
from lds.errors import DerivativeWarning, InputError, NumericalError, PremiseWarning, ReplayError
from lds.hypergrad import (
    Binomial,
    Checkpoint,
    Derived,
    Disk,
    FiniteDifference,
    Forward,
    Implicit,
    KeepGraphs,
    KeepStates,
    Offload,
    Reverse,
    _met,
    functional,
    hypergradient,
    record,
    unroll,
)
from lds.updaters import SGD, Adam, AdamW, RMSprop, State, gradient
from tests.oracles import DOUBLE, regression

POLICIES = [KeepGraphs(), KeepGraphs(0), KeepStates(), Checkpoint(), Checkpoint(every=2), Binomial(2), Offload()]


def plain(inner, params, outer, *, updater, steps, seed=0, method=None, state=None):
    """The same steps on the same noise, in one graph from w_0 and θ on."""
    with forked(), torch.enable_grad():
        reseed(seed, INIT)
        state = State(params, updater.init(params)) if state is None else state
        for t in range(state.step, state.step + steps):
            reseed(seed, t, STEP)
            state = State(*updater.step(State(state.params, state.slots, t), outer, inner)[:2], t + 1)
    return state.params


def leaves_of(*trees):
    """Fresh leaves of autograd, in the structures given."""
    return [optree.tree_map(lambda x: x.detach().clone().requires_grad_(), tree) for tree in trees]


def grads(loss, *trees, create_graph=False):
    return torch.autograd.grad(
        loss, optree.tree_leaves(trees), create_graph=create_graph, allow_unused=True, materialize_grads=True
    )


def error(found, needed):
    pairs = [(x.detach(), y.detach()) for x, y in zip(found, needed, strict=True)]
    return max(float((x - y).norm() / y.norm().clamp(min=1e-30)) for x, y in pairs)


def size(tree):
    return sum(x.square().sum() for x in optree.tree_leaves(tree))


def learned_adam():
    return Adam(lr=lambda o: o["lr"], betas=(lambda o: o["betas"][0], lambda o: o["betas"][1]), eps=1e-3)


PROBLEM = regression(dropout=0.3)


class TestGradient:
    @pytest.mark.parametrize("memory", POLICIES, ids=repr)
    @pytest.mark.parametrize(
        "updater", [SGD(0.1, momentum=0.9), learned_adam(), RMSprop(0.01)], ids=lambda u: type(u).__name__
    )
    def test_in_both_is_that_of_one_graph(self, memory, updater):
        params, outer = leaves_of(PROBLEM.params, PROBLEM.outer)

        def loss(run, **more):
            return size(run(PROBLEM.inner, params, outer, updater=updater, steps=7, **more)) + outer["lr"] ** 2

        needed = grads(loss(plain), params, outer)
        found = grads(loss(unroll, method=Reverse(memory=memory)), params, outer)
        assert error(found, needed) < 1e-12

    @pytest.mark.parametrize("create_graph", [False, True])
    def test_on_disk(self, tmp_path, create_graph):
        params, outer = leaves_of(PROBLEM.params, PROBLEM.outer)
        needed = grads(size(plain(PROBLEM.inner, params, outer, updater=SGD(0.1), steps=4)), params, outer)
        for _ in range(2):  # Nothing is left of the first.
            w = unroll(
                PROBLEM.inner, params, outer, updater=SGD(0.1), steps=4, method=Reverse(memory=Disk(tmp_path / "here"))
            )
            assert error(grads(size(w), params, outer, create_graph=create_graph), needed) < 1e-12
            assert not (tmp_path / "here").exists()

    def test_in_an_outer_variable_that_stands_at_two_places(self):
        theta, w = leaves_of(torch.tensor(0.3, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE))

        def loss(run):
            return size(run(lambda w, o: (w**4 * o["a"]).sum() + o["b"] ** 2 * w.sum(), w, {"a": theta, "b": theta},
                            updater=SGD(0.1), steps=3))  # fmt: skip

        assert error(grads(loss(unroll), theta, w), grads(loss(plain), theta, w)) < 1e-13

    @pytest.mark.filterwarnings("ignore::lds.errors.UnreachedWarning")  # Not all of outer is used.
    def test_equals_that_of_hypergradient(self):
        (outer,) = leaves_of(PROBLEM.outer)
        w = unroll(PROBLEM.inner, PROBLEM.params, outer, updater=learned_adam(), steps=6, method=Reverse(horizon=3))
        found = grads(size(w), outer)
        needed = hypergradient(
            PROBLEM.inner, lambda p, o: size(p), PROBLEM.params, PROBLEM.outer, updater=learned_adam(), steps=6,
            method=Reverse(horizon=3),
        )  # fmt: skip
        assert error(found, optree.tree_leaves(needed.grad)) < 1e-14
        assert all(torch.equal(x, y) for x, y in zip(*map(optree.tree_leaves, (w, needed.params)), strict=True))

    def test_through_tensors_that_are_no_leaves(self):
        theta, start = leaves_of(torch.tensor(0.3, dtype=DOUBLE), torch.ones(3, dtype=DOUBLE))

        def loss(run):
            outer = {"decay": theta.exp(), "again": theta}
            params = {"w": start * theta}  # A param that depends on an outer variable.
            w = run(
                lambda p, o: ((p["w"] - 1) ** 4).sum() * o["decay"] + o["again"] * p["w"].square().sum(),
                params, outer, updater=SGD(0.05), steps=5,
            )  # fmt: skip
            return w["w"].pow(3).sum()

        assert error(grads(loss(unroll), theta, start), grads(loss(plain), theta, start)) < 1e-13
        twice = [
            grads(size(grads(loss(run), theta, start, create_graph=True)), theta, start) for run in (unroll, plain)
        ]
        assert error(*twice) < 1e-12

    def test_slots_that_begin_as_the_params(self):
        class Averaged:
            """Descends on the params, and is drawn to where they began and to their average."""

            def init(self, params):
                return {"start": params, "mean": optree.tree_map(lambda x: 2 * x, params)}

            def step(self, state, outer, inner):
                g = gradient(inner, state.params, outer)
                w = state.params - 0.1 * g - 0.1 * (state.params - state.slots["start"]) - 0.01 * state.slots["mean"]
                return w, {"start": state.slots["start"], "mean": 0.9 * state.slots["mean"] + 0.1 * w}

        def inner(w, o):
            return (w - o).pow(4).sum()

        w, theta = leaves_of(torch.ones(3, dtype=DOUBLE), torch.tensor(0.2, dtype=DOUBLE))
        needed = grads(size(plain(inner, w, theta, updater=Averaged(), steps=4)), w, theta)
        assert error(grads(size(unroll(inner, w, theta, updater=Averaged(), steps=4)), w, theta), needed) < 1e-13
        result = hypergradient(inner, lambda w, o: size(w), w.detach(), theta.detach(), updater=Averaged(), steps=4)
        assert error([result.params_grad, result.grad], needed) < 1e-13

    def test_through_derived(self):
        theta, w = leaves_of({"a": torch.tensor([-1.0, 0.5], dtype=DOUBLE)}, torch.ones(2, dtype=DOUBLE))

        def derive(t):
            return {"l2": t["a"].exp(), "count": 3}

        def inner(w, o):
            return (w - 1).pow(4).sum() + (o["h"]["l2"] * w.square()).sum()

        def loss(run, h):
            return size(run(inner, w, {"h": h}, updater=SGD(0.1), steps=4))

        found = [loss(unroll, Derived(derive, theta)), loss(plain, derive(theta))]
        assert error(*[grads(x, theta, w, create_graph=True) for x in found]) < 1e-13
        found = [loss(unroll, Derived(derive, theta)), loss(plain, derive(theta))]
        assert error(*[grads(size(grads(x, theta, w, create_graph=True)), theta, w) for x in found]) < 1e-12

    def test_complex_params(self):
        def inner(w, o):
            return (w["z"] - o["c"]).abs().pow(2).sum() + (w["z"] * w["x"]).abs().pow(4).sum()

        params = {"z": torch.tensor([1 + 2j, -1j], dtype=torch.complex128), "x": torch.tensor([0.5, 1.0], dtype=DOUBLE)}
        params, outer = leaves_of(params, {"c": torch.tensor(0.5 + 0.1j, dtype=torch.complex128)})
        needed, found = (
            grads(run(inner, params, outer, updater=SGD(0.05), steps=3)["z"].pow(2).sum().abs(), params, outer)
            for run in (plain, unroll)
        )
        assert error(found, needed) < 1e-13

    def test_passes_gradcheck_in_both_orders(self):
        def w_of(w, o):
            return unroll(lambda p, q: (p.cos() * q).sum() + (p * q).pow(4).sum(), w, o, updater=SGD(0.1), steps=3)

        inputs = leaves_of(torch.tensor([0.3, -0.4], dtype=DOUBLE), torch.tensor([0.5, 0.7], dtype=DOUBLE))
        assert torch.autograd.gradcheck(w_of, inputs)
        assert torch.autograd.gradgradcheck(w_of, inputs)

    def test_of_no_steps_is_one(self):
        w, o = leaves_of(torch.ones(3, dtype=DOUBLE), torch.ones((), dtype=DOUBLE))
        found = unroll(lambda w, o: (w * o).sum(), w, o, updater=SGD(0.1), steps=0)
        assert error(grads(found.pow(2).sum(), w), [2 * w.detach()]) == 0


class TestUse:
    """As tensors of autograd are used."""

    def setup_method(self):
        self.params, self.outer = leaves_of(PROBLEM.params, PROBLEM.outer)

    def run(self, run=unroll, **more):
        return run(PROBLEM.inner, self.params, self.outer, **{"updater": learned_adam(), "steps": 3, **more})

    def test_outer_variables_that_the_steps_do_not_use_are_no_slip(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            (self.outer["momentum"] * size(self.run())).backward()
        assert self.outer["momentum"].grad is not None

    def test_several_problems_in_one_loss(self):
        found, needed = (
            grads(size(self.run(run)) + size(self.run(run, seed=5, steps=4)) ** 2, self.params, self.outer)
            for run in (unroll, plain)
        )
        assert error(found, needed) < 1e-12  # The rounding of torch 2.4 is 8e-13.

    def test_chains_in_both_orders(self):
        def loss(run):
            first = self.run(run)
            second = run(PROBLEM.inner, first, self.outer, updater=SGD(0.1), steps=2, seed=1)
            return size(first) + size(second)

        found, needed = (grads(loss(run), self.params, self.outer, create_graph=True) for run in (unroll, plain))
        assert error(found, needed) < 1e-10  # Some leaves have next to no gradient.
        found, needed = (grads(size(x), self.params, self.outer) for x in (found, needed))
        assert error(found, needed) < 1e-10

    def test_backward_accumulates(self):
        for _ in range(2):
            size(self.run()).backward()
        needed = grads(size(self.run(plain)), self.params, self.outer)
        found = [x.grad for x in optree.tree_leaves((self.params, self.outer))]
        assert error([torch.zeros(()) if x is None else x for x in found], [2 * x for x in needed]) < 1e-12

    def test_modules_parameters(self):
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        x, y = torch.linspace(-1, 1, 24, dtype=DOUBLE).reshape(8, 3), torch.linspace(0, 1, 8, dtype=DOUBLE)
        _, call = functional(net)

        def inner(p, o):
            return (call(p, x).squeeze(-1) - y).square().mean()

        weights = dict(net.named_parameters())
        size(unroll(inner, weights, {}, updater=SGD(0.1, momentum=0.9), steps=3)).backward()
        needed = grads(size(plain(inner, weights, {}, updater=SGD(0.1, momentum=0.9), steps=3)), weights)
        assert error([weights[name].grad for name in sorted(weights)], needed) < 1e-13

    def test_only_one_of_the_results_is_used(self):
        found, needed = (
            grads(self.run(run)["layers"][0]["b"].sum(), self.params, self.outer) for run in (unroll, plain)
        )
        assert error(found, needed) < 1e-11

    def test_a_cotangent_of_none_and_no_cotangent_at_all(self):
        class Blocks(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, c):
                return None

        leaves = optree.tree_leaves(self.run())
        found = torch.autograd.grad(
            Blocks.apply(leaves[0]).sum() + self.outer["lr"], self.outer["betas"][0], allow_unused=True
        )
        assert found == (None,)
        needed = grads(optree.tree_leaves(self.run(plain))[1].sum(), self.params, self.outer)
        leaves = optree.tree_leaves(self.run())
        assert error(grads(Blocks.apply(leaves[0]).sum() + leaves[1].sum(), self.params, self.outer), needed) < 1e-13

    @pytest.mark.parametrize("memory", [KeepGraphs(), Checkpoint(), Binomial(2)], ids=repr)
    def test_twice_with_retain_graph_and_refused_without(self, memory):
        w = self.run(method=Reverse(memory=memory))
        first = torch.autograd.grad(size(w), optree.tree_leaves(self.params), retain_graph=True)
        second = torch.autograd.grad(size(w), optree.tree_leaves(self.params))
        assert all(map(torch.equal, first, second))
        with pytest.raises(InputError, match=r"differentiated already.*retain_graph=True"):
            torch.autograd.grad(size(w), optree.tree_leaves(self.params))

    def test_without_grad_it_is_a_run(self):
        with torch.no_grad():
            w = self.run()
        assert not any(x.requires_grad for x in optree.tree_leaves(w))
        detached = unroll(PROBLEM.inner, PROBLEM.params, PROBLEM.outer, updater=learned_adam(), steps=3)
        assert not any(x.requires_grad for x in optree.tree_leaves(detached))
        assert all(map(torch.equal, *map(optree.tree_leaves, (w, detached))))

    def test_nothing_is_left_where_nobody_differentiates(self):
        gone = [weakref.ref(optree.tree_leaves(self.run())[0]) for _ in range(3)]
        assert all(x() is None for x in gone)

        def tape():
            trajectory = None
            w = self.run()
            node = optree.tree_leaves(w)[0].grad_fn
            trajectory = weakref.ref(node.run.trajectory or node.run.connected)
            size(w).backward()
            return w, trajectory

        w, trajectory = tape()
        gc.collect()
        assert w is not None  # Which is alive, while what was recorded is gone.
        assert trajectory() is None

    def test_the_result_may_be_written_to(self):
        (w,) = leaves_of(torch.ones(2, dtype=DOUBLE))
        found = unroll(
            lambda w, o: w.pow(4).sum(), w, {}, updater=SGD(0.1), steps=2, method=Reverse(memory=KeepStates())
        )
        needed = grads(plain(lambda w, o: w.pow(4).sum(), w, {}, updater=SGD(0.1), steps=2).sum(), w)
        with torch.no_grad():
            found.mul_(3)
        assert error(grads(found.sum(), w), needed) < 1e-13

    @pytest.mark.filterwarnings("ignore::lds.errors.UnreachedWarning")  # Not all of outer is used.
    def test_warm_start(self):
        updater = learned_adam()
        _, state = self.run(return_state=True, steps=4)
        w, last = self.run(state=state, steps=3, return_state=True)
        assert last.step == 7
        assert not any(x.requires_grad for x in optree.tree_leaves((last.params, last.slots)) if torch.is_tensor(x))
        assert error(optree.tree_leaves(last.params), optree.tree_leaves(self.run(steps=7))) == 0
        needed = hypergradient(
            PROBLEM.inner, lambda p, o: size(p), PROBLEM.params, PROBLEM.outer, updater=updater, steps=3, state=state
        )
        assert error(grads(size(w), self.outer), optree.tree_leaves(needed.grad)) < 1e-13
        assert all(float(x.abs().max()) == 0 for x in grads(size(w), self.params))

    def test_after_backward_the_caller_finds_its_generators_as_they_were(self):
        torch.manual_seed(3)
        size(self.run()).backward()
        found = torch.rand(3)
        torch.manual_seed(3)
        assert torch.equal(found, torch.rand(3))

    def test_in_other_threads(self):
        needed = grads(size(self.run()), self.params)
        found = []

        def work():
            for method in (None, Reverse(memory=Checkpoint())):
                found.append(grads(size(self.run(method=method)), self.params))

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 6
        assert all(error(x, needed) == 0 for x in found)

    def test_a_backward_on_a_thread_of_autograd_does_not_wait_for_the_one_that_waits_for_it(self):
        w = self.run(method=Reverse(memory=Checkpoint()))
        needed = grads(size(self.run()), self.params)
        done, found = threading.Event(), []

        def work():  # As autograd's threads, one that `threading` has not started.
            found.extend(grads(size(w), self.params))
            done.set()

        with forked():
            _thread.start_new_thread(work, ())
            assert done.wait(timeout=60)
        assert error(found, needed) == 0


def lower(v, q):
    return (v - q["w"]).pow(2).sum() * q["s"].exp() + 0.1 * v.pow(4).sum()


V0 = torch.zeros(3, dtype=DOUBLE)


def nested(run, **more):
    """An objective with an inner problem of its own."""

    def upper(w, o):
        v = run(lower, V0, {"w": w, "s": o}, updater=SGD(0.05, momentum=0.5), steps=3, **more)
        return (v - 1).square().sum() + w.square().sum() * o.exp()

    return upper


class TestLevels:
    def setup_method(self):
        self.w, self.s = leaves_of(torch.linspace(0.5, 1, 3, dtype=DOUBLE), torch.tensor(-1.0, dtype=DOUBLE))

    def loss(self, run, **more):
        w = run(nested(run), self.w, self.s, updater=SGD(0.1, momentum=0.3), steps=4, **more)
        return w.pow(3).sum() + self.s

    @pytest.mark.parametrize("memory", POLICIES, ids=repr)
    def test_unroll_in_the_inner_objective_of_unroll(self, memory):
        found = grads(self.loss(unroll, method=Reverse(memory=memory)), self.w, self.s)
        assert error(found, grads(self.loss(plain), self.w, self.s)) < 1e-12

    def test_and_the_whole_differentiated_twice(self):
        found, needed = (
            grads(size(grads(self.loss(run), self.w, self.s, create_graph=True)), self.w, self.s)
            for run in (unroll, plain)
        )
        assert error(found, needed) < 1e-11

    def test_in_both_objectives_of_hypergradient(self):
        given = (self.w.detach(), self.s.detach())
        result = hypergradient(nested(unroll), nested(unroll), *given, updater=SGD(0.1), steps=3)
        w = plain(nested(plain), self.w, self.s, updater=SGD(0.1), steps=3)
        needed = grads(nested(plain)(w, self.s), self.w, self.s)
        assert error([result.params_grad, result.grad], needed) < 1e-12

    @pytest.mark.parametrize("method", [Forward(), FiniteDifference()], ids=repr)
    def test_in_the_objectives_of_other_methods(self, method):
        given = (self.w.detach(), self.s.detach())
        found, needed = (
            hypergradient(nested(unroll), nested(unroll), *given, updater=SGD(0.1), steps=3, method=m).grad
            for m in (method, Reverse())
        )
        assert float((found - needed).abs()) < (1e-7 if method == FiniteDifference() else 1e-13)

    def test_implicit_in_the_outer_objective(self):
        def outer_objective(w, o):
            v = unroll(
                lambda v, q: (v - q["w"]).pow(2).sum() * q["s"].exp() + v.pow(2).sum(), V0, {"w": w, "s": o},
                updater=SGD(0.2), steps=300, method=Implicit(),
            )  # fmt: skip
            return (v - 1).square().sum()

        def closed(w, o):
            return (w * o.exp() / (1 + o.exp()) - 1).square().sum()

        given = (self.w.detach(), self.s.detach())
        inner = nested(plain)
        found, needed = (hypergradient(inner, f, *given, updater=SGD(0.1), steps=3) for f in (outer_objective, closed))
        assert float((found.grad - needed.grad).abs()) < 1e-10

    def test_hypergradient_stays_refused_and_says_unroll(self):
        def upper(w, o):
            return hypergradient(lower, lambda v, q: v.sum(), V0, {"w": w, "s": o}, updater=SGD(0.1), steps=2).grad["s"]

        with pytest.raises(InputError, match=r"hypergradient inside of an objective.*take lds.hypergrad.unroll"):
            unroll(upper, self.w, self.s, updater=SGD(0.1), steps=2)

    @pytest.mark.parametrize(
        "method", [Implicit(), Reverse(horizon=1), Reverse(tol=0.1), Reverse(noise="resample")], ids=repr
    )
    def test_methods_without_a_second_derivative_say_so(self, method):
        outer = {"w": self.w, "s": self.s}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PremiseWarning)
            v = unroll(lower, V0, outer, updater=SGD(0.1), steps=3, method=method)
            with pytest.raises(InputError, match=r"differentiated twice .* use Reverse\(\)"):
                grads(v.sum(), outer, create_graph=True)

    def test_a_closure_over_the_level_above_is_refused(self):
        def upper(w, o):
            v = unroll(lambda v, q: (v - w).pow(2).sum() * q.exp(), V0, o, updater=SGD(0.1), steps=3)
            return (v - w).pow(2).sum()

        with pytest.raises(InputError, match="unroll carries the gradient on to params and outer alone"):
            unroll(upper, self.w, self.s, updater=SGD(0.1), steps=2).sum().backward()
        assert self.w.grad is None
        assert self.s.grad is None


class TestImplicit:
    def test_is_that_of_the_minimum(self):
        theta, w = leaves_of(torch.tensor([0.5, -0.2], dtype=DOUBLE), torch.ones(2, dtype=DOUBLE))

        def inner(w, o):
            return (w - o).pow(2).sum() + o[0].exp() * w.pow(2).sum()

        found = unroll(inner, w, theta, updater=SGD(0.1), steps=400, method=Implicit())
        needed = (theta / (1 + theta[0].exp())).pow(3).sum()
        assert error(grads(found.pow(3).sum(), theta), grads(needed, theta)) < 1e-7
        found = unroll(inner, w, theta, updater=SGD(0.1), steps=400, method=Implicit())
        assert float(grads(found.pow(3).sum(), w)[0].abs().max()) == 0

    def test_runs_the_inner_problem_once(self):
        calls = []

        def inner(w, o):
            calls.append(1)
            return (w - o).pow(2).sum()

        theta = torch.ones(2, dtype=DOUBLE, requires_grad=True)
        w = unroll(inner, torch.zeros(2, dtype=DOUBLE), theta, updater=SGD(0.3), steps=60, method=Implicit())
        count = len(calls)
        for _ in range(2):
            torch.autograd.grad(w.sum(), theta, retain_graph=True)
        assert len(calls) - count < 10

    def test_of_a_solution_that_comes_from_elsewhere(self):
        """No steps, and a solution of any solver: the custom_root of other packages."""
        a = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=DOUBLE)
        b = torch.tensor([1.0, -1.0], dtype=DOUBLE, requires_grad=True)
        solution = torch.linalg.solve(a, b.detach())
        w = unroll(lambda w, o: 0.5 * w @ a @ w - o @ w, solution, b, updater=SGD(0.1), steps=0, method=Implicit())
        assert error(grads(w.pow(2).sum(), b), grads(torch.linalg.solve(a, b).pow(2).sum(), b)) < 1e-10

    def test_of_a_map_without_an_inner_objective(self):
        class Contraction:
            def init(self, params):
                return ()

            def step(self, state, outer, inner):
                return torch.cos(state.params) * outer, ()

        theta = torch.tensor(0.6, dtype=DOUBLE, requires_grad=True)
        for method, steps in ((Implicit(solver="fixed_point", tol=1e-13), 100), (None, 100)):
            w = unroll(None, torch.ones(2, dtype=DOUBLE), theta, updater=Contraction(), steps=steps, method=method)
            x = w[0].detach()
            needed = 2 * torch.cos(x) / (1 + theta.detach() * torch.sin(x))
            assert error(grads(w.sum(), theta), [needed]) < 1e-10
        found = hypergradient(
            None, lambda w, o: w.sum(), torch.ones(2, dtype=DOUBLE), theta.detach(), updater=Contraction(), steps=100
        )
        assert error([found.grad], [needed]) < 1e-10
        assert found.diagnostics.inner_gradient_norm != found.diagnostics.inner_gradient_norm  # NaN: there is none.
        with pytest.raises(InputError, match="inner is None"):
            unroll(None, torch.ones(2, dtype=DOUBLE), theta, updater=SGD(0.1), steps=2)

    def test_its_warning_points_at_the_backward(self):
        theta = torch.ones(2, dtype=DOUBLE, requires_grad=True)
        w = unroll(
            lambda w, o: (w - o).pow(2).sum(), torch.zeros(2, dtype=DOUBLE), theta, updater=SGD(0.01), steps=3,
            method=Implicit(),
        )  # fmt: skip
        with pytest.warns(PremiseWarning, match="stationary point") as caught:
            w.sum().backward()
        assert caught[0].filename == __file__


class TestRefusals:
    """Slips end in one sentence, and nothing is left in `.grad`."""

    def setup_method(self):
        self.w, self.s = leaves_of(torch.linspace(0.5, 1, 3, dtype=DOUBLE), torch.tensor(-1.0, dtype=DOUBLE))

    def refused(self, match, *, kind=InputError, inner=None, params=None, outer=None, loss=torch.sum, **more):
        inner = inner or (lambda w, o: (w - 1).pow(2).sum() * o.exp())
        params, outer = self.w if params is None else params, self.s if outer is None else outer
        with pytest.raises(kind, match=match):
            loss(unroll(inner, params, outer, **{"updater": SGD(0.1), "steps": 3, **more})).backward()
        assert self.w.grad is None
        assert self.s.grad is None

    def test_a_closure_over_a_foreign_leaf(self):
        other = torch.ones(3, dtype=DOUBLE, requires_grad=True)
        self.refused(
            "shape \\(3,\\) that is neither in params nor in outer", inner=lambda w, o: (w * other * o).sum() ** 2
        )
        assert other.grad is None

    def test_a_leaf_made_on_the_way_is_no_foreign_one(self):
        def inner(w, o):
            x = torch.ones(3, dtype=DOUBLE).requires_grad_()
            (penalty,) = torch.autograd.grad((w * x).pow(3).sum(), x, create_graph=True)
            return penalty.square().sum() * o.exp()

        found = unroll(inner, self.w, self.s, updater=SGD(0.001), steps=3)
        needed = plain(inner, self.w, self.s, updater=SGD(0.001), steps=3)
        assert error(grads(found.sum(), self.w, self.s), grads(needed.sum(), self.w, self.s)) < 1e-13

    def test_outer_that_is_also_params(self):
        self.refused("params and outer must be apart", outer={"w": self.w, "s": self.s})

    def test_a_structure_that_draws_anew(self):
        class Coin:
            def draw(self):
                return torch.rand(())

            def trace(self, draw):
                raise AssertionError

            def accumulator(self):
                raise AssertionError

        self.refused(
            "outer\\['coin'\\] is a Coin, which draws anew in every step; call hypergradient", outer={"coin": Coin()}
        )

    @pytest.mark.parametrize("method", [Forward(), FiniteDifference()], ids=repr)
    def test_other_methods(self, method):
        self.refused("must be Reverse\\(...\\) or Implicit\\(...\\).*call hypergradient", method=method)

    def test_what_is_no_method(self):
        self.refused("method must be a method", method="reverse")

    @pytest.mark.parametrize("method", [Reverse(horizon=2), Reverse(tol=0.1)], ids=repr)
    def test_params_that_the_sweep_does_not_reach(self, method):
        self.refused("stops the sweep before w_0; detach params", method=method)
        unroll(lambda w, o: w.sum() * o, self.w.detach(), self.s, updater=SGD(0.1), steps=3, method=method)

    def test_a_state_that_requires_grad(self):
        state = State(self.w * 2, ())
        self.refused("the state that unroll goes on from is a constant", state=state)

    @pytest.mark.parametrize("bad", [3, "x", None, torch.ones(2, dtype=torch.int64)], ids=repr)
    def test_wrong_types(self, bad):
        self.refused("must be a floating-point tensor", outer={"bad": bad} if bad is not None else {"bad": [1]})
        self.refused("must be a floating-point tensor", params={"bad": bad} if bad is not None else {"bad": [1]})

    def test_a_module(self):
        self.refused("got the module Linear", params=nn.Linear(2, 2))

    def test_steps(self):
        self.refused("steps must be an integer >= 0", steps=-1)

    @pytest.mark.parametrize("create_graph", [False, True])
    def test_an_updater_that_detaches(self, create_graph):
        class Detaches:
            def init(self, params):
                return ()

            def step(self, state, outer, inner):
                return state.params * 0.9 - 0.1 * gradient(inner, state.params, outer.detach()), ()

        w = unroll(lambda w, o: (w - 1).pow(2).sum() * o.exp(), self.w, self.s, updater=Detaches(), steps=3)
        with pytest.raises(InputError, match="must be differentiable in outer"):
            grads(w.sum(), self.s, create_graph=create_graph)

    @pytest.mark.parametrize("create_graph", [False, True])
    def test_a_step_that_does_not_repeat(self, create_graph):
        count = iter(range(1000))

        def inner(w, o):
            return (w - next(count)).pow(2).sum() * o.exp()

        w = unroll(inner, self.w, self.s, updater=SGD(0.1), steps=3, method=Reverse(memory=KeepStates()))
        with pytest.raises(ReplayError):
            grads(w.sum(), self.w, self.s, create_graph=create_graph)

    def test_theta_that_was_changed_in_place(self):
        w = unroll(lambda w, o: w.pow(2).sum() * o, self.w, self.s, updater=SGD(0.1), steps=3)
        with torch.no_grad():
            self.s.add_(1)
        with pytest.raises(InputError, match="outer was changed in place between the recording and the sweep"):
            w.sum().backward()
        assert self.s.grad is None
        w = unroll(lambda w, o: w.pow(2).sum() * o, self.w, self.s, updater=SGD(0.1), steps=3)
        with torch.no_grad():
            self.w.add_(1)
        with pytest.raises(InputError, match="changed in place since unroll ran"):
            grads(w.sum(), self.s, create_graph=True)

    @pytest.mark.parametrize("create_graph", [False, True])
    def test_a_loss_whose_derivative_is_not_finite(self, create_graph):
        w = unroll(lambda w, o: w.pow(2).sum() * o, self.w * 0, self.s, updater=SGD(0.1), steps=3)
        with pytest.raises(NumericalError, match="the derivative of the loss in w_T must be finite"):
            grads(w.norm().log(), self.s, create_graph=create_graph)

    def test_an_inner_objective_that_is_not_finite(self):
        self.refused("the inner objective must be finite", kind=NumericalError, inner=lambda w, o: (w * o).sum().log())

    def test_many_cotangents_at_once(self):
        w = unroll(lambda w, o: (w.pow(2) * o).sum(), self.w, self.s, updater=SGD(0.1), steps=2)
        with pytest.raises(InputError, match=r"is_grads_batched=True.*jacobian"):
            torch.autograd.grad(w, self.s, torch.eye(3, dtype=DOUBLE), is_grads_batched=True)

    def test_warnings_of_others_are_left_alone(self):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("default")
            for _ in range(2):
                warnings.warn("once a place", UserWarning, stacklevel=1)
                unroll(lambda w, o: w.pow(2).sum() * o, self.w, self.s, updater=SGD(0.1), steps=2).sum().backward()
        assert len(seen) == 1

    def test_under_vmap(self):
        with pytest.raises(InputError, match="transforms of torch"):
            torch.func.vmap(lambda w: unroll(lambda w, o: w.pow(2).sum() * o, w, self.s, updater=SGD(0.1), steps=2))(
                torch.ones(4, 3, dtype=DOUBLE)
            )

    def test_inside_torch_func(self):
        with pytest.raises(InputError, match="transforms of torch"):
            torch.func.grad(
                lambda o: unroll(lambda w, o: w.pow(2).sum() * o, self.w, o, updater=SGD(0.1), steps=2).sum()
            )(self.s.detach())


class TestAutocast:
    """The backward runs steps again as they ran, wherever it is called."""

    @pytest.mark.parametrize("memory", [KeepGraphs(), Checkpoint()], ids=repr)
    def test_around_the_call(self, memory):
        params, outer = leaves_of({"w": torch.linspace(-1, 1, 12).reshape(3, 4)}, torch.tensor(0.1))
        x = torch.linspace(0, 1, 15).reshape(5, 3)

        def inner(p, o):
            return (x @ p["w"]).float().square().mean() + o * p["w"].square().sum()

        method = Reverse(memory=memory)
        with torch.autocast("cpu", torch.bfloat16):
            w = unroll(inner, params, outer, updater=SGD(0.1), steps=4, method=method)["w"]
            needed = plain(inner, params, outer, updater=SGD(0.1), steps=4)["w"]
        found, needed = grads(w.sum(), params, outer), grads(needed.sum(), params, outer)
        assert error(found, needed) < 1e-6
        exact = grads(plain(inner, params, outer, updater=SGD(0.1), steps=4)["w"].sum(), params, outer)
        assert error(found, exact) > 1e-5  # Else this test could not fail.

    def test_in_the_objective(self):
        params, outer = leaves_of({"w": torch.linspace(-1, 1, 12).reshape(3, 4)}, torch.tensor(0.1))
        x = torch.linspace(0, 1, 15).reshape(5, 3)

        def inner(p, o):
            with torch.autocast("cpu", torch.bfloat16):
                errors = x @ p["w"]
            return errors.float().square().mean() + o * p["w"].square().sum()

        for memory in POLICIES:
            found = unroll(inner, params, outer, updater=AdamW(0.01), steps=4, method=Reverse(memory=memory))
            needed = plain(inner, params, outer, updater=AdamW(0.01), steps=4)
            assert error(grads(found["w"].sum(), params, outer), grads(needed["w"].sum(), params, outer)) < 1e-5


def test_vmap_over_tasks_in_an_objective():
    """Many small inner problems as one: a leading dimension of tasks, and a sum of losses that are apart."""
    x = torch.linspace(-1, 1, 60, dtype=DOUBLE).reshape(4, 5, 3)
    y = torch.linspace(0, 2, 20, dtype=DOUBLE).reshape(4, 5)
    w0, decay = leaves_of(torch.ones(3, dtype=DOUBLE), torch.tensor(0.1, dtype=DOUBLE))

    def one(w, decay, x, y):
        return (torch.tanh(x @ w) - y).square().mean() + decay * w.square().sum()

    def all_tasks(w, decay):
        return torch.func.vmap(one, in_dims=(0, None, 0, 0))(w, decay, x, y).sum()

    together = unroll(all_tasks, w0.expand(4, 3).clone(), decay, updater=SGD(0.1), steps=5)
    apart = torch.stack(
        [unroll(lambda w, o, i=i: one(w, o, x[i], y[i]), w0, decay, updater=SGD(0.1), steps=5) for i in range(4)]
    )
    assert error(grads(size(together), w0, decay), grads(size(apart), w0, decay)) < 1e-13


@pytest.mark.filterwarnings("ignore::lds.errors.UnreachedWarning")  # Not all of outer is used.
class TestParamsGrad:
    def setup_method(self):
        self.params, self.outer = leaves_of(PROBLEM.params, PROBLEM.outer)

    def result(self, **more):
        given = {"updater": learned_adam(), "steps": 5, **more}
        return hypergradient(PROBLEM.inner, lambda p, o: size(p), PROBLEM.params, PROBLEM.outer, **given)

    @pytest.mark.parametrize("memory", POLICIES, ids=repr)
    def test_is_that_of_one_graph(self, memory):
        needed = grads(
            size(plain(PROBLEM.inner, self.params, self.outer, updater=learned_adam(), steps=5)), self.params
        )
        result = self.result(method=Reverse(memory=memory))
        assert error(optree.tree_leaves(result.params_grad), needed) < 1e-12
        assert result.params_grad is result.params_grad
        assert optree.tree_structure(result.params_grad) == optree.tree_structure(PROBLEM.params)

    def test_on_disk_and_by_differentiate(self, tmp_path):
        needed = optree.tree_leaves(self.result().params_grad)
        found = self.result(method=Reverse(memory=Disk(tmp_path / "here")))
        assert error(optree.tree_leaves(found.params_grad), needed) == 0
        trajectory = record(PROBLEM.inner, PROBLEM.params, PROBLEM.outer, updater=learned_adam(), steps=5)
        for to_start in (True, False):
            found = Reverse().differentiate(trajectory, lambda p, o: size(p), to_start=to_start)
            assert error(optree.tree_leaves(found.params_grad), needed) < 1e-13

    def test_goes_over_continued_trajectories(self):
        common = {"updater": SGD(0.05)}
        first = record(PROBLEM.inner, PROBLEM.params, PROBLEM.outer, steps=2, **common)
        both = record(PROBLEM.inner, PROBLEM.params, PROBLEM.outer, steps=3, after=first, **common)
        found = Reverse().differentiate(both, lambda p, o: size(p)).params_grad
        needed = grads(size(plain(PROBLEM.inner, self.params, self.outer, updater=SGD(0.05), steps=5)), self.params)
        assert error(optree.tree_leaves(found), needed) < 1e-12

    def test_of_no_steps(self):
        found = optree.tree_leaves(self.result(steps=0).params_grad)
        assert error(found, [2 * x.detach() for x in optree.tree_leaves(self.params)]) == 0

    def test_where_nothing_flows(self):
        result = hypergradient(
            lambda w, o: w.square().sum() * o,
            lambda w, o: o**2,
            *torch.ones(2, dtype=DOUBLE),
            updater=SGD(0.1),
            steps=3,
        )
        assert result.params_grad == 0

    def test_methods_that_have_none(self):
        for method in (Reverse(horizon=2), Reverse(horizon=0)):
            with pytest.raises(InputError, match=r"params_grad needs a sweep over all steps, .* use Reverse\(\)"):
                _ = self.result(method=method).params_grad
        for method in (Forward(), FiniteDifference()):
            result = hypergradient(
                lambda w, o: (w - o).square().sum(), lambda w, o: w.sum(), *torch.ones(2, dtype=DOUBLE),
                updater=SGD(0.1), steps=3, method=method,
            )  # fmt: skip
            with pytest.raises(InputError, match=r"params_grad needs a method .* use Reverse\(\)"):
                _ = result.params_grad

    def test_of_implicit_is_zero(self):
        result = hypergradient(
            lambda w, o: (w - o).square().sum(), lambda w, o: w.sum(), *torch.ones(2, dtype=DOUBLE), updater=SGD(0.3),
            steps=60, method=Implicit(),
        )  # fmt: skip
        assert result.params_grad == 0

    def test_refuses_theta_changed_in_place(self):
        outer = {"s": torch.tensor(-1.0, dtype=DOUBLE)}
        result = hypergradient(
            lambda w, o: w.square().sum() * o["s"].exp(), lambda w, o: w.sum(), torch.ones(2, dtype=DOUBLE), outer,
            updater=SGD(0.1), steps=3,
        )  # fmt: skip
        outer["s"].add_(1)
        with pytest.raises(InputError, match="changed in place between the recording and params_grad"):
            _ = result.params_grad

    def test_keeps_two_states_and_then_only_itself(self):
        w = torch.ones(1009, dtype=DOUBLE)  # No tensor of another test is so long.
        result = hypergradient(
            lambda w, o: (w - 1).pow(4).sum() * o, lambda w, o: w.sum(), w, torch.tensor(0.1, dtype=DOUBLE),
            updater=SGD(0.1), steps=20, method=Reverse(memory=KeepStates()),
        )  # fmt: skip

        def kept():
            gc.collect()
            tensors = (x for x in gc.get_objects() if type(x) is torch.Tensor and x.layout == torch.strided)
            return len({x.data_ptr() for x in tensors if x.untyped_storage().nbytes() == 8 * 1009})

        before = kept()
        del w
        _ = result.params_grad
        assert kept() <= before - 1
        assert before <= 6


class TestSpotCheck:
    """The look at the values is taken at the first, second, fourth, … time that a problem is met."""

    def setup_method(self):
        _met._MET.clear()

    def run(self, cut=False, calls=()):
        def inner(w, o):
            calls and calls[0].append(1)
            return (w - o).square().sum() + ((w.detach() if cut else w) * w).square().sum()

        theta = torch.tensor(0.3, dtype=DOUBLE, requires_grad=True)
        w0 = torch.ones(2, dtype=DOUBLE)
        unroll(inner, w0, theta, updater=SGD(0.1), steps=3).sum().backward()

    def test_is_rare_in_a_loop(self):
        calls = []
        for _ in range(9):
            self.run(calls=[calls])
        assert len(calls) == 9 * 3 + 4  # At times 1, 2, 4 and 8.

    def test_a_flag_makes_another_problem(self):
        for _ in range(4):
            self.run()
        with pytest.warns(DerivativeWarning):
            self.run(cut=True)
