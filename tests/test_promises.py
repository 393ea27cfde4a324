"""Each promise of docs/guards.md names the tests that hold it, and they are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guards.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.+) \| (.+) \|$", PAGE.partition("## Promises")[2], re.MULTILINE)[1:]


def missing(tests):
    """Those of some tests, by their ids, that are not there."""
    return [test for test in tests if not is_there(*test.split("::"))]


def is_there(file, *names):
    path = ROOT / file
    if not path.is_file() or not names:
        return False
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for name in names:
        found = [node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name]
        if len(found) != 1:
            return False
        body = found[0].body
    return names[-1].startswith("test_")


def test_there_are_promises():
    assert len(ROWS) > 25


@pytest.mark.parametrize(("promise", "tests"), ROWS, ids=[promise for promise, _ in ROWS])
def test_a_promise_is_held(promise, tests):
    named = re.findall(r"`([^`]+)`", tests)
    assert named, f"{promise}: no test holds it"
    assert missing(named) == []


def test_a_test_that_is_gone_is_noticed():
    assert missing(["tests/test_promises.py::test_there_are_promises"]) == []
    for gone in ("tests/test_promises.py::test_gone", "tests/test_gone.py::test_x", "tests/test_promises.py::missing"):
        assert missing([gone]) == [gone]
