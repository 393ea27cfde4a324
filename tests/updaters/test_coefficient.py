"""Coefficients: ranges, one for all params or one for each, dtypes."""

import pytest
import torch

from lds.errors import InputError
from lds.hypergrad import hypergradient
from lds.updaters import (
    ASGD,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    ClipByNorm,
    ClipByValue,
    Lion,
    Muon,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
    State,
)
from tests.oracles import DOUBLE, same_bits

PARAMS = {"a": torch.tensor([1.0, 2.0], dtype=DOUBLE), "b": [torch.tensor(3.0, dtype=DOUBLE)]}


def inner(params, outer):
    return params["a"].square().sum() + params["b"][0] ** 3


def step(updater, outer=(), params=PARAMS):
    return updater.step(State(params, updater.init(params)), outer, inner).params


class TestOneForEachParameter:
    def test_gives_each_its_own_step(self):
        outer = {"a": torch.tensor([0.1, 0.2], dtype=DOUBLE), "b": [torch.tensor(0.3, dtype=DOUBLE)]}
        new = step(SGD(lambda rates: rates), outer)
        assert torch.allclose(new["a"], PARAMS["a"] * (1 - 2 * outer["a"]), rtol=1e-15)
        assert torch.allclose(new["b"][0], PARAMS["b"][0] - 0.3 * 27, rtol=1e-15)

    def test_has_its_own_derivative(self):
        outer = {"a": torch.tensor([0.1, 0.2], dtype=DOUBLE), "b": [torch.tensor(0.3, dtype=DOUBLE)]}
        grad = hypergradient(
            inner, lambda w, o: w["a"].sum() + w["b"][0], PARAMS, outer, updater=SGD(lambda rates: rates), steps=1
        ).grad
        assert torch.allclose(grad["a"], -2 * PARAMS["a"], rtol=1e-15)
        assert torch.allclose(grad["b"][0], torch.tensor(-27.0, dtype=DOUBLE), rtol=1e-15)

    @pytest.mark.parametrize("value", [0.1, torch.tensor(0.1, dtype=DOUBLE), torch.tensor([0.1], dtype=DOUBLE)])
    def test_may_be_a_number_or_broadcast(self, value):
        new = step(SGD(lambda outer: {"a": value, "b": [0.1]}))
        assert same_bits(new, step(SGD(0.1)))

    def test_of_adam_equals_adam_on_each_alone(self):
        rates, betas = {"a": 0.1, "b": [0.2]}, {"a": 0.5, "b": [0.8]}
        updater = Adam(lambda o: rates, (lambda o: betas, 0.9), weight_decay=lambda o: {"a": 0.0, "b": [0.3]})
        state = State(PARAMS, updater.init(PARAMS))
        for _ in range(3):
            state = updater.step(state, (), inner)

        def alone(start, objective, updater):
            state = State(start, updater.init(start))
            for _ in range(3):
                state = updater.step(state, (), objective)
            return state.params

        a = alone(PARAMS["a"], lambda w, o: w.square().sum(), Adam(0.1, (0.5, 0.9)))
        b = alone(PARAMS["b"][0], lambda w, o: w**3, Adam(0.2, (0.8, 0.9), weight_decay=0.3))
        assert same_bits(state.params, {"a": a, "b": [b]})

    def test_or_one_for_each_branch(self):
        params = {"body": {"w": torch.ones(2), "b": torch.ones(())}, "head": [torch.ones(2), torch.ones(1)]}
        rates = {"body": 0.5, "head": [torch.tensor(0.25), 0.0]}
        new = SGD(lambda outer: rates).step(State(params), (), lambda p, o: p["body"]["w"].sum() + p["head"][0].sum())
        # The objective does not use the other two.
        assert new.params["body"]["w"].tolist() == [0.5, 0.5]
        assert new.params["head"][0].tolist() == [0.75, 0.75]

    @pytest.mark.parametrize(
        "rates",
        [
            {"encoder": 0.5, "head": 0.25},
            {"encoder": 0.5, "encoder.1": 0.25, "head": 0.25},
            {"encoder.0": 0.5, "head": 0.25, "encoder.1": 0.25},
        ],
    )
    def test_branches_may_be_submodules(self, rates):
        params = {"encoder.0.weight": torch.ones(2), "encoder.1.bias": torch.ones(()), "head": torch.ones(2)}
        new = SGD(lambda outer: rates).step(State(params), (), lambda p, o: sum(x.sum() for x in p.values())).params
        second = 0.5 if len(rates) == 2 else 0.75
        assert [float(new[k].detach().max()) for k in params] == [0.5, second, 0.75]

    @pytest.mark.parametrize(
        "rates", [{"encoder": 0.5}, {"encoder": 0.5, "head": 0.1, "other": 0.1}, {"enc": 0.5, "head": 0.1}]
    )
    def test_branches_must_be_those_of_params(self, rates):
        params = {"encoder.weight": torch.ones(2), "head": torch.ones(2)}
        with pytest.raises(InputError, match="lr must be a number, a scalar tensor or a pytree like params; needed"):
            SGD(lambda outer: rates).step(State(params), (), lambda p, o: sum(x.sum() for x in p.values()))

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ({"a": 0.1}, "lr must be a number, a scalar tensor or a pytree like params; needed .*'b'.* got"),
            (torch.ones(2), r"lr must be a number, a scalar tensor .* got a tensor of shape \(2,\)"),
            ("fast", "lr must be a number, a scalar tensor or a pytree like params"),
            ({"a": torch.ones(3), "b": [0.1]}, r"lr\['a'\] must be .*needed shape \(2,\) or \(\), got shape \(3,\)"),
            ({"a": 0.1, "b": [torch.ones(1)]}, r"lr\['b'\]\[0\] must be .*needed shape \(\) or \(\), got shape \(1,\)"),
            ({"a": torch.ones(2, 2), "b": [0.1]}, r"lr\['a'\] must be .* got shape \(2, 2\)"),
            ({"a": 0.1, "b": ["fast"]}, r"lr\['b'\]\[0\] must be .* got str"),
        ],
    )
    def test_must_be_like_params(self, value, words):
        with pytest.raises(InputError, match=words) as caught:
            step(SGD(lambda outer: value))
        assert "\n" not in str(caught.value)

    def test_of_a_single_tensor_is_a_tensor(self):
        w = torch.tensor([1.0, 2.0], dtype=DOUBLE)
        new = SGD(torch.tensor([0.1, 0.2], dtype=DOUBLE)).step(State(w), (), lambda w, o: w.square().sum()).params
        assert torch.allclose(new, torch.tensor([0.8, 1.2], dtype=DOUBLE), rtol=1e-15)


@pytest.mark.parametrize(
    "make",
    [
        lambda c: SGD(c(0.1), c(0.5), True, c(0.1)),
        lambda c: Adam(c(0.1), (c(0.5), c(0.9)), weight_decay=c(0.1)),
        lambda c: AdamW(c(0.1), (c(0.5), c(0.9)), weight_decay=c(0.1)),
        lambda c: RMSprop(c(0.1), c(0.9), weight_decay=c(0.1), momentum=c(0.5), centered=True),
        lambda c: Adagrad(c(0.1), c(0.1), c(0.1)),
        lambda c: Lion(c(0.1), (c(0.5), c(0.9)), c(0.1)),
        lambda c: ClipByNorm(SGD(c(0.1)), c(0.5)),
        lambda c: ClipByValue(SGD(c(0.1)), c(0.5)),
        lambda c: SGD(c(0.1), c(0.5), dampening=c(0.5), maximize=True),
        lambda c: Adam(c(0.1), (c(0.5), c(0.9)), amsgrad=True),
        lambda c: Adadelta(c(0.1), c(0.9), 1e-3, c(0.1)),
        lambda c: Adafactor(c(0.1), c(-0.8), d=c(1.5), weight_decay=c(0.1)),
        lambda c: Adamax(c(0.1), (c(0.5), c(0.9)), 1e-3, c(0.1)),
        lambda c: ASGD(c(0.1), c(0.1), c(0.75), 1, c(0.1)),
        lambda c: NAdam(c(0.1), (c(0.5), c(0.9)), 1e-3, c(0.1), c(0.1)),
        lambda c: RAdam(c(0.1), (c(0.5), c(0.9)), 1e-3, c(0.1)),
        lambda c: Rprop(c(0.1), (c(0.5), c(1.2)), (1e-3, 50.0)),
    ],
    ids=[
        *("sgd", "adam", "adamw", "rmsprop", "adagrad", "lion", "clip-by-norm", "clip-by-value", "sgd-dampened"),
        *("amsgrad", "adadelta", "adafactor", "adamax", "asgd", "nadam", "radam", "rprop"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_scalar_parameter_keeps_its_dtype(make, dtype):
    """As every other does: a scalar of another dtype does not promote them."""
    params = {"scalar": torch.tensor(2.0, dtype=dtype), "vector": torch.ones(2, dtype=dtype)}
    outer = torch.ones((), dtype=DOUBLE)
    updater = make(lambda value: lambda outer: value * outer)
    result = hypergradient(
        lambda w, o: w["scalar"] ** 2 + w["vector"].square().sum(),
        lambda w, o: w["scalar"] + w["vector"].sum(),
        params,
        outer,
        updater=updater,
        steps=2,
    )
    assert [result.params[k].dtype for k in params] == [dtype, dtype]
    assert result.grad.dtype == DOUBLE
    assert result.grad != 0


def test_a_function_is_called_once_a_step():
    calls = []

    def lr(outer):
        calls.append(outer)
        return 0.1

    step(Adam(lr), outer="seen")
    assert calls == ["seen"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SGD(-0.1), "lr must lie in .* got -0.1"),
        (lambda: SGD(float("nan")), "lr must lie in .* got nan"),
        (lambda: SGD(float("inf")), "lr must lie in .* got inf"),
        (lambda: SGD(0.1, momentum=1.1), "momentum must lie in .* got 1.1"),
        (lambda: SGD(0.1, momentum=-1), "momentum must lie in .* got -1"),
        (lambda: SGD(0.1, weight_decay=-1), "weight_decay must lie in .* got -1"),
        (lambda: SGD("fast"), "lr must be a number, a tensor, a function of the outer variables or .* got str"),
        (lambda: SGD({"a": 0.1}), "lr must be a number, a tensor, a function .* got dict"),
        (lambda: Adam(-1), "lr must lie in .* got -1"),
        (lambda: Adam(betas=(1.0, 0.9)), r"betas\[0\] must lie in .* got 1.0"),
        (lambda: Adam(betas=(0.9, -0.1)), r"betas\[1\] must lie in .* got -0.1"),
        (lambda: Adam(eps=0.0), "eps must lie in .* got 0.0"),
        (lambda: Adam(weight_decay=-1), "weight_decay must lie in .* got -1"),
        (lambda: AdamW(weight_decay=-1), "weight_decay must lie in .* got -1"),
        (lambda: RMSprop(-1), "lr must lie in .* got -1"),
        (lambda: RMSprop(alpha=1), "alpha must lie in .* got 1"),
        (lambda: RMSprop(eps=0), "eps must lie in .* got 0"),
        (lambda: RMSprop(weight_decay=-1), "weight_decay must lie in .* got -1"),
        (lambda: RMSprop(momentum=2), "momentum must lie in .* got 2"),
        (lambda: Adagrad(-1), "lr must lie in .* got -1"),
        (lambda: Adagrad(lr_decay=-1), "lr_decay must lie in .* got -1"),
        (lambda: Adagrad(weight_decay=-1), "weight_decay must lie in .* got -1"),
        (lambda: Adagrad(initial_accumulator_value=-1), "initial_accumulator_value must lie in .* got -1"),
        (lambda: Adagrad(eps=0), "eps must lie in .* got 0"),
        (lambda: Lion(-1), "lr must lie in .* got -1"),
        (lambda: Lion(betas=(1, 0.9)), r"betas\[0\] must lie in .* got 1"),
        (lambda: Lion(betas=(0.9, 1)), r"betas\[1\] must lie in .* got 1"),
        (lambda: Lion(weight_decay=-1), "weight_decay must lie in .* got -1"),
        (lambda: SGD(0.1, 0.9, dampening=2), "dampening must lie in .* got 2"),
        (lambda: Adadelta(-1), "lr must lie in .* got -1"),
        (lambda: Adadelta(rho=1.1), "rho must lie in .* got 1.1"),
        (lambda: Adadelta(eps=0), "eps must lie in .* got 0"),
        (lambda: Adadelta(weight_decay=-1), "weight_decay must lie in .* got -1"),
        (lambda: Adafactor(-1), "lr must lie in .* got -1"),
        (lambda: Adafactor(beta2_decay=0.8), "beta2_decay must lie in .* got 0.8"),
        (lambda: Adafactor(eps=1e-3), r"eps of Adafactor must be a pair such as \(None, 1e-3\), got 0.001"),
        (lambda: Adafactor(eps=(0.0, 1e-3)), r"eps\[0\] must lie in .* got 0.0"),
        (lambda: Adafactor(eps=(None, 0.0)), r"eps\[1\] must lie in .* got 0.0"),
        (lambda: Adafactor(d=0.5), "d must lie in .* got 0.5"),
        (lambda: Adafactor(weight_decay=-1), "weight_decay must lie in .* got -1"),
        (lambda: Adamax(betas=(1.0, 0.9)), r"betas\[0\] must lie in .* got 1.0"),
        (lambda: ASGD(-1), "lr must lie in .* got -1"),
        (lambda: ASGD(lambd=-1), "lambd must lie in .* got -1"),
        (lambda: ASGD(alpha=float("nan")), "alpha must lie in .* got nan"),
        (lambda: ASGD(t0=-1), "t0 must lie in .* got -1"),
        (lambda: ASGD(weight_decay=-1), "weight_decay must lie in .* got -1"),
        (lambda: Muon(-1), "lr must lie in .* got -1"),
        (lambda: Muon(weight_decay=-1), "weight_decay must lie in .* got -1"),
        (lambda: Muon(momentum=2), "momentum must lie in .* got 2"),
        (lambda: Muon(eps=0), "eps must lie in .* got 0"),
        (lambda: Muon(ns_coefficients=(1.0, 2.0)), r"ns_coefficients must be three numbers .* got \(1.0, 2.0\)"),
        (lambda: Muon(ns_steps=100), r"ns_steps must be an integer in \[0, 100\), got 100"),
        (lambda: Muon(adjust_lr_fn="own"), "adjust_lr_fn must be one of None, 'original', .* got 'own'"),
        (lambda: NAdam(momentum_decay=-1), "momentum_decay must lie in .* got -1"),
        (lambda: RAdam(eps=0), "eps must lie in .* got 0"),
        (lambda: Rprop(-1), "lr must lie in .* got -1"),
        (lambda: Rprop(etas=(1.1, 1.2)), r"etas\[0\] must lie in .* got 1.1"),
        (lambda: Rprop(etas=(0.5, 0.9)), r"etas\[1\] must lie in .* got 0.9"),
        (lambda: Rprop(step_sizes=(-1, 1)), r"step_sizes\[0\] must lie in .* got -1"),
        (lambda: Rprop(step_sizes=(2, 1)), r"step_sizes must be \(smallest, largest\), got \(2, 1\)"),
    ],
)
def test_a_coefficient_out_of_range_is_refused(make, words):
    with pytest.raises(InputError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_ends_of_the_ranges_are_accepted():
    SGD(0, momentum=1, weight_decay=0)
    Adam(0, betas=(0, 0), eps=1e-18)
    RMSprop(0, alpha=0, eps=1e-18, momentum=1)
    Adagrad(0, lr_decay=0, eps=1e-18)
    Lion(0, betas=(0, 0))
    ClipByNorm(SGD(0.1), 0)


def test_eps_is_a_number():
    with pytest.raises(InputError, match="eps must be a number, got Tensor"):
        Adam(eps=torch.tensor(1e-8))
    with pytest.raises(InputError, match="initial_accumulator_value must be a number, got function"):
        Adagrad(initial_accumulator_value=lambda outer: 1.0)
