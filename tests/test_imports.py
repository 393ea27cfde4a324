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
    code = f"{statement}\nimport sys; print(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(process.stdout.split())


@pytest.mark.parametrize(
    ("statement", "module", "without"),
    [
        ("import lds", "lds", OPTIONAL | HEAVY),
        ("import lds.hypergrad", "lds.hypergrad", OPTIONAL | SCIPY | {"scipy", "torch_geometric", "yaml"}),
        ("from lds import StructureLearner", "lds.learner", OPTIONAL | SCIPY | {"torch_geometric"}),
        # scikit-learn imports pandas where it is installed.
        ("from lds import LDSClassifier", "sklearn", OPTIONAL - {"sklearn", "pandas"} | {"torch_geometric"}),
        ("from lds.cli import _train", "jsonargparse", OPTIONAL - {"jsonargparse"} | HEAVY),
    ],
)
def test_an_import_brings_no_more_than_it_needs(statement, module, without):
    found = loaded(statement)
    assert module in found
    assert not found & without
