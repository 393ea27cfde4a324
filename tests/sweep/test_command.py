"""`lds sweep`, in process."""

import errno
import os

import pytest

from tests.sweep.processes import linux
from tests.test_cli import check_refused, run

SPEC = """\
name: command
runs:
  - {dataset: wine, method: logreg, C: [1, 2.5], seed: [0, 1]}
quick:
  - {dataset: wine, method: [lds, logreg]}
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC)
    return "spec.yaml"


def test_a_line_a_setting(spec, tmp_path, capsys):
    assert run("sweep", spec, "--jobs", "1") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    head, first, second = (line.split() for line in captured.out.splitlines())
    assert head == ["dataset", "method", "C", "test", "accuracy", "es", "accuracy", "seeds", "failed"]
    assert first[:3] == ["wine", "logreg", "1.0"]
    assert second[:3] == ["wine", "logreg", "2.5"]
    assert first[3].startswith("0.")
    assert (first[4], first[-2:]) == ("±", ["2", "0"])
    assert len((tmp_path / "runs" / "command" / "results.csv").read_text().splitlines()) == 5


def test_a_failed_run(spec, tmp_path, capsys):
    assert run("sweep", spec, "--quick", "--keep", "metrics", "--jobs", "2") == 1
    captured = capsys.readouterr()
    ledger = "runs/command-quick/results.jsonl"
    assert captured.err == f"lds: 1 of 2 runs failed; {ledger} has the tracebacks, and --retry-failed repeats them\n"
    assert captured.out.splitlines()[1].split() == ["wine", "lds", "-", "-", "0", "1"]
    assert not list(tmp_path.rglob("predictions.npy"))


@linux
def test_a_full_disk(spec, capsys, monkeypatch):
    def fsync(descriptor):
        if os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")) == "results.jsonl":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", fsync)
    assert run("sweep", spec, "--jobs", "1") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lds: error: ")
    assert "results.jsonl cannot be written: No space left on device; what was saved before is whole" in captured.err
    assert captured.err.count("\n") == 1
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    assert run("sweep", spec, "--jobs", "1") == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "spec"),
        (["absent.yaml"], "absent.yaml cannot be read"),
        (["spec.yaml", "--jobs", "0"], "jobs must be at least 1, got 0"),
        (["spec.yaml", "--threads", "0"], "threads must be at least 1, got 0"),
        (["spec.yaml", "--address", "auto"], "--address belongs to --engine ray"),
        (["spec.yaml", "--engine", "cloud"], "engine"),
        (["spec.yaml", "--keep", "some"], "keep"),
    ],
)
def test_refused(spec, tmp_path, capsys, argv, message):
    check_refused(capsys, tmp_path / "runs", "sweep", *argv, message=message)


def test_help(capsys):
    assert run("sweep", "--help") == 0
    assert "--retry-failed" in capsys.readouterr().out
