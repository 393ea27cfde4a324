"""Clipping does to gradients what torch.nn.utils does, and is differentiable."""

import pytest
import torch

from lds.errors import InputError
from lds.hypergrad import hypergradient
from lds.updaters import SGD, Adam, AdamW, ClipByNorm, ClipByValue, GradientUpdater, State
from tests.oracles import DOUBLE, relative_error, same_bits
from tests.updaters.torch_optim import flat_problem, run, torch_run


def linear(slope):
    """An inner objective with this gradient everywhere."""
    return lambda params, outer: sum((slope[k] * params[k]).sum() for k in params)


def one_step(updater, grads, params=None, outer=()):
    params = {k: torch.ones_like(g) for k, g in grads.items()} if params is None else params
    return updater.step(State(params, updater.init(params)), outer, linear(grads)).params


# Norm 13.
GRADS = {"a": torch.tensor([3.0, -4.0], dtype=DOUBLE), "b": torch.tensor(12.0, dtype=DOUBLE)}


class TestByNorm:
    @pytest.mark.parametrize("max_norm", [0.05, 0.5])
    def test_fifty_steps_agree_with_torch(self, max_norm):
        def clip(params):
            norms.append(torch.nn.utils.clip_grad_norm_(params, max_norm).item())

        norms = []
        expected = torch_run(torch.optim.SGD, lr=0.1, momentum=0.5, clip=clip)
        assert max(norms) > max_norm
        error = relative_error(run(ClipByNorm(SGD(0.1, 0.5), max_norm)), expected)
        # torch's 1e-6 beside the norm makes its gradients smaller by that share, at most 50 times.
        assert error <= 50 * 1e-6 / max_norm
        assert error > 1e-12

    @pytest.mark.parametrize("max_norm", [6.5, torch.tensor(6.5), lambda outer: torch.tensor(6.5)])
    def test_all_params_share_one_norm(self, max_norm):
        new = one_step(ClipByNorm(SGD(1.0), max_norm), GRADS)
        assert torch.allclose(new["a"], 1 - GRADS["a"] / 2, rtol=1e-15)
        assert torch.allclose(new["b"], 1 - GRADS["b"] / 2, rtol=1e-15)

    def test_a_smaller_gradient_is_left_alone(self):
        assert same_bits(run(ClipByNorm(Adam(0.02), 1e3)), run(Adam(0.02)))

    def test_a_norm_of_zero_stops_everything(self):
        assert same_bits(one_step(ClipByNorm(SGD(1.0), 0.0), GRADS), {k: torch.ones_like(g) for k, g in GRADS.items()})

    @pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
    def test_zero_gradients_have_finite_derivatives(self, dtype):
        outer = {"scale": torch.zeros(2, dtype=dtype), "max_norm": torch.tensor(1.0, dtype=dtype)}
        grad = hypergradient(
            lambda w, o: (o["scale"] * w).sum(),
            lambda w, o: w.sum(),
            torch.ones(2, dtype=dtype),
            outer,
            updater=ClipByNorm(SGD(0.5), lambda o: o["max_norm"]),
            steps=3,
        ).grad
        # Not clipped, each step subtracts scale/2.
        assert grad["scale"].tolist() == [-1.5, -1.5]
        assert grad["max_norm"] == 0

    def test_the_derivative_in_the_norm(self):
        grad = hypergradient(
            lambda w, o: (GRADS["a"] * w).sum(),
            lambda w, o: w.sum(),
            torch.ones(2, dtype=DOUBLE),
            torch.tensor(2.0, dtype=DOUBLE),
            updater=ClipByNorm(SGD(0.1), lambda max_norm: max_norm),
            steps=4,
        ).grad
        # w_T = w_0 − T η c g/‖g‖
        assert torch.allclose(grad, -4 * 0.1 * GRADS["a"].sum() / 5, rtol=1e-14)

    def test_params_of_several_dtypes_keep_them(self):
        grads = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor(12.0), "c": torch.tensor(84.0, dtype=DOUBLE)}
        new = one_step(ClipByNorm(SGD(1.0), 42.5), grads)
        assert [new[k].dtype for k in "abc"] == [torch.float32, torch.float32, DOUBLE]
        assert all(torch.allclose(new[k], 1 - grads[k] / 2) for k in grads)

    def test_needs_one_norm(self):
        with pytest.raises(InputError, match=r"max_norm must be a number or a scalar tensor, one for all .* got dict"):
            one_step(ClipByNorm(SGD(1.0), lambda outer: {"a": 1.0, "b": 2.0}), GRADS)
        with pytest.raises(InputError, match=r"max_norm must be .* got a tensor of shape \(1,\)"):
            one_step(ClipByNorm(SGD(1.0), torch.ones(1)), GRADS)


class TestByValue:
    @pytest.mark.parametrize("max_value", [0.01, 0.1])
    def test_fifty_steps_agree_with_torch(self, max_value):
        expected = torch_run(
            torch.optim.SGD, lr=0.1, momentum=0.5, clip=lambda p: torch.nn.utils.clip_grad_value_(p, max_value)
        )
        found = run(ClipByValue(SGD(0.1, 0.5), max_value))
        assert relative_error(found, expected) <= 1e-12
        assert relative_error(found, run(SGD(0.1, 0.5))) > 1e-3

    def test_each_parameter_may_have_its_own(self):
        bounds = {"a": torch.tensor([1.0, 10.0], dtype=DOUBLE), "b": 2.0}
        new = one_step(ClipByValue(SGD(1.0), lambda outer: bounds), GRADS)
        assert new["a"].tolist() == [0, 5]
        assert new["b"] == -1

    def test_the_derivative_in_the_value(self):
        # Entries −4 and 12 are clipped, 3 is not.
        grad = hypergradient(
            linear(GRADS),
            lambda w, o: w["a"].sum() + 10 * w["b"],
            {k: torch.ones_like(g) for k, g in GRADS.items()},
            torch.tensor(3.5, dtype=DOUBLE),
            updater=ClipByValue(SGD(0.1), lambda c: c),
            steps=4,
        ).grad
        assert torch.allclose(grad, torch.tensor(-0.4 * (-1 + 10), dtype=DOUBLE), rtol=1e-14)


def test_the_outermost_wrapper_comes_first():
    by_value_first = one_step(ClipByValue(ClipByNorm(SGD(1.0), 2.5), 4.0), GRADS)
    by_norm_first = one_step(ClipByNorm(ClipByValue(SGD(1.0), 4.0), 6.5), GRADS)
    # (3, −4, 4) has the norm √41.
    assert torch.allclose(by_value_first["b"], torch.tensor(1 - 2.5 * 4 / 41**0.5, dtype=DOUBLE))
    assert by_norm_first["b"] == -3


def test_decoupled_weight_decay_is_not_clipped():
    new = one_step(ClipByNorm(AdamW(0.1, weight_decay=0.5), 0.0), GRADS)
    assert torch.allclose(new["a"], torch.full((2,), 0.95, dtype=DOUBLE), rtol=1e-15)


def test_slots_are_those_of_the_updater_inside():
    problem = flat_problem()
    assert same_bits(ClipByNorm(Adam(), 1.0).init(problem.params), Adam().init(problem.params))


@pytest.mark.parametrize("wrapper", [ClipByNorm, ClipByValue])
class TestErrors:
    def test_a_negative_bound(self, wrapper):
        with pytest.raises(InputError, match=r"must lie in .* got -1"):
            wrapper(SGD(0.1), -1)

    def test_no_updater(self, wrapper):
        with pytest.raises(InputError, match="an updater needs methods init and step, but float has no init"):
            wrapper(0.1, SGD(0.1))

    def test_an_updater_without_update(self, wrapper):
        class Own:
            def init(self, params):
                return ()

            def step(self, state, outer, inner):
                return state

        with pytest.raises(InputError, match=f"{wrapper.__name__} needs an updater .* got Own; derive it from"):
            wrapper(Own(), 1.0)

    def test_an_updater_of_ones_own_fits_in(self, wrapper):
        class Halved(GradientUpdater):
            def init(self, params):
                return ()

            def update(self, grads, state, outer):
                return State({k: w - 0.5 * grads[k] for k, w in state.params.items()})

        assert same_bits(run(wrapper(Halved(), 0.1), 5), run(wrapper(SGD(0.5), 0.1), 5))
