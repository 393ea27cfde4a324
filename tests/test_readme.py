"""Every Python block of the README runs, in order, in one namespace; its tables are those of the result files."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_python_blocks_run(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert len(blocks) >= 6
    assert namespace["fit"].accuracy("test") > 0.5
    assert len(capsys.readouterr().out.splitlines()) == 21  # The sweep prints depths 0 to 20.


def test_tables_are_those_of_the_result_files() -> None:
    spec = importlib.util.spec_from_file_location("readme", ROOT / "scripts" / "benchmarks" / "readme.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.render(README) == README
