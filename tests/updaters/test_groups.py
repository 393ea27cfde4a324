"""Groups of params: each has its own updater, and all see one gradient."""

import pytest
import torch
from torch import nn

from lds.errors import InputError
from lds.hypergrad import functional, hypergradient
from lds.updaters import SGD, Adam, AdamW, ClipByNorm, Groups, State, Updater
from tests.oracles import DOUBLE, Problem, central_differences, relative_error, same_bits, unroll
from tests.updaters.torch_optim import run

PARAMS = {
    "encoder.weight": torch.tensor([1.0, 2.0]),
    "encoder.bias": torch.tensor(3.0),
    "head.weight": torch.ones(2, 2),
}


def inner(params, outer):
    return sum((k + 1) * x.square().sum() for k, x in enumerate(params.values()))


def one_step(updater, params=PARAMS, outer=()):
    return updater.step(State(params, updater.init(params)), outer, inner).params


BY = {
    "name": lambda name, w: name.split(".")[0],
    "shape": lambda name, w: "head" if w.ndim == 2 else "encoder",
    "leaf": {"encoder.weight": "encoder", "encoder.bias": "encoder", "head.weight": "head"},
    "branch": {"encoder": "encoder", "head": "head"},
}


@pytest.mark.parametrize("group", BY.values(), ids=BY)
def test_each_group_has_its_updater(group):
    found = one_step(Groups({"encoder": SGD(0.1), "head": SGD(0.01)}, group))
    assert same_bits(
        {k: x for k, x in found.items() if "head" not in k},
        {k: one_step(SGD(0.1))[k] for k in PARAMS if "head" not in k},
    )
    assert torch.equal(found["head.weight"], one_step(SGD(0.01))["head.weight"])


def test_one_group_is_the_updater():
    assert relative_error(run(Groups({0: Adam(0.02)}, 0)), run(Adam(0.02))) == 0


def test_names_are_paths():
    names = []

    def group(name, w):
        names.append(name)
        return 0

    params = {"layers": [{"w": torch.ones(1)}, (torch.ones(2),)], "scale": torch.ones(())}
    Groups({0: SGD(0.1)}, group).init(params)
    assert names == ["layers.0.w", "layers.1.0", "scale"]
    Groups({0: SGD(0.1)}, group).init(torch.ones(1))
    assert names[-1] == ""


def test_coefficients_of_a_group_are_like_its_params():
    rates = {"encoder.weight": torch.tensor([0.1, 0.2]), "encoder.bias": 0.0, "head.weight": None}
    updater = Groups({"encoder": SGD(lambda outer: rates), "head": SGD(0.0)}, BY["name"])
    found = one_step(updater)
    assert torch.allclose(found["encoder.weight"], torch.tensor([0.8, 1.2]))
    assert found["encoder.bias"] == 3


def test_every_group_has_its_hypergradient():
    torch.manual_seed(0)
    params, call = functional(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(DOUBLE))
    x, y = torch.randn(9, 3, dtype=DOUBLE), torch.randn(9, 1, dtype=DOUBLE)
    outer = {k: torch.tensor(v, dtype=DOUBLE) for k, v in {"first": 0.1, "last": 0.05, "decay": 0.1}.items()}
    problem = Problem(
        lambda p, o: (call(p, x) - y).square().mean(),
        lambda p, o: (call(p, x) + y).square().mean() + sum(v**2 for v in o.values()),
        params,
        outer,
    )
    updaters = {"0": SGD(lambda o: o["first"], 0.9), "2": AdamW(lambda o: o["last"], weight_decay=lambda o: o["decay"])}
    updater = ClipByNorm(Groups(updaters, lambda name, w: name[0]), 1.0)
    assert isinstance(updater, Updater)
    found = hypergradient(*problem, updater=updater, steps=7).grad
    assert relative_error(found, unroll(problem, updater, 7).grad) <= 1e-12
    assert relative_error(found, central_differences(problem, updater, 7)) <= 1e-7


def test_a_norm_is_that_of_all_or_of_a_group():
    grads = {k: 2 * (i + 1) * x for i, (k, x) in enumerate(PARAMS.items())}
    norms = {
        k: torch.cat([g.reshape(-1) for name, g in grads.items() if k in name]).norm() for k in ("encoder", "head")
    }
    whole = one_step(ClipByNorm(Groups({"encoder": SGD(1.0), "head": SGD(1.0)}, BY["name"]), 1.0))
    parts = one_step(Groups({k: ClipByNorm(SGD(1.0), 1.0) for k in norms}, BY["name"]))
    total = (norms["encoder"] ** 2 + norms["head"] ** 2).sqrt()
    for k, x in PARAMS.items():
        assert torch.allclose(whole[k], x - grads[k] / total)
        assert torch.allclose(parts[k], x - grads[k] / norms[k.split(".")[0]])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Groups({}, 0), r"Groups needs a dict of updaters by group, got \{\}"),
        (lambda: Groups([SGD(0.1)], 0), r"Groups needs a dict of updaters by group, got \[SGD"),
        (lambda: Groups({0: 0.1}, 0), "an updater needs methods init and step, but float has no init"),
        (
            lambda: one_step(Groups({0: SGD(0.1), 1: SGD(0.1)}, 0)),
            r"every group must have params, but 1 has none; .*\['0'\]",
        ),
        (
            lambda: one_step(Groups({"encoder": SGD(0.1)}, BY["name"])),
            r"belong to a group of the updaters, 'encoder', but params\['head.weight'\] belongs to 'head'",
        ),
        (
            lambda: one_step(Groups({"encoder": SGD(0.1)}, {"encoder": "encoder"})),
            "the groups must be a pytree like params or like their upper part; needed .*, got",
        ),
    ],
)
def test_errors(make, words):
    with pytest.raises(InputError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_an_updater_without_update_is_refused():
    class Own:
        def init(self, params):
            return ()

        def step(self, state, outer, inner):
            return state

    with pytest.raises(InputError, match="Groups needs an updater that works on the inner gradient alone, got Own"):
        Groups({0: Own()}, 0)
