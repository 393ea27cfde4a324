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


# Of the standard library, and what a module lacks, where the system is Windows.
NOT_ON_WINDOWS = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
LACKING = """
import importlib, os, pkgutil, signal, sys
import torch, torch_geometric, sklearn, jsonargparse, matplotlib, jinja2, tqdm  # Of others, as they are here.
for name in {names}:
    sys.modules[name] = None
for module, names in (
    (signal, "pthread_sigmask pthread_kill sigwait SIGKILL SIGHUP SIGALRM alarm setitimer"),
    (os, "sched_getaffinity sysconf sysconf_names getuid geteuid fork O_NOFOLLOW O_NONBLOCK O_CLOEXEC"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
import lds
# _native is no module of Python.
found = [m.name for m in pkgutil.walk_packages(lds.__path__, "lds.") if m.name != "lds._native"]
for name in found:
    if name != "lds.__main__":
        importlib.import_module(name)
from lds.run._environment import peak_rss_mb
assert len(found) > 100 and 50 < peak_rss_mb() < 50_000
from lds.cli import main
assert main(["train", "--dataset", "wine", "--method", "knn-gcn", "--progress", "false", "--out", sys.argv[1]]) == 0
"""


def test_every_module_without_what_windows_lacks(tmp_path):
    """And a training: what is missing only when it is called is missing too."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    code = LACKING.format(names=NOT_ON_WINDOWS)
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "run" / "result.json").exists()
