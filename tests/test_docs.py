"""Every code block of the README and of docs/ runs, a page in one namespace; tables are those of the result files."""

import ast
import importlib.util
import json
import re
import shlex
import warnings
from pathlib import Path

import optree
import pytest
import torch

from lds.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs").rglob("*.md"))
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
# Pages whose commands run too; those of the README and of experiments.md take hours.
COMMANDS = {"quickstart.md", "own-data.md", "guards.md"}


def run(text, name, commands=False):
    blocks = re.findall(r"```(python|bash)\n(.*?)```", text, flags=re.DOTALL)
    namespace: dict[str, object] = {}
    for language, block in blocks:
        if language == "python":
            exec(compile(block, name, "exec"), namespace)
        elif commands:
            for line in block.splitlines():
                expected = re.search(r"#.*exit code (\d)", line)
                program, *arguments = shlex.split(line, comments=True)
                assert program == "lds"
                assert main(arguments) == int(expected[1] if expected else 0), line
    return [block for language, block in blocks if language == "python"], namespace


def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of the three uses, in an empty folder; the network of the third one trains on the table of the second."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    blocks, namespace = run(README, "README.md")
    assert len(blocks) == 4
    assert namespace["fit"].accuracy("test") > 0.8
    assert list(namespace["graph"])[:2] == ["wine-0", "wine-1"]
    assert 6 <= len(capsys.readouterr().out.splitlines()) <= 20  # A result and a fit, each in ten lines at most.
    learner = namespace["lds"].StructureLearner(
        model=namespace["Residual"], graph=namespace["KNNGraph"](k=10), inner_steps=20, max_epochs=1, samples=2
    )
    assert learner.fit(namespace["data"], seed=0).accuracy("test") > 0.5


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 220


@pytest.mark.parametrize("page", [p for p in PAGES if "```python" in p.read_text()], ids=lambda page: page.name)
def test_pages_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    text = page.read_text()
    _, namespace = run(text, page.name, commands=page.name in COMMANDS)
    for quote in re.findall(r"<!-- message -->\n(.*?)<!-- end -->", text, flags=re.DOTALL):
        assert namespace["message"].startswith(" ".join(quote.replace("> ", "").split()))


def test_the_code_of_peers_gives_the_same_gradients() -> None:
    """Each block of higher or TorchOpt on the page, and ours after it, leave the same under the same name."""
    peers = {name: pytest.importorskip(name) for name in ("higher", "torchopt")}
    text = (ROOT / "docs" / "coming-from.md").read_text()
    namespace: dict[str, object] = {**peers}
    theirs, compared = {}, []
    for language, block in re.findall(r"```(python|py)\n(.*?)```", text, flags=re.DOTALL):
        ours = language == "python"
        if not ours and not any(f"{name}." in block for name in peers):
            continue
        if "net" in namespace:
            namespace["net"].zero_grad()
        if not ours:
            namespace["t"] = namespace["x"] @ torch.arange(5.0)
        with warnings.catch_warnings():
            if not ours:
                warnings.simplefilter("ignore")
            exec(compile(block, "coming-from.md", "exec"), namespace)
        found = {name: namespace[name] for name in ("grads", "lr_grad", "first_order", "grad") if name in namespace}
        if any(p.grad is not None for p in namespace["net"].parameters()):
            found["module"] = [p.grad for p in namespace["net"].parameters()]
        found = {name: list(x.values()) if isinstance(x, dict) else x for name, x in found.items()}
        found = {name: torch.cat([p.flatten() for p in optree.tree_leaves(x)]) for name, x in found.items()}
        if ours:
            for name in theirs.keys() & found.keys():
                compared.append(name)
                torch.testing.assert_close(found[name], theirs[name], rtol=1e-3, atol=1e-6)
            theirs = {}
        else:
            new = re.findall(r"^ *\(?(\w+),?\)? = torch.autograd.grad", block, re.MULTILINE) or ["module"]
            theirs = {name: found[name].clone() for name in new}
    assert compared == ["module", "grads", "lr_grad", "first_order", "module", "grad"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_notebooks_are_stored_without_outputs(notebook: Path) -> None:
    """scripts/docs executes them."""
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 3
    assert all((cell["outputs"], cell["execution_count"]) == ([], None) for cell in cells)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES, *ROOT.glob("examples/*.md")], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_tables_are_those_of_the_result_files() -> None:
    spec = importlib.util.spec_from_file_location("readme", ROOT / "scripts" / "benchmarks" / "readme.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for page in script.TABLES:
        text = (ROOT / page).read_text()
        assert script.render(page, text) == text, page


def test_quoted_messages_are_those_of_the_source() -> None:
    """What stands between the … of a quotation is in one text of the source, in that order."""
    texts = []
    for path in sorted((ROOT / "lds").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append("…".join(part.value for part in node.values if isinstance(part, ast.Constant)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    entries = re.findall(
        r"^\* (`.*?`):\s", (ROOT / "docs" / "troubleshooting.md").read_text(), re.DOTALL | re.MULTILINE
    )
    quotes = [" ".join(quote.split()) for entry in entries for quote in re.findall(r"`(.*?)`", entry, re.DOTALL)]
    assert len(quotes) > 40
    for quote in quotes:
        pattern = ".*".join(re.escape(piece.strip()) for piece in quote.split("…"))
        assert any(re.search(pattern, text, re.DOTALL) for text in texts), quote
