"""The ledger, and what makes a run the same run."""

import errno
import json
import os
import subprocess
from io import FileIO

import pytest

from lds.errors import InputError, StorageError
from lds.run import BaselineConfig, TrainConfig
from lds.sweep import Outcome, read_results
from lds.sweep._ledger import Ledger
from lds.sweep._spec import folder_name, identity, key

FIRST = Outcome({"dataset": "wine", "method": "gcn", "seed": 0}, "done", {"test_accuracy": 0.5})
SECOND = Outcome({"dataset": "wine", "method": "gcn", "seed": 1}, "failed", error={"type": "E", "message": "θ"})

THIRD = Outcome({"dataset": "wine", "method": "gcn", "seed": 2}, "done", {"test_accuracy": 0.25})


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "results.jsonl"
    with Ledger(path) as ledger:
        ledger.append(FIRST)
        ledger.append(SECOND)
    return path


def test_what_is_written_is_read(path):
    assert read_results(path) == read_results(path.parent) == [FIRST, SECOND]
    with Ledger(path) as ledger:
        assert ledger.outcomes == {FIRST.key: FIRST, SECOND.key: SECOND}


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_torn_last_line_is_dropped_and_repaired(path, cut):
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert read_results(path) == [FIRST]
    with Ledger(path) as ledger:
        assert list(ledger.outcomes.values()) == [FIRST]
        ledger.append(SECOND)
    assert path.read_bytes() == whole


def test_the_last_word_on_a_run_counts(path):
    done = Outcome(SECOND.config, "done", {"test_accuracy": 1.0})
    with Ledger(path) as ledger:
        ledger.append(done)
    assert read_results(path) == [FIRST, done]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "3",
        "{}",
        '{"config": {}, "status": "done", "result": {}}',
        json.dumps({"config": FIRST.config, "status": "x"}),
        json.dumps({"config": FIRST.config, "status": "done", "result": None}),
    ],
)
def test_a_damaged_line(path, line):
    path.write_text(line + "\n" + path.read_text())
    with pytest.raises(InputError, match=r"line 1 of .*results\.jsonl must be the outcome of a run"):
        read_results(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="take the line out"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_bug_of_ours_is_no_damaged_line(path, monkeypatch):
    def bug(result, where):
        return result.gte("test_accuracy")

    monkeypatch.setattr("lds.sweep._ledger.check_result", bug)
    for read in (read_results, Ledger):
        with pytest.raises(AttributeError, match="gte"):
            read(path)


def test_one_process_at_a_time(path):
    with Ledger(path), pytest.raises(InputError, match="no other process runs"):
        Ledger(path)
    Ledger(path).__exit__(None, None, None)


class FullFile(FileIO):
    """The file of a disk with room for so many bytes more."""

    def __init__(self, path, room):
        super().__init__(path, "a+b")
        self.room = room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = super().write(data[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("room", [0, 1, 40])
def test_a_full_disk(path, room):
    """A line is there as a whole or not at all, and the ledger can be gone on with."""
    before = path.read_bytes()
    with Ledger(path) as ledger:
        ledger._file.close()
        ledger._file = FullFile(path, room)
        with pytest.raises(StorageError, match=r"results\.jsonl cannot be written: No space left on device; .*make"):
            ledger.append(THIRD)
        assert path.read_bytes() == before
        assert THIRD.key not in ledger.outcomes
        ledger._file.room = 1000
        ledger.append(THIRD)
    assert read_results(path) == [FIRST, SECOND, THIRD]


def test_a_line_that_is_taken_in_parts(path, monkeypatch):
    with Ledger(path) as ledger:
        ledger._file.close()
        ledger._file = FullFile(path, 10**6)
        monkeypatch.setattr(FullFile, "write", lambda file, data: FileIO.write(file, data[:7]))
        ledger.append(THIRD)
        ledger.append(FIRST)
    assert read_results(path) == [FIRST, SECOND, THIRD]


def fill(ledger):
    for seed in range(1000):
        ledger.append(Outcome(dict(FIRST.config, seed=seed), "done", {"test_accuracy": 0.5}))


def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        with Ledger(disk / "results.jsonl") as ledger, pytest.raises(StorageError, match="No space left on device"):
            fill(ledger)
        read = read_results(disk)
        assert [outcome.config["seed"] for outcome in read] == list(range(len(read)))
        assert len(read) > 50
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_ledger_that_cannot_be_opened(tmp_path):
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(InputError, match=r"results\.jsonl cannot be written: Is a directory; .*choose another --out"):
        Ledger(tmp_path / "results.jsonl")


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="give the folder of a sweep or its ledger"):
        read_results(tmp_path)


class TestIdentity:
    def test_defaults_are_left_out(self):
        assert identity(TrainConfig("wine", "knn-lds", tau=5, k=11, data_root="x")) == {
            "dataset": "wine", "method": "knn-lds", "k": 11, "seed": 0,
        }  # fmt: skip
        assert identity(BaselineConfig("wine", "svm", C=2.0, seed=3)) == {
            "dataset": "wine", "method": "svm", "C": 2.0, "seed": 3,
        }  # fmt: skip

    def test_order_plays_no_part(self):
        assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1}) == '{"a":1,"b":2}'

    def test_folder_names(self):
        """Fixed: a finished run is looked for under its name by later versions, too."""
        assert folder_name(identity(TrainConfig("wine", "knn-lds"))) == "wine-knn-lds-07116d1c04"
        assert folder_name({"dataset": "../a b.npz", "method": "svm", "seed": 0}).startswith("_a_b_npz-svm-")
        names = {folder_name(identity(TrainConfig("wine", "knn-lds", seed=seed))) for seed in range(1000)}
        assert len(names) == 1000
