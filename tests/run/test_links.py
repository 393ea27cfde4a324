"""A folder from elsewhere: what it links to is neither read nor written, and a FIFO or a device is not waited for."""

import json
import os
import shutil
import sys

import pytest

from lds._files import append, read_file, write_atomically
from lds.cli import main
from lds.errors import StorageError
from lds.run import TrainConfig, resume, train
from lds.sweep import ProcessEngine, Spec, run_sweep

CONFIG = TrainConfig("wine", "knn-gcn", k=3, hidden=2)
FILES = ("config.yaml", "result.json", "metrics.jsonl", "checkpoint.pt", "graph.npz")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="makes links and FIFOs")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("links")
    train(CONFIG, root / "run", progress=False)
    return root / "run"


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


@pytest.fixture
def profile(tmp_path):
    """A file of the user that is none of a folder's business."""
    path = tmp_path / "home" / "profile"
    path.parent.mkdir()
    path.write_text("# mine\n")
    return path


def command(*argv):
    try:
        return main([str(arg) for arg in argv])
    except SystemExit as stop:
        return stop.code


def test_a_temporary_file_that_is_a_link(run, profile):
    for name in ("learned_graph.csv", "report.html"):
        (run / f".{name}.tmp").symlink_to(profile)
    assert command("export", run, "--format", "csv") == 0
    assert command("report", run) == 0
    assert profile.read_text() == "# mine\n"
    assert not list(run.glob(".*.tmp"))
    assert not (run / "learned_graph.csv").is_symlink()


def test_a_target_that_is_a_link_is_replaced(run, profile):
    (run / "report.html").symlink_to(profile)
    assert command("report", run) == 0
    assert profile.read_text() == "# mine\n"
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_a_link(run, profile, name, capsys):
    (run / name).rename(profile.parent / name)
    (run / name).symlink_to(profile.parent / name)
    for argv in (["train", "--resume", run], ["export", run, "--out", run / "g"], ["report", run]):
        assert command(*argv) == 2
        error = capsys.readouterr().err
        assert "it is a link, and what it leads to is left alone" in error
        assert error.count("\n") == 1


def test_a_run_that_goes_on_writes_through_no_link(run, profile, capsys):
    (run / "result.json").unlink()
    for name in ("metrics.jsonl", ".metrics.jsonl.tmp", ".checkpoint.pt.tmp", ".result.json.tmp"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(profile)
    resume(run, progress=False)
    assert profile.read_text() == "# mine\n"
    assert json.loads((run / "result.json").read_text())["method"] == "knn-gcn"


def test_lines_are_not_appended_through_a_link(tmp_path, profile):
    (tmp_path / "metrics.jsonl").symlink_to(profile)
    with pytest.raises(StorageError, match="cannot be written: it is a link"):
        append(tmp_path / "metrics.jsonl", "x")
    assert profile.read_text() == "# mine\n"


def test_a_lock_that_is_a_link(run, profile, capsys):
    (run / "result.json").unlink()
    (run.parent / ".run.lock").symlink_to(profile)
    assert command("train", "--resume", run) == 2
    assert "cannot be locked: it is a link" in capsys.readouterr().err
    assert profile.read_text() == "# mine\n"


@pytest.mark.parametrize("linked", ["runs", "run"])
def test_folders_of_a_sweep_that_are_links(tmp_path, profile, linked, capsys):
    spec = {"name": "one", "runs": [{"dataset": "wine", "method": "logreg"}]}
    out = tmp_path / "sweep"
    run_sweep(Spec.make(spec), out, ProcessEngine(1), progress=False)
    folder = out / "runs" if linked == "runs" else next((out / "runs").iterdir())
    folder.rename(profile.parent / "moved")
    folder.symlink_to(profile.parent / "moved")
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    for argv in (["report", out], ["sweep", tmp_path / "spec.yaml", "--out", out]):
        assert command(*argv) == 2
        assert f"{folder} must be a folder, but is a link, which is not followed" in capsys.readouterr().err


def test_event_files_are_not_written_through_a_link(tmp_path, profile):
    pytest.importorskip("tensorboard")
    from lds.learner import StepRecord
    from lds.run._tensorboard import TensorBoard

    (tmp_path / "tensorboard").symlink_to(profile.parent)
    callback = TensorBoard(tmp_path / "tensorboard")
    callback.on_start((), 0)
    with pytest.raises(ValueError, match="must be a folder, but is a link"):
        callback.on_step(StepRecord(1, 1, 0.5, 0.25, 10.0))
    assert [path.name for path in profile.parent.iterdir()] == ["profile"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_no_ordinary_file(run, name, kind, capsys):
    (run / name).unlink()
    if kind == "fifo":
        os.mkfifo(run / name)
    else:
        try:
            os.mknod(run / name, 0o20666, os.makedev(1, 5))  # /dev/zero
        except PermissionError:
            pytest.skip("needs the right to make devices")
    for argv in (["train", "--resume", run], ["export", run, "--out", run / "g"], ["report", run]):
        assert command(*argv) == 2
        assert "it is a FIFO, a socket or a device, and no ordinary file" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [
    ["train", "--data", "it.csv", "--out", "o"], ["train", "--data", "it.npz", "--out", "o"],
    ["train", "--data", "it.pt", "--out", "o"], ["train", "--config", "it", "--out", "o"], ["sweep", "it"],
])  # fmt: skip
def test_a_fifo_in_place_of_a_users_file(tmp_path, monkeypatch, argv, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkfifo(next(arg for arg in argv if arg.startswith("it")))
    assert command(*argv) == 2
    assert "it is a FIFO, a socket or a device, and no ordinary file" in capsys.readouterr().err


def test_a_users_own_file_may_be_a_link(tmp_path, profile):
    (tmp_path / "link").symlink_to(profile)
    assert read_file(tmp_path / "link", links=True) == b"# mine\n"
    with pytest.raises(OSError, match="it is a link"):
        read_file(tmp_path / "link")


def test_no_device_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "it")
    with pytest.raises(StorageError, match="it is a FIFO"):
        write_atomically(tmp_path / "it", b"x")
