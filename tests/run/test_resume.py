"""Runs that are cut off, at any moment, and gone on with: the same bits, no file that cannot be read."""

import errno
import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace

import pytest
import torch
import yaml

import lds
from lds._signals import Interrupted
from lds.cli import main
from lds.errors import DataError, InputError, StorageError
from lds.run import TrainConfig, load_data, resume, train
from lds.run._data import fingerprint
from lds.run._saving import ProgressSaver, read_progress
from tests.learner.problems import blocks

CONFIG = TrainConfig("wine", "knn-lds", max_epochs=3, samples=2, k=3, hidden=4, seed=2)
COMMAND = [sys.executable, "-m", "lds", "train", "--progress", "false"]
OPTIONS = ["--dataset", "wine", "--method", "knn-lds", "--max-epochs", "3", "--samples", "2", "--k", "3"]
OPTIONS += ["--hidden", "4", "--seed", "2"]


def run(*argv):
    try:
        return main([str(arg) for arg in argv])
    except SystemExit as stop:
        return stop.code


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(CONFIG, folder, progress=False)
    return folder


def same(folder, whole):
    """The same files, and the same bits in all that training decides."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())
    first, second = (torch.load(path / "checkpoint.pt", weights_only=True) for path in (folder, whole))
    assert torch.equal(first["theta"], second["theta"])
    assert torch.equal(first["logits"], second["logits"])
    assert all(torch.equal(first["params"][name], second["params"][name]) for name in second["params"])
    assert (folder / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    results = [json.loads((path / "result.json").read_text()) for path in (folder, whole)]
    for result in results:
        del result["seconds"], result["peak_rss_mb"], result["sums"]["result.json"]
    assert results[0] == results[1]


class Interrupting(ProgressSaver):
    """Asks to stop after so many calls."""

    calls = 0
    stop_after = 0

    def on_resumable(self, dump):
        Interrupting.calls += 1
        if Interrupting.calls == Interrupting.stop_after:
            self._request.number = signal.SIGTERM
        super().on_resumable(dump)


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """A run that was asked to stop after the n-th outer step."""

    def begin(stop_after):
        Interrupting.calls, Interrupting.stop_after = 0, stop_after
        with monkeypatch.context() as patch:
            patch.setattr("lds.run._saving.ProgressSaver", Interrupting)
            with pytest.raises(Interrupted, match=r"stopped by SIGTERM; lds train --resume .* goes on from here"):
                train(CONFIG, tmp_path / "run", progress=False)
        return tmp_path / "run"

    return begin


@pytest.mark.parametrize("stop_after", [1, 7, 85])
def test_the_same_bits(interrupted, whole, stop_after):
    folder = interrupted(stop_after)
    assert not (folder / "result.json").exists()
    resume(folder, progress=False)
    same(folder, whole)


def test_time_adds_up(interrupted):
    folder = interrupted(20)
    saved = torch.load(folder / "progress.pt", weights_only=True)
    progress = saved | {"seconds": 1000.0}
    torch.save(progress, folder / "progress.pt")
    assert 1000 < resume(folder, progress=False)["seconds"] < 1600


def test_lines_of_epochs_that_run_again_are_dropped(interrupted, whole):
    folder = interrupted(85)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 99}\n{"torn')
    resume(folder, progress=False)
    same(folder, whole)


def test_a_run_that_has_ended(whole, monkeypatch):
    monkeypatch.setattr("lds.run._train._run", lambda *args, **kwargs: pytest.fail("ran again"))
    assert resume(whole) == json.loads((whole / "result.json").read_text())


def test_nothing_was_saved(tmp_path, whole):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text((whole / "config.yaml").read_text())
    resume(tmp_path / "run", progress=False)
    same(tmp_path / "run", whole)


def kill_and_resume(folder, options, kills, seed):
    """Start the run, SIGKILL it so many times at random moments, then let it end; return the kills that hit it."""
    draws, hits = random.Random(seed), 0
    command = [*COMMAND, *OPTIONS, *options, "--out", str(folder)]
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while not (folder / "config.yaml").exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if (folder / "config.yaml").exists():
            command = [*COMMAND, "--resume", str(folder)]
            before = (folder / "progress.pt").stat().st_mtime_ns if (folder / "progress.pt").exists() else None
            # Until it is at work again, then a little longer.
            while process.poll() is None and time.monotonic() < deadline:
                path = folder / "progress.pt"
                if path.exists() and path.stat().st_mtime_ns != before:
                    break
                time.sleep(0.01)
            time.sleep(draws.random() * 0.5)
        hits += process.poll() is None
        process.kill()
        process.wait()
        if (folder / "progress.pt").exists():
            torch.load(folder / "progress.pt", weights_only=True)
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return hits


def test_killed_at_random(tmp_path):
    """LDS_KILLS=30 for the long drill."""
    kills = int(os.environ.get("LDS_KILLS", "3"))
    # An epoch takes longer than a kill is away: every one hits a run that still goes on.
    epochs = kills + 2
    train(replace(CONFIG, max_epochs=epochs, patience=epochs), tmp_path / "whole", progress=False)
    options = ["--max-epochs", str(epochs), "--patience", str(epochs)]
    assert kill_and_resume(tmp_path / "run", options, kills, seed=0) == kills
    same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(tmp_path, whole, number, code):
    folder = tmp_path / "run"
    process = subprocess.Popen([*COMMAND, *OPTIONS, "--out", str(folder)], stderr=subprocess.PIPE, text=True)
    while not (folder / "progress.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate()
    assert process.returncode == code
    assert error == f"lds: stopped by {number.name}; lds train --resume {folder} goes on from here\n"
    assert run("train", "--resume", folder, "--progress", "false") == 0
    same(folder, whole)


class TestDamage:
    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
    def test_a_part_of_the_file(self, interrupted, share):
        folder = interrupted(5)
        content = (folder / "progress.pt").read_bytes()
        (folder / "progress.pt").write_bytes(content[: int(share * len(content))])
        with pytest.raises(DataError, match=r"progress.pt must be what a run saved, but is damaged: .+; remove it"):
            resume(folder, progress=False)

    def test_code_is_not_run(self, interrupted, tmp_path):
        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "evil"),)

        folder = interrupted(5)
        for content in (pickle.dumps(Evil()), None):
            if content is None:
                torch.save({"format": 1, "progress": Evil()}, folder / "progress.pt")
            else:
                (folder / "progress.pt").write_bytes(content)
            with pytest.raises(DataError, match="is damaged"):
                resume(folder, progress=False)
        assert not (tmp_path / "evil").exists()

    def test_parts_that_do_not_fit(self, interrupted):
        folder = interrupted(5)
        saved = torch.load(folder / "progress.pt", weights_only=True)
        for change in ({"progress": {"history": []}}, {"progress": {**saved["progress"], "theta": torch.zeros(2)}}):
            torch.save(saved | change, folder / "progress.pt")
            with pytest.raises(InputError, match="must be that of the same learner"):
                resume(folder, progress=False)

    @pytest.mark.parametrize(
        "saved", [{"format": 1}, [1, 2], 7, {"format": 1, "version": 2, "data": 3, "seconds": 4, "progress": 5}]
    )
    def test_another_content(self, interrupted, saved):
        folder = interrupted(5)
        torch.save(saved, folder / "progress.pt")
        with pytest.raises(InputError):
            resume(folder, progress=False)

    def test_what_digits_depend_on(self, interrupted):
        folder = interrupted(5)
        saved = torch.load(folder / "progress.pt", weights_only=True)
        again = "or remove the file, and the run starts anew"
        for change, message in (
            ({"format": 1}, f"by another version of lds than this one, {re.escape(lds.__version__)}, {again}"),
            ({"versions": saved["versions"] | {"lds": "0.0.7"}}, r"with lds '0\.0\.7', but this is lds"),
            ({"versions": saved["versions"] | {"torch": "1.9"}}, r"with torch '1\.9', .*resume with that version"),
            ({"versions": {}}, "with lds None, but this is lds"),
            ({"threads": 7}, f"a run of 7 threads, but this one has 1, .*set OMP_NUM_THREADS=7, .*, {again}"),
        ):
            torch.save(saved | change, folder / "progress.pt")
            with pytest.raises(InputError, match=rf"progress\.pt was saved .*{message}"):
                resume(folder, progress=False)

    def test_another_data_set(self, interrupted, monkeypatch):
        folder = interrupted(5)
        monkeypatch.setattr("lds.run._train.load_data", lambda config: load_data(replace(config, seed=3)))
        with pytest.raises(InputError, match="was saved for other data"):
            resume(folder, progress=False)

    def test_an_edited_configuration(self, interrupted, monkeypatch):
        folder = interrupted(5)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        for field, value in {"outer_lr": 0.5, "tau": 7, "weight_decay": 1, "seed": 3, "max_epochs": None}.items():
            (folder / "config.yaml").write_text(yaml.safe_dump(config | {field: value}))
            message = rf"was saved with {field} {config[field]}, but config\.yaml says {value}.*; put it back"
            with pytest.raises(InputError, match=message):
                resume(folder, progress=False)
        saved = torch.load(folder / "progress.pt", weights_only=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        torch.save(saved | {"config": saved["config"] | {"tau": torch.ones(2)}}, folder / "progress.pt")
        with pytest.raises(InputError, match="is damaged: config holds more than numbers and texts"):
            resume(folder, progress=False)

    @pytest.mark.parametrize("ours", ["lds._read.check_unpacked", "lds.run._saving._Saved", "lds.run._data._parts"])
    def test_a_fault_of_our_own_is_no_damage(self, interrupted, monkeypatch, ours):
        folder = interrupted(5)
        monkeypatch.setattr(ours, lambda *_, **__: folder.no_such_name)
        with pytest.raises(AttributeError, match="no_such_name"):
            read_progress(folder, CONFIG.as_dict(), load_data(CONFIG))

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (OSError(errno.EIO, "Input/output error"), "Input/output error"),
            (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
            (MemoryError(), "Cannot allocate memory"),
        ],
    )
    def test_a_file_that_cannot_be_read_now(self, interrupted, monkeypatch, error, reason):
        """It is no damage, and nobody is told to remove the file."""
        folder = interrupted(5)

        def fail(path):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr("lds._read.read_file", fail)
            with pytest.raises(DataError, match=rf"cannot be read: {reason}; check .*, and try again") as caught:
                resume(folder, progress=False)
        assert "remove" not in str(caught.value)

    @pytest.mark.parametrize("text", ["", "[1, 2]", "{dataset: wine, tau: x}", "a: b: c", "\x00"])
    def test_a_configuration_that_is_none(self, tmp_path, text):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(InputError, match=r"config\.yaml must be the configuration of a run"):
            resume(tmp_path)


class TestStorage:
    def test_a_full_disk(self, tmp_path, whole, monkeypatch):
        """The error is one line, what was saved before is whole, and the run goes on from there."""
        real, left = os.fsync, [8]

        def fsync(descriptor):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            with pytest.raises(
                StorageError, match=r"cannot be written: No space left on device; what was saved before"
            ):
                train(CONFIG, tmp_path / "run", progress=False)
        torch.load(tmp_path / "run" / "progress.pt", weights_only=True)
        assert not list((tmp_path / "run").glob(".*.tmp"))
        resume(tmp_path / "run", progress=False)
        same(tmp_path / "run", whole)

    def test_a_folder_that_vanishes(self, interrupted, monkeypatch, capsys):
        folder = interrupted(5)
        real = ProgressSaver.on_resumable

        def vanish(self, dump):
            folder.rename(folder.with_name("elsewhere"))
            self._due = 0
            real(self, dump)

        monkeypatch.setattr(ProgressSaver, "on_resumable", vanish)
        assert run("train", "--resume", folder, "--progress", "false") == 2
        error = capsys.readouterr().err
        assert "progress.pt cannot be written: No such file or directory" in error
        assert error.count("\n") == 1


def test_saving_costs_little(tmp_path, monkeypatch):
    """By the clock that the rule itself reads: after a save of 1 s, none for 50 s."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    saver = ProgressSaver(tmp_path, {}, blocks(), 0.0, type("Request", (), {"number": None})())
    saves = []

    def dump():
        saves.append(now[0])
        now[0] += 1.0
        return {}

    while now[0] < 200:
        saver.on_resumable(dump)
        now[0] += 0.1
    assert saves == pytest.approx([0, 51.0, 102.0, 153.0], abs=0.3)


def test_fingerprints_tell_data_apart():
    data = blocks()
    same_data, other = blocks(), blocks()
    other.val_mask, other.es_mask = other.es_mask, other.val_mask
    sparse = blocks()
    sparse.x = sparse.x.to_sparse()
    assert fingerprint(data) == fingerprint(same_data) == fingerprint(sparse)
    assert fingerprint(data) != fingerprint(other)


class TestCommand:
    def test_the_data_may_have_moved(self, interrupted, tmp_path, monkeypatch):
        folder = interrupted(5)
        configs = []

        def run_(config, folder, **_):
            configs.append(config)
            assert read_progress(folder.path, folder.config, load_data(config))[0] is not None
            return {"test_accuracy": 0.0, "outer_epochs": 0}

        monkeypatch.setattr("lds.run._train._run", run_)
        assert run("train", "--resume", folder, "--data-root", tmp_path / "moved") == 0
        assert configs == [replace(CONFIG, data_root=str(tmp_path / "moved"))]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--k", 4], "--resume takes everything from"),
            (["--out", "x"], "but --out came with it; drop one of them"),
            (["--dataset", "cora"], "but --dataset came with it"),
        ],
    )
    def test_other_options(self, whole, options, message, capsys):
        assert run("train", "--resume", whole, *options) == 2
        assert message in capsys.readouterr().err

    def test_no_run(self, tmp_path, capsys):
        assert run("train", "--resume", tmp_path / "nothing") == 2
        assert "must be the folder of a run, but" in capsys.readouterr().err
        assert not (tmp_path / "nothing").exists()

    def test_what_a_new_run_needs(self, capsys):
        assert run("train", "--out", "x") == 2
        assert "--dataset or --data is needed, or --resume with the folder of a run" in capsys.readouterr().err


def test_another_configuration(whole):
    with pytest.raises(InputError, match="holds a run of another configuration"):
        resume(whole, config=replace(CONFIG, k=4))


class TestALargeTheta:
    """Beyond 64 MiB the best θ is a member of the archive by itself."""

    @pytest.fixture
    def large(self, monkeypatch):
        monkeypatch.setattr("lds.learner._kept._IN_MEMORY", 0)

    def test_the_same_bits(self, large, interrupted, whole):
        folder = interrupted(85)
        with zipfile.ZipFile(folder / "progress.pt") as archive:
            assert "archive/best_theta" in archive.namelist()
        resume(folder, progress=False)
        same(folder, whole)

    def test_damage(self, large, interrupted):
        folder = interrupted(85)
        path = folder / "progress.pt"
        content = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            content[archive.getinfo("archive/best_theta").header_offset + 5000] ^= 1
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"best_theta in it differs from its checksum; remove it"):
            resume(folder, progress=False)

    @pytest.mark.parametrize("told", [{}, {"member": "data"}, {"numel": 7}, {"dtype": "int8"}, {"numel": "7"}])
    def test_another_content(self, large, interrupted, told):
        folder = interrupted(85)
        path = folder / "progress.pt"
        saved = torch.load(path, weights_only=True)
        theta = saved["progress"]["best"]["theta"]
        saved["progress"]["best"]["theta"] = {**theta, **told} if told else {}
        torch.save(saved, path)  # Without the member, too.
        with pytest.raises(DataError, match=r"must be what a run saved, but is damaged: the best θ is"):
            resume(folder, progress=False)
