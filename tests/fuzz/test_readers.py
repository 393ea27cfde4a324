"""Whatever a file holds: the reader returns, or raises a documented error, within bounds of memory and time.

Cases are drawn with a fixed seed; LDS_EXAMPLES=2000 draws so many of each reader, where 40 are drawn otherwise, and
`scripts/fuzz.py` draws as many as one likes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import faulty

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz.py"
TARGETS = [
    "planetoid", "planetoid-trusted", "own-pt", "own-npz", "own-csv", "own-gml", "own-graphml", "own-mat",
    "own-mtx", "spec", "config", "command-line", "progress",
    "failure", "finished", "sweep", "report", "ablation", "disk",
]  # fmt: skip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bounds memory and counts open files as Linux does")


def fuzz(*options):
    """One line a target, from a process that runs nothing else: it forks."""
    process = subprocess.run(
        [sys.executable, SCRIPT, "--json", *options], capture_output=True, text=True, check=False, cwd=SCRIPT.parents[1]
    )
    reports = [json.loads(line) for line in process.stdout.splitlines()]
    assert reports, process.stderr
    return {report.pop("target"): report for report in reports}


@pytest.fixture(scope="module")
def reports():
    return fuzz("--cases", os.environ.get("LDS_EXAMPLES", "40"))


def test_every_reader_is_there(reports):
    assert list(reports) == TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_only_documented_errors_come_out(reports, name):
    assert reports[name]["defects"] == []
    # Neither is everything refused, nor does damage go unseen.
    assert reports[name]["outcomes"]["read"] > 0
    assert len(reports[name]["outcomes"]) > 1


def test_defects_are_seen():
    expected = {
        "raises": "ZeroDivisionError",
        "runs-code": "code in a pickle ran",
        "takes-memory": "MB for a file of",
        "leaves-open": "a file was left open",
        "dies": "the process ended with SIGSEGV",
        "hangs": "the process ended with SIGPROF",
        "long-winded": "a message of",
    }
    found = {name: report["defects"] for name, report in faulty.reports().items()}
    assert {name: [expected[name] in defect for defect in defects] for name, defects in found.items()} == {
        name: [True] for name in expected
    }
