"""A run folder: nothing before there is something to say, every file whole or not there."""

import json
from types import SimpleNamespace

import pytest
import yaml

from lds._files import write_atomically
from lds.errors import InputError
from lds.learner import EpochRecord, FixedGraphLearner, StepRecord
from lds.run._folder import RunFolder
from tests.learner.problems import blocks

STEP = StepRecord(1, 1, 0.5, 0.25, 10.0)
EPOCH = EpochRecord(1, 3, 0.5, 0.75, 0.1, 10.0, improved=True)


def test_nothing_is_there_before_the_first_record(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b", {"tau": 5})
    assert not (tmp_path / "a").exists()
    folder.on_step(STEP)
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["config.yaml"]
    assert yaml.safe_load((tmp_path / "a" / "b" / "config.yaml").read_text()) == {"tau": 5}


def test_an_epoch_is_a_line(tmp_path):
    folder = RunFolder(tmp_path / "run", {})
    folder.on_epoch(EPOCH)
    folder.on_epoch(EPOCH)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["es_accuracy"] for line in lines] == [0.75, 0.75]


def test_an_empty_folder_will_do(tmp_path):
    folder = RunFolder(tmp_path, {})
    folder.on_step(STEP)
    assert (tmp_path / "config.yaml").exists()


def test_a_write_that_fails_leaves_no_file(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path, {})
    folder.on_step(STEP)
    fit = FixedGraphLearner(steps=10).fit(blocks())

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        folder.finish(fit, {})
    assert not (tmp_path / "checkpoint.pt").exists()
    assert not (tmp_path / "result.json").exists()


def test_the_result_comes_last(tmp_path, monkeypatch):
    """A folder with a result.json is a finished run."""
    order = []

    def spy(path, content):
        order.append(path.name)
        write_atomically(path, content)

    monkeypatch.setattr("lds.run._folder.write_atomically", spy)
    folder = RunFolder(tmp_path, {})
    folder.on_epoch(EPOCH)
    folder.finish(FixedGraphLearner(steps=10).fit(blocks()), {"seed": 1}, ["a", "é"])
    last = ["config.yaml", "metrics.jsonl", "checkpoint.pt", "graph.npz", "node_names.json", "result.json"]
    assert order == ["config.yaml", *last]
    assert (tmp_path / "node_names.json").read_text(encoding="utf-8") == '["a", "é"]\n'
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("change", ["removed", "edited"])
def test_what_became_of_files_in_between_is_mended(tmp_path, change):
    folder = RunFolder(tmp_path / "run", {"tau": 5})
    fit = FixedGraphLearner(steps=10).fit(blocks(), callbacks=[folder])
    files = [tmp_path / "run" / name for name in ("config.yaml", "metrics.jsonl")]
    before = [file.read_text() for file in files]
    for file in files:
        if change == "removed":
            file.unlink()
        else:
            file.write_text("x")
    folder.finish(fit, {})
    assert [file.read_text() for file in files] == before


def test_a_result_stands_where_older_files_cannot_be_removed(tmp_path, monkeypatch):
    def refuse(self, missing_ok=False):
        raise PermissionError(1, "Operation not permitted")

    folder = RunFolder(tmp_path, {})
    folder.on_step(STEP)
    (tmp_path / "progress.pt").write_bytes(b"x")
    fit = FixedGraphLearner(steps=10).fit(blocks())
    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    folder.finish(fit, {"seed": 1})
    assert json.loads((tmp_path / "result.json").read_text())["seed"] == 1


@pytest.mark.parametrize("case", ["taken", "a file", "below a file", "too long", "read-only"])
def test_folders_that_will_not_do(tmp_path, case, monkeypatch):
    (tmp_path / "file").write_text("x")
    path = {
        "taken": tmp_path,
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "a" / "b",
        "too long": tmp_path / ("a" * 300),
        "read-only": tmp_path / "new",
    }[case]
    if case == "read-only":  # The user of the tests may be one who can write anywhere.
        monkeypatch.setattr("lds.run._folder.os", SimpleNamespace(access=lambda *args: False, W_OK=2))
    with pytest.raises(InputError, match="choose another --out") as error:
        RunFolder(path, {})
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
