"""Mistakes are refused in one line that says what was needed and what came."""

import optree
import pytest
import torch

from lds.errors import InputError
from lds.hypergrad import Reverse, hypergradient, record, sweep
from lds.updaters import SGD, Adam, State, gradient
from tests.oracles import DOUBLE

PARAMS = {"w": torch.tensor([1.0, 2.0], dtype=DOUBLE)}
OUTER = {"a": torch.tensor(0.5, dtype=DOUBLE), "lr": torch.tensor(0.1, dtype=DOUBLE)}


def inner(params, outer):
    return outer["a"] * (params["w"] - 3).square().sum()


def outer_objective(params, outer):
    return params["w"].square().sum() + outer["a"] + outer["lr"]


def run(**changes):
    """One hypergradient with some arguments replaced."""
    options = {"updater": SGD(0.1), "steps": 3}
    problem = {"inner": inner, "outer_objective": outer_objective, "params": PARAMS, "outer": OUTER}
    for name, value in changes.items():
        (problem if name in problem else options)[name] = value
    return hypergradient(*problem.values(), **options)


def refused(*words, **changes):
    """Assert that the run raises InputError with one line that has the words."""
    with pytest.raises(InputError) as caught:
        run(**changes)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_the_problem_itself_is_accepted():
    assert run().grad["a"] != 0


class TestObjectives:
    @pytest.mark.parametrize(
        ("value", "came"),
        [
            (lambda p: p["w"].sum().item(), "got float"),
            (lambda p: p["w"], "got a tensor of shape (2,)"),
            (lambda p: p["w"].sum().reshape(1), "got a tensor of shape (1,)"),
            (lambda p: None, "got NoneType"),
            (lambda p: (p["w"].sum(), 1), "got tuple"),
        ],
    )
    def test_must_return_a_scalar_tensor(self, value, came):
        for name in ("inner", "outer_objective"):
            needed = f"the {name.replace('_', ' ').removesuffix(' objective')} objective must return a scalar tensor"
            refused(needed, came, ".mean()", **{name: lambda p, o: value(p)})

    @pytest.mark.parametrize(
        "ignores",
        [
            lambda p, o: o["a"] ** 2,
            lambda p, o: torch.tensor(1.0),
            lambda p, o: p["w"].detach().sum(),
            lambda p, o: torch.tensor(p["w"].tolist()).sum(),
        ],
    )
    @pytest.mark.parametrize("updater", [SGD(0.1), Adam(0.1)])
    def test_the_inner_one_must_depend_on_params(self, ignores, updater):
        refused("inner objective must depend on params", "detach", inner=ignores, updater=updater)

    @pytest.mark.parametrize(
        "ignores", [lambda p, o: torch.tensor(1.0), lambda p, o: p["w"].detach().sum() + o["a"].detach()]
    )
    def test_the_outer_one_must_depend_on_something(self, ignores):
        refused("outer objective must depend on params or on outer", "detach", outer_objective=ignores)


class TestCounts:
    @pytest.mark.parametrize("value", [-1, True, 2.0, "3", None])
    def test_steps(self, value):
        refused("steps must be an integer >= 0", f"got {value!r}", steps=value)

    @pytest.mark.parametrize("value", [-1, False, 2.0, "3"])
    def test_horizon(self, value):
        with pytest.raises(InputError, match=f"horizon must be an integer >= 0, got {value!r}"):
            Reverse(value)
        with pytest.raises(InputError, match=f"horizon must be an integer >= 0, got {value!r}"):
            record(inner, PARAMS, OUTER, updater=SGD(0.1), steps=3, horizon=value)


class TestParams:
    @pytest.mark.parametrize(
        ("leaf", "came"),
        [
            (torch.tensor([1, 2]), "got torch.int64"),
            (torch.tensor([True]), "got torch.bool"),
            (1.0, "got float"),
            ("w", "got str"),
        ],
    )
    def test_must_be_floating_point_tensors(self, leaf, came):
        params = {**PARAMS, "more": [leaf]}
        refused("params['more'][0] must be a floating-point tensor", came, params=params)

    @pytest.mark.parametrize("params", [{}, (), [[], {}], None])
    def test_must_not_be_empty(self, params):
        refused("params must hold at least one floating-point tensor", "empty", params=params)


class Broken:
    """An updater whose step is given by the test."""

    def __init__(self, step, slots=()):
        self.slots, self.step = slots, step

    def init(self, params):
        return self.slots


def descend(params, grads, rate=0.1):
    return optree.tree_map(lambda w, g: w - rate * g, params, grads)


def good_step(state, outer, inner):
    return State(descend(state.params, gradient(inner, state.params, outer)))


class TestUpdaters:
    @pytest.mark.parametrize("missing", ["init", "step"])
    @pytest.mark.parametrize("state", [None, State(PARAMS)])
    def test_need_two_methods(self, missing, state):
        class Half:
            pass

        setattr(Half, "step" if missing == "init" else "init", lambda *args: None)
        refused("an updater needs methods init and step", f"Half has no {missing}", updater=Half(), state=state)

    @pytest.mark.parametrize(
        ("result", "came"),
        [
            (lambda s: s.params, "got dict"),
            (lambda s: None, "got NoneType"),
            (lambda s: (s.params,), "got tuple"),
            (lambda s: [s.params, ()], "got list"),
        ],
    )
    def test_must_return_a_state(self, result, came):
        refused("must return State(params, slots)", came, updater=Broken(lambda s, o, i: result(s)))

    @pytest.mark.parametrize(
        "result",
        [
            lambda s: ({"w": s.params["w"], "v": s.params["w"]}, ()),
            lambda s: (s.params["w"], ()),
            lambda s: ({"w": [s.params["w"]]}, ()),
            lambda s: (s.params, s.params["w"]),
            lambda s: (s.params, None),
        ],
    )
    def test_must_keep_the_structure(self, result):
        words = ("must return a state of the structure it was given", "needed", "got")
        if optree.tree_structure(result(State(PARAMS))) == optree.tree_structure((PARAMS, ())):
            pytest.fail("the test returns the right structure")
        refused(*words, updater=Broken(lambda s, o, i: result(s)))

    @pytest.mark.parametrize(
        ("result", "words"),
        [
            (lambda s: ({"w": s.params["w"][:1]}, s.slots), ("state.params['w']", "(2,) torch.float64", "(1,)")),
            (lambda s: ({"w": s.params["w"].float()}, s.slots), ("state.params['w']", "torch.float32")),
            (lambda s: ({"w": 0.0}, s.slots), ("state.params['w']", "got float")),
            (lambda s: (s.params, {"n": 1.0, "m": s.slots["m"]}), ("state.slots['n']", "needed int", "got float")),
            (lambda s: (s.params, {"n": 1, "m": s.slots["m"] * 0.5}), ("state.slots['m']", "int64", "float32")),
        ],
    )
    def test_must_keep_shapes_and_dtypes(self, result, words):
        slots = {"n": 0, "m": torch.tensor([1, 2])}
        refused("must keep shapes and dtypes", *words, updater=Broken(lambda s, o, i: result(s), slots))

    def test_a_slot_of_a_named_tuple_is_called_by_its_name(self):
        class Halves(Adam):
            def step(self, state, outer, inner):
                new = super().step(state, outer, inner)
                return new._replace(slots=new.slots._replace(v={"w": new.slots.v["w"].half()}))

        refused("state.slots.v['w']", "torch.float16", updater=Halves(0.1))

    def test_another_state_than_a_state_is_refused(self):
        refused("state must be the State that a trajectory ended in", "got tuple", state=(PARAMS, ()))


def without_graph(state, outer, inner):
    with torch.enable_grad():
        loss = inner(state.params, outer)
    grads = torch.autograd.grad(loss, optree.tree_leaves(state.params))
    return State(descend(state.params, {"w": grads[0]}))


def with_a_detached_rate(state, outer, inner):
    return State(descend(state.params, gradient(inner, state.params, outer), outer["lr"].item()))


def with_a_rate_from_data(state, outer, inner):
    return State(descend(state.params, gradient(inner, state.params, outer), outer["lr"].data))


def without_gradients(state, outer, inner):
    with torch.no_grad():
        return good_step(state, outer, inner)


def with_a_detached_result(state, outer, inner):
    return State({"w": good_step(state, outer, inner).params["w"].detach()})


class TestDetachedSteps:
    @pytest.mark.parametrize(
        ("step", "name"),
        [(without_graph, "outer['a']"), (with_a_detached_rate, "outer['lr']"), (with_a_rate_from_data, "outer['lr']")],
    )
    @pytest.mark.parametrize("horizon", [None, 1])
    def test_from_an_outer_variable(self, step, name, horizon):
        words = ("step of Broken must be differentiable in", name, "detached", "create_graph=True")
        refused(*words, updater=Broken(step), method=Reverse(horizon))

    @pytest.mark.parametrize("step", [without_gradients, with_a_detached_result])
    def test_from_everything(self, step):
        words = ("step of Broken must be differentiable in the state and in the outer variables", "no_grad")
        refused(*words, updater=Broken(step))

    @pytest.mark.parametrize("value", [0.0, 0.5, 1e6])
    def test_at_any_value(self, value):
        outer = {**OUTER, "a": torch.tensor(value, dtype=DOUBLE)}
        refused("outer['a']", "detached", outer=outer, updater=Broken(without_graph))

    def test_are_no_matter_without_a_sweep(self):
        assert run(updater=Broken(without_graph), method=Reverse(0)).grad["a"] == 1

    def test_a_good_step_is_accepted(self):
        assert run(updater=Broken(good_step)).grad["a"] == run().grad["a"]


def test_an_error_in_the_sweep_comes_when_it_is_reached():
    trajectory = record(inner, PARAMS, OUTER, updater=Broken(without_gradients), steps=3)
    steps = sweep(trajectory, outer_objective)
    assert next(steps).t == 3
    with pytest.raises(InputError, match="must be differentiable"):
        next(steps)
