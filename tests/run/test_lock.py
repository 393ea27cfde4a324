"""One process at a time in a run folder."""

import os
import pathlib
import subprocess
import sys

import pytest

from lds._files import alone, lock
from lds.errors import InputError, StorageError
from lds.run import TrainConfig, train_once

CONFIG = TrainConfig("wine", "knn-gcn", seed=3)
HOLD = "import sys, pathlib; from lds._files import alone\nwith alone(pathlib.Path(sys.argv[1])): print(flush=True); "


def hold(folder, then):
    """A process that holds the folder, then does something."""
    process = subprocess.Popen([sys.executable, "-c", HOLD + then, folder], stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def test_another_process_is_at_work(tmp_path, monkeypatch):
    monkeypatch.setattr("lds._files.PATIENCE_SECONDS", 0.1)
    with hold(tmp_path / "run", "import time; time.sleep(600)") as other:
        with pytest.raises(InputError, match="no other process works in, but one does"):
            train_once(CONFIG, tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()
        other.kill()
    # A lock goes with its process, however that ends; the file that it left is no hindrance.
    train_once(CONFIG, tmp_path / "run", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_one_that_is_ending_is_waited_for(tmp_path):
    with hold(tmp_path / "run", "import time; time.sleep(0.5)"):
        train_once(CONFIG, tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "result.json").exists()


def test_a_lock_on_a_file_that_is_gone_is_none(tmp_path, monkeypatch):
    """Between opening and locking, the one before may have removed the file."""
    path = tmp_path / ".run.lock"
    removed = []

    def remove_and_lock(descriptor):
        if not removed:
            removed.append(path.unlink())
        return lock(descriptor)

    monkeypatch.setattr("lds._files.lock", remove_and_lock)
    with alone(tmp_path / "run"):
        assert removed
        descriptor = os.open(path, os.O_RDWR)
        assert not lock(descriptor)
        os.close(descriptor)
    assert not path.exists()


def test_a_lock_file_that_cannot_be_removed(tmp_path, monkeypatch):
    """As in a folder that turned read-only: what happened inside is told, and the lock is let go."""

    def refuse(self, missing_ok=False):
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "unlink", refuse)
        with pytest.raises(StorageError, match="no room"), alone(tmp_path / "run"):
            raise StorageError("no room")
    monkeypatch.setattr("lds._files.PATIENCE_SECONDS", 0.0)
    with alone(tmp_path / "run"):
        pass


def test_a_place_that_cannot_be(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InputError, match=r"cannot be (made|locked)"):
        train_once(CONFIG, tmp_path / "mine" / "run", progress=False)


def test_cut_off_in_its_first_file(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.yaml.tmp").write_text("datas")
    train_once(CONFIG, tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "result.json").exists()


def test_the_data_may_lie_somewhere_else(tmp_path):
    first = train_once(CONFIG, tmp_path / "run", progress=False)
    moved = TrainConfig("wine", "knn-gcn", seed=3, data_root=str(tmp_path))
    assert train_once(moved, tmp_path / "run", progress=False) == first
