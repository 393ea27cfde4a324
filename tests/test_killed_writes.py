"""Export, report, the ledger's append and an ablation's files, killed at every step of their writing."""

import json
import os
import shutil
import signal
import sys
import warnings
from functools import partial
from io import FileIO
from pathlib import Path

import pytest

from lds import _files
from lds.ablate._ablation_folder import read_ablation
from lds.cli import main
from lds.errors import UnverifiedWarning
from lds.run import TrainConfig, train
from lds.sweep import Outcome, read_results
from lds.sweep._ledger import Ledger
from tests.fuzz.records import goes_on_ablating

pytestmark = pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="forks")
MOST = 200


def _die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at(step, call):
    """Call in a child that is killed at a step of its writing, in the middle of it; tell whether it was."""
    child = os.fork()
    if child == 0:
        try:
            _kill_at(step)
            call()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def _kill_at(step):
    """Count what changes a file or a folder, and end there: before it is done, and for a write after a half of it."""
    seen = 0

    def counted(real, half=None):
        def call(*args, **kwargs):
            nonlocal seen
            seen += 1
            if seen == step:
                if half is not None:
                    half(*args)
                _die()
            return real(*args, **kwargs)

        return call

    def write_half(file, content):
        FileIO.write(file, bytes(content)[: len(content) // 2])

    class Counting(FileIO):
        write = counted(FileIO.write, write_half)

    real_fdopen = os.fdopen

    def fdopen(descriptor, mode="r", *args, **kwargs):
        if mode in ("wb", "a+b"):
            return Counting(descriptor, mode)
        return real_fdopen(descriptor, mode, *args, **kwargs)

    _files.os.fdopen = fdopen
    _files.os.fsync = counted(os.fsync)
    Path.replace = counted(Path.replace)
    Path.unlink = counted(Path.unlink)
    Path.mkdir = counted(Path.mkdir)


def all_steps(call, check):
    """Kill a call at its first step, its second and so on, until one ends by itself; check what is left each time."""
    step = 1
    while killed_at(step, call):
        check()
        step += 1
        assert step < MOST
    check()
    return step - 1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed") / "run"
    train(TrainConfig("wine", "knn-gcn", k=3, hidden=2), folder, progress=False)
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize("command", [["export", "--format", "csv"], ["report"]])
def test_export_and_report(run, tmp_path, command):
    """The file is what it was or what it will be, and the run is as it was."""
    folder, out = shutil.copytree(run, tmp_path / "run"), tmp_path / "file"
    options = [*command, str(folder), "--out", str(out), "--force"]
    assert main(options) == 0
    new, before = out.read_bytes(), content(folder)
    old = b"of an earlier day"

    def check():
        assert content(folder) == before
        assert out.read_bytes() in (old, new)
        out.write_bytes(old)

    out.write_bytes(old)
    assert all_steps(partial(main, options), check) >= 3
    assert main(options) == 0
    assert out.read_bytes() == new
    assert not list(tmp_path.glob(".*"))


def test_the_append_of_a_ledger(tmp_path):
    """What was there is there, whole, and the next append follows it."""
    path = tmp_path / "results.jsonl"
    outcomes = [
        Outcome({"dataset": "wine", "method": "gcn", "seed": seed}, "done", {"test_accuracy": 0.5}) for seed in range(3)
    ]
    with Ledger(path) as ledger:
        ledger.append(outcomes[0])
    first = path.read_bytes()

    def append(outcome):
        with Ledger(path) as ledger:
            ledger.append(outcome)

    def check():
        assert path.read_bytes().startswith(first)
        assert read_results(path) in ([outcomes[0]], outcomes[:2])
        append(outcomes[2])
        assert read_results(path) in ([outcomes[0], outcomes[2]], outcomes)
        path.write_bytes(first)

    assert all_steps(partial(append, outcomes[1]), check) >= 2


@pytest.mark.filterwarnings("ignore::lds.errors.UnverifiedWarning")
def test_the_files_of_an_ablation(tmp_path):
    """Whatever is left can be read or is gone on with, to the same files."""
    folder = tmp_path / "out"
    goes_on_ablating(folder)
    whole = content_below(folder)
    shutil.rmtree(folder)

    def check():
        if (folder / "ablation.yaml").exists():
            read_ablation(folder)
        goes_on_ablating(folder)
        assert content_below(folder) == whole
        shutil.rmtree(folder)

    assert all_steps(partial(goes_on_ablating, folder), check) >= 20


def content_below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_tables_of_an_ablation(tmp_path):
    """Files of two ablations are never taken for those of one without a word."""
    from lds.ablate import Ablation, Row
    from lds.hypergrad import TruncationCurve

    def ablation(shift):
        rows = tuple(Row(h, 1, 0.5 + shift + h / 100, 0.5 + shift, 1.0, 100.0) for h in (0, 5))
        return Ablation(rows, TruncationCurve([1.0, shift], [0.0, 1.0], [1.0, 1.0]))

    def seen():
        found = read_ablation(tmp_path)
        return found.outcome, json.dumps(found.recommendation)

    ablation(0.2).write(tmp_path)
    new = seen()
    ablation(0.1).write(tmp_path)
    old = seen()

    def check():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UnverifiedWarning)
            found = seen()
        told.append(bool(caught))
        assert told[-1] or found in (old, new)
        ablation(0.1).write(tmp_path)

    told = []
    assert all_steps(lambda: ablation(0.2).write(tmp_path), check) >= 6
    assert set(told) == {False, True}
