"""What results print: a few lines, whatever they hold."""

import pytest
import torch
from torch import nn

from lds._show import Shown, short
from lds.graph import AllPairs, FactorPairs
from lds.hypergrad import (
    FiniteDifference,
    Forward,
    Implicit,
    Problem,
    Reverse,
    check_hypergradient,
    functional,
    hypergradient,
    jacobian,
    record,
    sweep,
    truncation_curve,
)
from lds.updaters import SGD, Adam

NET = nn.Sequential(nn.Linear(100, 50), nn.Tanh(), *(nn.Linear(50, 50) for _ in range(20)), nn.Linear(50, 1))
PARAMS, CALL = functional(NET)
X, Y = torch.rand(6, 100), torch.rand(6, 1)
OUTER = {"decay": torch.tensor(0.1), "weights": torch.ones(6, 1)}


def inner(params, outer):
    penalty = sum((p**2).sum() for p in params.values())
    return ((CALL(params, X) - Y) ** 2 * outer["weights"]).mean() + outer["decay"] * penalty


def outer_objective(params, outer):
    return ((CALL(params, X) - Y) ** 2).mean()


def result(method=None, steps=3):
    return hypergradient(inner, outer_objective, PARAMS, OUTER, updater=Adam(0.01), steps=steps, method=method)


def recorded():
    return record(inner, PARAMS, OUTER, updater=Adam(0.01), steps=3)


def quadratic():
    w, theta = {"w": torch.ones(2)}, {"a": torch.tensor(0.5), "b": torch.ones(2)}
    return (
        lambda p, o: ((p["w"] - o["b"]) ** 2).sum() + o["a"] * (p["w"] ** 2).sum(),
        lambda p, o: (p["w"] ** 2).sum(),
        w,
        theta,
    )


RESULTS = {
    "result": result,
    "truncated": lambda: result(Reverse(2)),
    "diagnostics": lambda: result().diagnostics,
    "forward": lambda: hypergradient(*quadratic(), updater=SGD(0.1), steps=3, method=Forward()),
    "implicit": lambda: hypergradient(*quadratic(), updater=SGD(0.3), steps=90, method=Implicit()).diagnostics,
    "differences": lambda: hypergradient(*quadratic(), updater=SGD(0.1), steps=3, method=FiniteDifference()),
    "trajectory": recorded,
    "state": lambda: recorded().final_state,
    "sweep": lambda: next(sweep(recorded(), outer_objective)),
    "curve": lambda: truncation_curve(recorded(), outer_objective),
    "jacobian": lambda: jacobian(inner, lambda p, o: CALL(p, X)[:2], PARAMS, OUTER, updater=SGD(0.1), steps=2),
    "check": lambda: check_hypergradient(*quadratic(), updater=SGD(0.1), steps=2),
    "leaf": lambda: check_hypergradient(*quadratic(), updater=SGD(0.1), steps=2).leaves[0],
    "problem": lambda: Problem(inner, outer_objective, PARAMS, OUTER, SGD(0.1), 3),
    "factors": lambda: FactorPairs(((torch.rand(90, 3), torch.rand(90, 3)),) * 30, torch.rand(90)),
}


@pytest.mark.parametrize("make", RESULTS.values(), ids=RESULTS.keys())
def test_few_lines(make):
    found = make()
    lines = repr(found).splitlines()
    assert 1 <= len(lines) <= 10
    assert max(map(len, lines)) <= 110
    assert str(found) == repr(found)
    assert type(found).__name__ in lines[0]
    if isinstance(found, Shown):
        page = found._repr_html_()
        assert page.startswith("<table>")
        assert page.count("<tr>") >= len(lines) - 1
        assert "<lambda>" not in page  # Escaped.


def test_a_result_tells_its_numbers():
    text = repr(result())
    assert len(text.splitlines()) == 6
    assert "'decay'" in text
    assert "float32 [6, 1]" in text
    assert "outer_loss" in text
    assert "step=3" in text
    assert "steps_swept 3" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.tensor(0.25), "0.25 (float32)"),
        (torch.tensor([1, 2]), "[1, 2] (int64)"),
        (torch.ones(3, 4, dtype=torch.float64), "float64 [3, 4]"),
        (torch.ones(2, 2).to_sparse(), "float32 [2, 2]"),
        (torch.empty(0), "float32 [0]"),
        ([0.5] * 7, "7 numbers, 0.5 … 0.5"),
        ({"a": torch.ones(9), "b": (1, None)}, "{'a': float32 [9], 'b': (1, None)}"),
        ([], "[]"),
        (inner, "inner"),
    ],
)
def test_a_value(value, text):
    assert short(value) == text


@pytest.mark.parametrize("value", [{f"layer{i}": torch.rand(5, 5) for i in range(400)}, "a" * 4000, [[0] * 99] * 99])
def test_a_large_value(value):
    assert len(short(value)) <= 88
    assert "…" in short(value)


def test_a_structure_is_no_wall_of_digits():
    found = hypergradient(
        lambda p, graph: (graph.propagate(X @ p["w"]) ** 2).sum() + ((p["w"] - 1) ** 2).sum(),
        lambda p, graph: (graph.propagate(X @ p["w"]) ** 2).sum(),
        {"w": torch.rand(100, 2)},
        AllPairs(6, torch.tensor([[0, 1], [1, 2]])),
        updater=SGD(0.001),
        steps=5,
    )
    assert len(repr(found)) < 800
