"""Every Python block of the README and of docs/ runs, a page in one namespace; tables are those of the result files."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs").glob("*.md"))


def run(text, name):
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, name, "exec"), namespace)
    return blocks, namespace


def test_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks, namespace = run(README, "README.md")
    assert len(blocks) >= 6
    assert namespace["fit"].accuracy("test") > 0.5
    assert len(capsys.readouterr().out.splitlines()) == 21  # The sweep prints depths 0 to 20.


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_run(page: Path) -> None:
    torch.manual_seed(0)
    blocks, _ = run(page.read_text(), page.name)
    assert blocks


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES, *ROOT.glob("examples/*.md")], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "docs/hypergradients.md"])
def test_tables_are_those_of_the_result_files(page: str) -> None:
    spec = importlib.util.spec_from_file_location("readme", ROOT / "scripts" / "benchmarks" / "readme.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = (ROOT / page).read_text()
    assert script.render(page, text) == text
