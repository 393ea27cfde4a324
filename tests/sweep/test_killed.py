"""A sweep that is killed and started again ends as one that is left alone, and leaves nothing behind it."""

import csv
import json
import os
import random
import signal
import time

import pytest

from tests.sweep.processes import Sweep, linux

# The long runs are last: the last kill must come before they end.
SPEC = """\
name: twenty
runs:
  - {dataset: wine, method: logreg, seed: [0, 1, 2, 3]}
  - {dataset: [wine, iris], method: knn-gcn, k: [5, 10], seed: [0, 1, 2]}
  - {dataset: wine, method: knn-lds, max_epochs: 1, samples: 2, tau: 50, k: [3, 4], hidden: 2, seed: [0, 1]}
"""
RUNS = 20
MEASURED = ("seconds", "peak_rss_mb")

pytestmark = linux


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def table(folder):
    """The table without what the clock and the system say."""
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows]


def test_killed_again_and_again(spec, tmp_path):
    """LDS_KILLS=10 for the long drill."""
    kills = int(os.environ.get("LDS_KILLS", "3"))
    alone = Sweep(spec, tmp_path / "alone", "--jobs", "2")
    code, shown, _ = alone.finish()
    assert code == 0
    moments = random.Random(5)
    before = []
    for ended in ((RUNS - 4) * kill // kills for kill in range(1, kills + 1)):
        sweep = Sweep(spec, tmp_path / "killed", "--jobs", "2")
        sweep.wait_for(lambda sweep=sweep, ended=ended: len(sweep.lines()) >= ended)
        time.sleep(moments.uniform(0, 0.6))
        sweep.process.send_signal(signal.SIGKILL)
        assert sweep.finish()[0] == -signal.SIGKILL
        assert sweep.all_gone()
        assert ended <= len(sweep.lines()) < RUNS
        assert sweep.lines()[: len(before)] == before
        before = sweep.lines()
    last = Sweep(spec, tmp_path / "killed", "--jobs", "2")
    code, again, _ = last.finish()
    assert code == 0
    assert last.lines()[: len(before)] == before
    # A finished run is never repeated: every run has one line.
    assert len({json.dumps(json.loads(line)["config"]) for line in last.lines()}) == len(last.lines()) == RUNS
    rows = table(tmp_path / "alone")
    assert rows == table(tmp_path / "killed")
    assert len(rows) == RUNS
    assert {row["status"] for row in rows} == {"done"}
    assert shown == again
    names = [{path.name for path in (tmp_path / folder / "runs").iterdir()} for folder in ("alone", "killed")]
    assert names[0] == names[1]
    assert len(names[0]) == RUNS


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped(spec, tmp_path, number, code):
    sweep = Sweep(spec, tmp_path / "out", "--jobs", "2")
    sweep.wait_for(lambda: sweep.lines())
    sweep.process.send_signal(number)
    returned, stdout, stderr = sweep.finish()
    assert (returned, stdout) == (code, "")
    name = signal.Signals(number).name
    assert stderr == f"lds: stopped by {name}; the same command goes on with what is in {tmp_path / 'out'}\n"
    assert sweep.all_gone()
    assert 1 <= len(sweep.lines()) < RUNS


def test_a_second_sweep_is_refused_and_no_orphan_is_left(spec, tmp_path):
    # Longer than anyone waits: a run that goes on without its parent is seen.
    spec.write_text("name: long\nruns: [{dataset: wine, method: knn-lds, patience: 100000}]\n")
    first = Sweep(spec, tmp_path / "out", "--jobs", "1")
    first.wait_for(lambda: list(tmp_path.rglob("out/runs/*/config.yaml")))
    second = Sweep(spec, tmp_path / "out")
    code, stdout, stderr = second.finish()
    assert (code, stdout) == (2, "")
    assert "must be a sweep that no other process runs, but one does" in stderr
    assert first.process.poll() is None
    first.process.kill()
    first.process.wait()
    assert first.all_gone()
    first.finish()
