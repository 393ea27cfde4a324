"""Public names have an example in their docstring, and examples give what they say."""

import doctest
import importlib
import inspect
import pkgutil
import types

import pytest

import lds

# They are told by a type alone.
ALIASES = {"Coefficient", "LogName", "Noise", "Objective", "PyTree"}
PACKAGES = [
    "lds",
    "lds.ablate",
    "lds.data",
    "lds.distributed",
    "lds.estimator",
    "lds.graph",
    "lds.hypergrad",
    "lds.learner",
    "lds.nn",
    "lds.nn.gat",
    "lds.report",
    "lds.run",
    "lds.sweep",
    "lds.transforms",
    "lds.updaters",
    "lds.updaters.schedules",
]
MODULES = sorted(found.name for found in pkgutil.walk_packages(lds.__path__, "lds.") if "__main__" not in found.name)


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_have_an_example(package: str) -> None:
    module = importlib.import_module(package)
    names = getattr(module, "__all__", None) or [
        name for name, found in vars(module).items() if getattr(found, "__module__", "") == package
    ]
    found = {name: getattr(module, name) for name in names if not name.startswith("_") and name not in ALIASES}
    lacking = [
        name
        for name, value in found.items()
        if callable(value)
        and not isinstance(value, types.ModuleType)
        and "Example:" not in (inspect.getdoc(inspect.unwrap(value)) or "")
    ]
    assert lacking == []


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec(name).origin.endswith(".so"):
        pytest.skip("compiled code has no examples")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(str(error))
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0
