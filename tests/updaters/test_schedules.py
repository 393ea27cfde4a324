"""Schedules take the values of torch.optim.lr_scheduler, and are differentiable."""

import math

import pytest
import torch
from torch.optim import lr_scheduler

from lds.errors import InputError
from lds.hypergrad import hypergradient, record
from lds.updaters import SGD
from lds.updaters.schedules import Cosine, Exponential, Linear, PerStep, Piecewise, Restart
from tests.oracles import DOUBLE, Problem, central_differences, relative_error, same_bits
from tests.updaters.torch_optim import flat_problem, run, torch_run


def values(schedule, steps, outer=()):
    return [schedule.at(t, outer) for t in range(steps)]


@pytest.mark.parametrize(
    ("schedule", "scheduler"),
    [
        (Linear(0.01, 0.04, 20), lambda o: lr_scheduler.LinearLR(o, 0.25, 1.0, total_iters=20)),
        (Cosine(0.04, 0.01, 50), lambda o: lr_scheduler.CosineAnnealingLR(o, 50, eta_min=0.01)),
        (Exponential(0.04, 0.95), lambda o: lr_scheduler.ExponentialLR(o, 0.95)),
        (Piecewise([0.04, 0.02, 0.01], [10, 30]), lambda o: lr_scheduler.MultiStepLR(o, [10, 30], 0.5)),
        (
            Piecewise([Linear(0.01, 0.04, 10), Exponential(0.04, 0.95)], [10]),
            lambda o: lr_scheduler.SequentialLR(
                o, [lr_scheduler.LinearLR(o, 0.25, 1.0, total_iters=10), lr_scheduler.ExponentialLR(o, 0.95)], [10]
            ),
        ),
        (Restart(Cosine(0.04, 0.01, 20), 20), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 20, eta_min=0.01)),
        (PerStep([0.04 / (1 + t) for t in range(50)]), lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t))),
    ],
    ids=["linear", "cosine", "exponential", "piecewise", "warm-up", "restart", "per-step"],
)
# SequentialLR calls its schedulers in a way that they warn of.
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
def test_fifty_steps_agree_with_torch(schedule, scheduler):
    expected = torch_run(torch.optim.SGD, lr=0.04, momentum=0.5, scheduler=scheduler)
    found = run(SGD(schedule, momentum=0.5))
    assert relative_error(found, expected) <= 1e-12
    assert relative_error(found, run(SGD(0.04, momentum=0.5))) > 1e-3


class TestValues:
    def test_the_ends_are_exact_and_the_last_is_held(self):
        for schedule in (Linear(0.3, 0.1, 3), Cosine(0.3, 0.1, 3)):
            found = values(schedule, 6)
            assert found[0] == 0.3
            assert found[3:] == [0.1] * 3
            assert found[0] > found[1] > found[2] > found[3]

    def test_the_middle(self):
        assert math.isclose(Linear(1.0, 3.0, 4).at(1, ()), 1.5)
        assert math.isclose(Cosine(1.0, 3.0, 4).at(1, ()), 2 - math.cos(math.pi / 4))
        assert math.isclose(Exponential(2.0, 0.5).at(3, ()), 0.25)

    @pytest.mark.parametrize(
        "given", [[3.0, 2.0, 1.0], (3.0, 2.0, 1.0), torch.tensor([3.0, 2.0, 1.0]), lambda o: torch.tensor([3.0, 2, 1])]
    )
    def test_per_step_holds_the_last(self, given):
        assert [float(x) for x in values(PerStep(given), 5)] == [3, 2, 1, 1, 1]

    def test_pieces_count_from_their_beginning(self):
        schedule = Piecewise([Linear(0.0, 1.0, 2), 5.0, lambda outer: outer, PerStep([7.0, 8.0, 9.0])], [2, 3, 4])
        assert values(schedule, 8, outer=6.0) == [0, 0.5, 5, 6, 7, 8, 9, 9]

    def test_schedules_nest(self):
        schedule = Linear(Exponential(lambda outer: outer, 0.5), 0.0, 4)
        assert values(schedule, 4, outer=8.0) == [8, 3, 1, 0.25]


def test_a_warm_start_goes_on_counting():
    problem, updater = flat_problem(), SGD(PerStep([0.05, 0.04, 0.03, 0.02, 0.01]))

    def go(steps, state=None):
        return record(
            problem.inner, problem.params, problem.outer, updater=updater, steps=steps, horizon=0, state=state
        ).final_state

    assert same_bits(go(4, go(3)), go(7))


@pytest.mark.parametrize("remedy", ["restart", "step", None])
def test_learned_values_after_a_warm_start(remedy):
    """Without a remedy the second call is past the end of its values, as the guide says."""
    problem = Problem(
        lambda w, rates: w.square().sum() / 2, lambda w, rates: w.sum(), torch.tensor([2.0, -3.0], dtype=DOUBLE), None
    )
    rates = torch.full((4,), 0.1, dtype=DOUBLE)
    schedule = PerStep(lambda rates: rates)
    updater = SGD(Restart(schedule, 4) if remedy == "restart" else schedule)
    state = None
    for _ in range(3):
        result = hypergradient(*problem[:3], rates, updater=updater, steps=4, state=state)
        state = result.state._replace(step=0) if remedy == "step" else result.state
    expected = -result.params.sum() / (1 - rates)
    if remedy is None:
        expected = torch.tensor([0.0, 0.0, 0.0, 4 * expected[0]], dtype=DOUBLE)
    assert torch.allclose(result.grad, expected, rtol=1e-12)


def test_a_learning_rate_may_be_learned_step_by_step():
    # w_{t+1} = (1 − η_t) w_t, so dw_T/dη_t = −w_T/(1 − η_t).
    rates = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=DOUBLE)
    w = torch.tensor([2.0, -3.0], dtype=DOUBLE)
    grad = hypergradient(
        lambda w, rates: w.square().sum() / 2,
        lambda w, rates: w.sum(),
        w,
        rates,
        updater=SGD(PerStep(lambda rates: rates)),
        steps=4,
    ).grad
    final = w.sum() * (1 - rates[:4]).prod()
    assert torch.allclose(grad, torch.cat([-final / (1 - rates[:4]), torch.zeros(1, dtype=DOUBLE)]), rtol=1e-14)


def test_every_step_of_every_parameter_may_have_its_own():
    params = {"a": torch.tensor([1.0, 2.0], dtype=DOUBLE), "b": torch.tensor(3.0, dtype=DOUBLE)}
    # A row a step: a rate for each entry of a, one for b.
    rates = {"a": torch.rand(3, 2, dtype=DOUBLE), "b": torch.rand(3, dtype=DOUBLE)}
    problem = Problem(
        lambda w, o: (w["a"].square().sum() + w["b"] ** 2) / 2,
        lambda w, o: w["a"].sum() + w["b"] ** 2 + o["b"].square().sum(),
        params,
        rates,
    )
    updater = SGD(PerStep(lambda rates: rates))
    found = hypergradient(*problem, updater=updater, steps=3)
    assert all(torch.allclose(found.params[k], params[k] * (1 - rates[k]).prod(0), rtol=1e-13, atol=0) for k in params)
    assert relative_error(found.grad, central_differences(problem, updater, 3)) <= 1e-7


@pytest.mark.parametrize(
    "make",
    [
        lambda: Linear(lambda o: o["start"], lambda o: o["end"], 3),
        lambda: Cosine(lambda o: o["start"], lambda o: o["end"], 3),
        lambda: Exponential(lambda o: o["start"], lambda o: 1 - o["end"]),
        lambda: Piecewise([lambda o: o["start"], Linear(lambda o: o["start"], lambda o: o["end"], 2)], [2]),
        # Each has one number for all params and one for each.
        lambda: Linear(lambda o: o["start"], lambda o: {"a": o["end"], "b": 2 * o["end"]}, 3),
    ],
    ids=["linear", "cosine", "exponential", "piecewise", "per-parameter"],
)
def test_the_numbers_of_a_schedule_may_be_learned(make):
    outer = {"start": torch.tensor(0.3, dtype=DOUBLE), "end": torch.tensor(0.1, dtype=DOUBLE)}
    params = {"a": torch.tensor([1.0, 2.0], dtype=DOUBLE), "b": torch.tensor(3.0, dtype=DOUBLE)}
    problem = Problem(
        lambda w, o: torch.cosh(w["a"]).sum() + torch.cosh(w["b"]),
        lambda w, o: w["a"].prod() + w["b"] + o["start"] ** 2,
        params,
        outer,
    )
    updater = SGD(make())
    found = hypergradient(*problem, updater=updater, steps=5).grad
    assert relative_error(found, central_differences(problem, updater, 5)) <= 1e-7
    assert found["start"] != 2 * outer["start"]
    assert found["end"] != 0


def test_a_schedule_of_ones_own():
    class Halving:
        def at(self, step, outer):
            return 0.1 / 2**step

    assert same_bits(run(SGD(Halving()), 5), run(SGD(Exponential(0.1, 0.5)), 5))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Linear(0.1, 0.2, 0), "steps must be an integer >= 1, got 0"),
        (lambda: Cosine(0.1, 0.2, 2.0), "steps must be an integer >= 1, got 2.0"),
        (lambda: Cosine(0.1, 0.2, True), "steps must be an integer >= 1, got True"),
        (lambda: Linear("a", 0.2, 1), "start must be a number, a tensor, a function .* got str"),
        (lambda: Cosine(0.1, None, 1), "end must be a number, a tensor, a function .* got NoneType"),
        (lambda: Exponential(0.1, [0.5]), "rate must be a number, a tensor, a function .* got list"),
        (lambda: Exponential(float("nan"), 0.5), "start must lie in .* got nan"),
        (lambda: Piecewise([0.1], [3]), "one piece more than boundaries, got 1 pieces and 1 boundaries"),
        (lambda: Piecewise([0.1, "b"], [3]), r"pieces\[1\] must be a number"),
        (lambda: Piecewise([0.1] * 3, [3, 3]), r"boundaries must be increasing integers >= 1, got \[3, 3\]"),
        (lambda: Piecewise([0.1] * 3, [3, 2]), r"boundaries must be increasing integers >= 1, got \[3, 2\]"),
        (lambda: Piecewise([0.1] * 2, [0]), r"boundaries must be increasing integers >= 1, got \[0\]"),
        (lambda: Restart(0.1, 0), "every must be an integer >= 1, got 0"),
        (lambda: Restart("a", 1), "schedule must be a number, a tensor, a function .* got str"),
        (lambda: PerStep([]), r"PerStep needs at least one value.* got \[\]"),
        (lambda: PerStep(0.1), "PerStep needs at least one value.* got 0.1"),
        (lambda: PerStep([0.1, "b"]), r"values\[1\] of PerStep must be a number, got str"),
        (lambda: PerStep(torch.tensor(0.1)), r"PerStep needs .* one row per step, got shape \(\)"),
        (lambda: PerStep(torch.ones(0)), r"PerStep needs .* one row per step, got shape \(0,\)"),
        (lambda: PerStep(lambda o: torch.tensor(0.1)).at(0, ()), r"PerStep needs .* one row per step, got shape \(\)"),
        (lambda: PerStep(lambda o: 0.1).at(0, ()), "PerStep needs .* one row per step, got float"),
    ],
)
def test_what_is_no_schedule_is_refused(make, words):
    with pytest.raises(InputError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
