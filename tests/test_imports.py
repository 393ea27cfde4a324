"""What an import brings along: parts that not everyone uses are imported when they are used.

`scripts/benchmarks/imports.py` measures the time.
"""

import subprocess
import sys

import pytest

OPTIONAL = {"jinja2", "jsonargparse", "matplotlib", "networkx", "pandas", "ray", "sklearn", "tensorboard", "torchopt"}
HEAVY = {"numpy", "scipy", "torch", "torch_geometric", "optree"}
# Parts of scipy that take longer than the rest of it.
SCIPY = {"scipy.optimize", "scipy.stats"}


def loaded(statement):
    """The modules in a new process after this statement."""
    code = f"{statement}\nimport sys; print(*(name for name, module in sys.modules.items() if module is not None))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(process.stdout.split())


@pytest.mark.parametrize(
    ("statement", "module", "without"),
    [
        ("import lds", "lds", OPTIONAL | HEAVY),
        ("import lds.hypergrad", "lds.hypergrad", OPTIONAL | SCIPY | {"scipy", "torch_geometric", "yaml"}),
        ("from lds import StructureLearner", "lds.learner", OPTIONAL | SCIPY | {"torch_geometric"}),
        # scikit-learn takes pandas along where it can; what is not here shows who else does.
        (
            "import sys; sys.modules['pandas'] = None; from lds import LDSClassifier",
            "sklearn",
            OPTIONAL - {"sklearn"} | {"torch_geometric"},
        ),
        ("import lds.ablate, lds.report, lds.sweep", "lds.ablate", OPTIONAL | HEAVY),
        ("from lds.cli import _train", "jsonargparse", OPTIONAL - {"jsonargparse"} | HEAVY),
    ],
)
def test_an_import_brings_no_more_than_it_needs(statement, module, without):
    found = loaded(statement)
    assert module in found
    assert not found & without
