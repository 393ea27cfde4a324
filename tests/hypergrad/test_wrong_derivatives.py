"""The list of wrong derivatives in the documentation is what the script measures."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]

spec = importlib.util.spec_from_file_location("wrong_derivatives", ROOT / "scripts/wrong_derivatives.py")
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
OPERATIONS = script.operations()


def listed():
    """The orders from which on operations are wrong, by name, as the documentation has them."""
    text = (
        (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8").split("## Derivatives that torch has wrong")[1]
    )
    rows = [row.split(" | ") for row in text.splitlines() if row.startswith("| `")]
    return {name: int(row[1]) for row in rows for name in re.findall("`([^`]+)`", row[0])}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="another torch has other derivatives wrong")
def test_the_list_is_that_of_the_script():
    found = {}
    for name, (function, tensors) in OPERATIONS.items():
        if notes := script.findings(function, tensors):
            found[name] = int(notes[0].split(":")[0].removeprefix("order "))
    assert found == listed()


def test_differences_tell_right_from_wrong():
    x = torch.linspace(0.1, 1, 6, dtype=torch.float64)

    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.exp()

        @staticmethod
        def backward(ctx, g):
            return g * ctx.saved_tensors[0].exp() / 2

    assert all(script.error(torch.exp, [x], order) <= 1e-7 for order in (1, 2, 3))
    assert script.error(Halved.apply, [x], 1) == pytest.approx(0.5, rel=0.2)
