"""No guard says a word about a well-formed problem, and its hypergradient is right (warnings fail tests)."""

import warnings

import pytest
import torch

from lds.errors import DerivativeWarning
from lds.hypergrad import Binomial, Checkpoint, Disk, KeepGraphs, KeepStates, Offload, Reverse
from tests.hypergrad.well_formed import CASES
from tests.oracles import DOUBLE, relative_error, same_bits

# Both sides round in float32, each in its own order.
TOLERANCES = {DOUBLE: 1e-9, torch.float32: 1e-4}
PROBLEMS = [
    pytest.param(make, dtype, id=f"{name}-{str(dtype).removeprefix('torch.')}")
    for name, (make, dtypes) in CASES.items()
    for dtype in dtypes
]


def test_there_are_many():
    assert len(CASES) >= 150


@pytest.mark.parametrize(("make", "dtype"), PROBLEMS)
def test_is_right_and_raises_no_alarm(make, dtype, tmp_path):
    problem = make(dtype)
    if problem.meant:
        warnings.simplefilter("ignore", DerivativeWarning)
    found = problem.solve()
    assert relative_error(found.grad, problem.reference()) <= (problem.tol or TOLERANCES[dtype])
    method = problem.options.get("method", Reverse())
    if isinstance(method, Reverse):
        for memory in (KeepGraphs(0), KeepStates(), Checkpoint(2), Binomial(2), Offload(), Disk(tmp_path / "disk")):
            again = problem.solve(Reverse(method.horizon, memory=memory))
            if problem.repeats:
                assert same_bits(again.grad, found.grad), memory
            else:
                assert relative_error(again.grad, found.grad) <= TOLERANCES[dtype], memory
