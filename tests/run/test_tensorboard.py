"""Event files, read back with TensorBoard's own reader."""

import shutil
import sys

import pytest

from lds.cli import main
from lds.errors import InputError, StorageError
from lds.learner import Callback, StructureLearner
from lds.run import TrainConfig, resume, train
from lds.run._tensorboard import TensorBoard
from tests.learner.problems import Recorder, blocks
from tests.run.test_folder import EPOCH, STEP

STEPS = {"step/inner_loss", "step/outer_loss", "step/expected_edges"}
EPOCHS = {"epoch/inner_loss", "epoch/es_accuracy", "epoch/es_loss", "epoch/expected_edges"}
SHORT = TrainConfig("wine", "knn-gcn", seed=3)
# Two epochs of three outer steps.
LEARNER = StructureLearner(tau=2, inner_steps=6, inner_patience=99, max_epochs=2, samples=2)


class CutOff(Callback):
    """Keeps where learning stands at one of the moments it could be resumed from, and raises at a later one."""

    def __init__(self, keep, stop):
        self.keep, self.stop, self.moments, self.kept = keep, stop, 0, None

    def on_resumable(self, dump):
        self.moments += 1
        if self.moments == self.keep:
            # A file would hold a copy: θ changes in place.
            self.kept = {name: value.clone() if name == "theta" else value for name, value in dump().items()}
        if self.moments == self.stop:
            raise KeyboardInterrupt


def curves(folder):
    """(index, value) pairs by tag."""
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed; pip install '.[tensorboard]'",
    )
    found = {}
    for run in folder.iterdir():
        events = reader.EventAccumulator(str(run), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            assert tag not in found
            found[tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    return found


def board(folder):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; pip install '.[tensorboard]'")
    return TensorBoard(folder)


def test_every_step_and_epoch(tmp_path):
    recorder = Recorder()
    LEARNER.fit(blocks(), callbacks=[board(tmp_path), recorder])
    found = curves(tmp_path)
    assert found.keys() == STEPS | EPOCHS
    for tag, points in found.items():
        group, name = tag.split("/")
        index, records = ("outer_step", recorder.steps) if group == "step" else ("epoch", recorder.epochs)
        assert [point[0] for point in points] == [getattr(record, index) for record in records]
        # Event files hold single precision.
        assert [point[1] for point in points] == pytest.approx([getattr(r, name) for r in records], rel=1e-6)


def test_losses_that_are_not_evaluated(tmp_path):
    StructureLearner(tau=2, inner_steps=2, max_epochs=1, learn_structure=False).fit(
        blocks(), callbacks=[board(tmp_path)]
    )
    assert curves(tmp_path).keys() == (STEPS | EPOCHS) - {"step/outer_loss"}


@pytest.mark.parametrize(("keep", "stop"), [(1, 2), (3, 4), (3, 6), (4, 7)])
def test_a_training_that_goes_on(tmp_path, keep, stop):
    """From an old moment, the third of them right before an evaluation: what came after is told twice, shown once."""
    LEARNER.fit(blocks(), callbacks=[board(tmp_path / "whole")])
    cut = CutOff(keep, stop)
    with pytest.raises(KeyboardInterrupt):
        LEARNER.fit(blocks(), callbacks=[board(tmp_path / "cut"), cut])
    LEARNER.fit(blocks(), callbacks=[board(tmp_path / "cut")], resume=cut.kept)
    assert len(list((tmp_path / "cut" / "steps").iterdir())) == 2
    assert curves(tmp_path / "cut") == curves(tmp_path / "whole")


def test_what_was_reported_before_a_moment_to_resume_from_is_on_disk(tmp_path):
    class Reader(Callback):
        def on_resumable(self, dump):
            found.append(len(curves(tmp_path)["step/inner_loss"]))

    found = []
    LEARNER.fit(blocks(), callbacks=[board(tmp_path), Reader()])
    assert found == [1, 2, 3, 3, 4, 5, 6, 6]


def test_a_run_that_starts_again(tmp_path):
    """Nothing was saved: all that was written before is hidden."""
    folder = tmp_path / "run"
    first = board(folder / "tensorboard")
    first.on_start((), 0)
    first.on_step(STEP)
    first.on_epoch(EPOCH)
    first.on_epoch(EPOCH)
    first.on_end()
    train(SHORT, tmp_path / "other", progress=False, log="tensorboard")
    (folder / "config.yaml").write_text((tmp_path / "other" / "config.yaml").read_text())
    resume(folder, progress=False)
    expected = curves(tmp_path / "other" / "tensorboard")
    assert expected.keys() == EPOCHS
    found = curves(folder / "tensorboard")
    assert {tag: found[tag] for tag in EPOCHS} == expected


def test_nothing_without_being_asked_for(tmp_path):
    train(SHORT, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_the_command(tmp_path, capsys):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; pip install '.[tensorboard]'")
    options = ["--dataset", "wine", "--method", "knn-gcn", "--log", "tensorboard", "--out", str(tmp_path / "run")]
    assert main(["train", *options]) == 0
    assert curves(tmp_path / "run" / "tensorboard").keys() == EPOCHS
    assert main(["train", "--resume", str(tmp_path / "run"), "--log", "tensorboard"]) == 2
    assert "but --log came with it" in capsys.readouterr().err


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(InputError, match=r"needs tensorboard, which is not here; pip install 'lds-gnn\[tensorboard\]'"):
        train(SHORT, tmp_path / "run", progress=False, log="tensorboard")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_vanishes(tmp_path):
    """Nor does a thread say so by a traceback, which would be a warning here."""
    writer = board(tmp_path / "run")
    writer.on_start((), 0)
    writer.on_step(STEP)
    writer.on_resumable(dict)
    shutil.rmtree(tmp_path / "run")
    for tell in (lambda: writer.on_step(STEP), lambda: writer.on_resumable(dict)):
        with pytest.raises(StorageError, match="cannot be written: No such file or directory; make room or"):
            tell()
        writer.on_end()
        writer.on_epoch(EPOCH)
        writer.on_resumable(dict)
        shutil.rmtree(tmp_path / "run")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    blocked = board(tmp_path / "file")
    blocked.on_start((), 0)
    with pytest.raises(StorageError, match="cannot be written: Not a directory; make room or give the rights"):
        blocked.on_step(STEP)
