import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    """Import as the scripts do, from the folder that they lie in."""
    monkeypatch.syspath_prepend(EXPERIMENTS)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if (EXPERIMENTS / f"{name}.py").exists():
            del sys.modules[name]
