"""The promises the project makes about itself: one version, one direction of imports, no private paths."""

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lds._version import __version__

ROOT = Path(__file__).resolve().parents[1]
CHECKED_FOLDERS = ("lds", "tests", "scripts", "docs", "examples", "experiments", ".ci")
CACHES = {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".ipynb_checkpoints", "runs"}

# Data flows problem → record → sweep → hypergradient → learner → experiments: the engine knows none of these.
LAYERS = "graph nn data learner estimator transforms run sweep ablate report cli StructureLearner LDSClassifier"
ABOVE_THE_ENGINE = LAYERS.replace(" ", "|")

# A folder of somebody's machine, where a path begins: not inside a longer path or an address.
PRIVATE_PATH = re.compile(rf"(?<![\w./~$}}-])/({'|'.join(['work', 'home', 'root', 'Users'])})/")


def sources(*folders):
    """The Python files of the given folders, which must hold some."""
    found = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    assert found, f"no Python file in {folders}"
    return found


def imported_modules(source, package):
    """Every dotted name that the source imports; `from a import b` counts as a and as a.b.

    Relative imports are resolved against `package`, the package that the source belongs to.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def above_the_engine(names):
    """Those of the dotted names that lie in the layers above the engine."""
    return {name for name in names if re.match(rf"lds\.({ABOVE_THE_ENGINE})(\.|$)", name)}


def text_files():
    """Every text file that is the project's own: what git would track, less the data."""
    candidates = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in CHECKED_FOLDERS:
        candidates.extend(path for path in (ROOT / folder).rglob("*") if path.is_file())
    for path in sorted(candidates):
        parts = path.relative_to(ROOT).parts
        if CACHES.isdisjoint(parts) and not any(part.endswith("-quick") for part in parts):
            try:
                yield path, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def lines_ahead_of_the_code(source):
    """The lines ahead of the first statement that is not the docstring: where comments on the file stand."""
    body = ast.parse(source).body
    code = body[1:] if body and ast.get_docstring(ast.parse(source)) is not None else body
    return source.splitlines()[: code[0].lineno - 1 if code else None]


def test_installed_version_is_the_one_stated():
    assert importlib.metadata.version("lds-gnn") == __version__


def test_citation_states_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == __version__


def test_changelog_has_the_version():
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_torch_is_pinned():
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("source", "package", "forbidden"),
    [
        ("from ..graph import edges", "lds.hypergrad", {"lds.graph", "lds.graph.edges"}),
        ("from .. import nn", "lds.hypergrad", {"lds.nn"}),
        ("def f():\n    import lds.data.registry", "lds.updaters", {"lds.data.registry"}),
        ("from lds import StructureLearner", "lds.updaters", {"lds.StructureLearner"}),
        ("from .graph import node\nimport torch.nn\nfrom ..errors import InputError", "lds.hypergrad", set()),
        ("import lds.database", "lds.hypergrad", set()),
    ],
)
def test_the_import_check_sees_what_it_should(source, package, forbidden):
    assert above_the_engine(imported_modules(source, package)) == forbidden


def test_engine_never_imports_the_layers_above_it():
    for path in sources("lds/hypergrad", "lds/updaters"):
        package = ".".join(path.relative_to(ROOT).parent.parts)
        found = above_the_engine(imported_modules(path.read_text(encoding="utf-8"), package))
        assert not found, f"{path.relative_to(ROOT)} imports {sorted(found)}"


@pytest.mark.parametrize("module", ["lds.hypergrad", "lds.updaters"])
def test_engine_loads_without_the_layers_above_it(module):
    code = f"import sys, {module}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert loaded.returncode == 0, loaded.stderr
    names = set(loaded.stdout.split())
    assert module in names
    assert "torch_geometric" not in names
    assert not above_the_engine(names)


def test_a_long_file_gives_its_reason():
    for path in sources("lds"):
        source = path.read_text(encoding="utf-8")
        if len(source.splitlines()) > 300:
            head = "\n".join(lines_ahead_of_the_code(source))
            assert re.search(r"^# Over 300 lines: \S", head, re.MULTILINE), (
                f"{path.relative_to(ROOT)} has over 300 lines: ahead of its code must stand the reason, "
                "as '# Over 300 lines: ...'"
            )


@pytest.mark.parametrize("before", ["", "'", '"', " ", "=", "(", ":", "`"])
def test_the_path_check_sees_a_private_path(before):
    assert PRIVATE_PATH.search(f"{before}/{'home'}/someone/file")
    assert not PRIVATE_PATH.search(f"{before}docs/{'home'}/page https://example.org/{'home'}/ ../{'work'}/x")


def test_no_file_names_a_private_path():
    seen = 0
    for path, text in text_files():
        seen += 1
        for number, line in enumerate(text.splitlines(), start=1):
            assert not PRIVATE_PATH.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
    assert seen > 10
