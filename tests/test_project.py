"""The promises the project makes about itself: one version, one direction of imports, no private paths."""

import ast
import configparser
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml

from lds._version import __version__

ROOT = Path(__file__).resolve().parents[1]
CHECKED_FOLDERS = ("lds", "tests", "scripts", "docs", "examples", "experiments", ".ci", ".github")
UNTRACKED = {".git", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".ipynb_checkpoints", "runs"}

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


def imports(source, package, *, of_types=True):
    """Every import of the source, those inside functions too, as pairs of a module and a name in it, or None.

    `import a.b` is (a.b, None), and `from a import b` is (a, b). Relative imports are resolved against `package`, the
    package that the source belongs to. Without `of_types`, what stands under `if TYPE_CHECKING:` is left out.
    """
    unseen = [ast.parse(source)]
    while unseen:
        node = unseen.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from ((module, alias.name) for alias in node.names)
        elif isinstance(node, ast.If) and not of_types and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            unseen.extend(node.orelse)
        else:
            unseen.extend(ast.iter_child_nodes(node))


def imported_modules(source, package):
    """Every dotted name that the source imports; `from a import b` counts as a and as a.b."""
    found = set(imports(source, package))
    return {module for module, _ in found} | {f"{module}.{name}" for module, name in found if name is not None}


def above_the_engine(names):
    """Those of the dotted names that lie in the layers above the engine."""
    return {name for name in names if re.match(rf"lds\.({ABOVE_THE_ENGINE})(\.|$)", name)}


def sources_by_module(folder):
    """The modules of a package: by dotted name, the text, and whether it is the `__init__` of a package."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        found[".".join(parts[:-1] if is_package else parts)] = (path.read_text(encoding="utf-8"), is_package)
    return found


def ancestors(module):
    """The packages that a module lies in."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def circle(sources):
    """The modules of a circle of imports, the first once more at the end; empty where there is none.

    Imports inside functions count, for they tie modules together as well; those under `if TYPE_CHECKING:` are left out,
    for they never happen. An import of a.b runs the `__init__` of a, too, and so counts as an import of a, unless the
    importer lies in a, which is there by then. So a module may import its neighbours in its own package, but what it
    imports from the package itself, the package must not have from it.
    """
    graph = {}
    for importer, (source, is_package) in sources.items():
        package = importer if is_package else importer.rpartition(".")[0]
        found = graph.setdefault(importer, set())
        for module, name in imports(source, package, of_types=False):
            target = f"{module}.{name}" if f"{module}.{name}" in sources else module
            found.add(target)
            found.update(a for a in ancestors(target) if a != importer and a not in ancestors(importer))
        found &= sources.keys()
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1][::-1]  # It lists who is imported ahead of who imports.
    return []


def text_files():
    """Every text file that is the project's own: what git would track, less the data."""
    candidates = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in CHECKED_FOLDERS:
        candidates.extend(path for path in (ROOT / folder).rglob("*") if path.is_file())
    for path in sorted(candidates):
        parts = path.relative_to(ROOT).parts
        if UNTRACKED.isdisjoint(parts) and not any(part.endswith("-quick") for part in parts):
            try:
                yield path, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def test_installed_version_is_the_one_stated():
    assert importlib.metadata.version("lds-gnn") == __version__


def test_citation_states_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == __version__


def test_changelog_has_the_version():
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_lower_bounds_are_those_that_were_tested():
    """constraints-oldest.txt, which the job `oldest` installs, has what setup.cfg asks for, and no older or newer."""
    pinned = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8"), re.M))
    config = metadata()
    required = config["options"]["install_requires"]
    lines = [line for line in required.strip().splitlines() if "sys_platform" not in line]
    bounds = dict(re.findall(r"^\s*([\w-]+)(?:\[\w+\])?>=(\S+)$", "\n".join(lines), re.M))
    assert len(bounds) == len(lines) > 5
    assert {name: pinned.get(name) for name in bounds} == bounds
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("torch", "torch-geometric", "numpy", "scipy", "scikit-learn"):
        assert f"{name} {bounds[name]}" in readme


def test_torch_is_pinned():
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def metadata():
    """What setup.cfg says."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def test_hooks_run_the_tools_that_setup_cfg_pins():
    """No hook has a version of its own: each runs a tool of .venv, whose version the extra `lint` states exactly."""
    pinned = re.findall(r"^([\w-]+)==", metadata()["options.extras_require"]["lint"], re.MULTILINE)
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [(repo["repo"], "rev" in repo) for repo in config["repos"]] == [("local", False)]
    hooks = config["repos"][0]["hooks"]
    assert all("additional_dependencies" not in hook and hook["language"] == "system" for hook in hooks)
    tools = [re.match(r"\.venv/bin/python -m (\w+)", hook["entry"])[1] for hook in hooks]
    assert set(tools) == {"ruff", "mypy"} <= set(pinned)


def test_the_workflow_runs_everything_on_every_python():
    """The versions are those of the classifiers, and what is run is `.ci/run`, which makes .venv with PYTHON."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["checks"]
    stated = re.findall(r"Python :: (3\.\d+)$", metadata()["metadata"]["classifiers"], re.MULTILINE)
    assert job["strategy"]["matrix"]["python"] == stated
    step = job["steps"][-1]
    assert step["run"] == "bash .ci/run"
    assert set(step["env"]) >= {"PYTHON"}
    oldest = workflow["jobs"]["oldest"]["steps"][-1]
    assert oldest["env"]["CONSTRAINTS"] == "constraints-oldest.txt"
    assert "scripts/test" in oldest["run"]
    assert "scripts/demo" in oldest["run"]


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


CIRCLES = {
    "no circle": ({"p": "from p.a import x", "p.a": "from p.b import y", "p.b": "import os"}, None),
    "two modules": ({"p": "", "p.a": "import p.b", "p.b": "from p import a"}, {"p.a", "p.b"}),
    "inside a function": (
        {"p": "", "p.a": "def f():\n    from .b import x", "p.b": "from .a import y"},
        {"p.a", "p.b"},
    ),
    "of types only": (
        {"p": "", "p.a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.b", "p.b": "import p.a"},
        None,
    ),
    "but for types": (
        {
            "p": "",
            "p.a": "import typing\nif typing.TYPE_CHECKING:\n    x = 1\nelse:\n    import p.b",
            "p.b": "import p.a",
        },
        {"p.a", "p.b"},
    ),
    "a name of the own package": ({"p": "from p.a import x", "p.a": "from p import y"}, {"p", "p.a"}),
    "a neighbour": ({"p": "from p.a import x", "p.a": "from p import b", "p.b": ""}, None),
    "another package": (
        {
            "p": "",
            "p.q": "from p.q.a import x",
            "p.q.a": "import p.r.b",
            "p.r": "from p.r.b import y",
            "p.r.b": "import p.q.c",
            "p.q.c": "",
        },
        {"p.q", "p.q.a", "p.r.b"},
    ),
    "three modules": (
        {"p": "", "p.a": "from p.b import x", "p.b": "from p.c import y", "p.c": "from p.a import z"},
        {"p.a", "p.b", "p.c"},
    ),
}


@pytest.mark.parametrize(("texts", "expected"), CIRCLES.values(), ids=CIRCLES)
def test_the_circle_check_sees_what_it_should(texts, expected):
    packages = {ancestor for module in texts for ancestor in ancestors(module)}
    found = circle({module: (text, module in packages) for module, text in texts.items()})
    assert set(found) == (expected or set())
    assert found[:1] == found[-1:]


def test_no_import_closes_a_circle():
    """Those inside functions included, those under `if TYPE_CHECKING:` left out."""
    found = circle(sources_by_module(ROOT / "lds"))
    assert not found, f"a circle of imports: {' imports '.join(found)}"


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
