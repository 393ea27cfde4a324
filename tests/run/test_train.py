"""A whole run, from Python."""

import logging
from dataclasses import replace

import pytest
import torch

import lds
from lds._callbacks import FoldRecord
from lds.errors import DataError, InputError
from lds.run import TrainConfig, train, train_once
from lds.run._environment import peak_rss_mb
from lds.run._progress import ComparisonBar, ProgressBar
from tests.run.test_folder import EPOCH, STEP


def test_returns_what_the_result_holds(tmp_path):
    result = train(TrainConfig("wine", "knn-gcn", seed=3), tmp_path / "run", progress=False)
    assert 0.5 < result["test_accuracy"] <= 1
    assert result["seed"] == 3
    assert result["outer_epochs"] == 1
    assert result["es_loss"] > 0
    assert result["versions"]["lds"] == lds.__version__
    assert result["versions"]["torch"] == torch.__version__
    # More than an interpreter with torch, less than all memory: the unit is right.
    assert 50 < peak_rss_mb() < 50_000


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (TrainConfig("nope"), DataError),
        (TrainConfig("wine", "lds"), InputError),
        (TrainConfig("wine", "knn-gcn", k=178), InputError),
        (TrainConfig("wine", "knn-gcn", dropout=1.0), InputError),
        (TrainConfig("wine", "knn-lds", tau=0), InputError),
    ],
)
def test_bad_input_leaves_nothing_behind(tmp_path, capsys, config, error):
    with pytest.raises(error):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr() == ("", "")


def on_a_terminal(monkeypatch, columns):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))


class TestProgressBar:
    def test_shows_what_happens_on_a_terminal(self, capsys, monkeypatch):
        on_a_terminal(monkeypatch, 200)
        bar = ProgressBar("lds on wine", 400, 30, 4)
        bar.on_start((), 0)
        assert capsys.readouterr().err == ""
        for number in range(1, 15):
            bar.on_step(replace(STEP, epoch=1, outer_step=number))
        bar.on_epoch(replace(EPOCH, epoch=1))
        bar.on_step(replace(STEP, epoch=2, outer_step=15))
        bar.on_end()
        shown = capsys.readouterr().err
        lines = [line for line in shown.replace("\n", "\r").split("\r") if line.strip()]
        assert "lds on wine, epoch 1/4" in lines[0]
        # Whole windows: 14 of 30 steps.
        for part in ("lds on wine, epoch 2/4", "| 30/420", "loss 0.500, es 0.750"):
            assert part in lines[-1]
        assert max(map(len, lines)) < 80

    def test_fits_a_narrow_terminal_and_a_long_name(self, capsys, monkeypatch):
        on_a_terminal(monkeypatch, 60)
        bar = ProgressBar("knn-lds on " + 100 * "x", 400, 5, 1000)
        bar.on_start((EPOCH,), 3)
        bar.on_step(replace(STEP, epoch=1000, inner_loss=123456.0))
        bar.on_end()
        shown = capsys.readouterr().err.replace("\n", "\r").split("\r")
        assert max(map(len, shown)) < 60

    def test_a_line_an_epoch_where_there_is_no_terminal(self, caplog, capsys):
        caplog.set_level(logging.INFO, "lds.run")
        bar = ProgressBar("lds on wine", 400, 5)
        bar.on_step(STEP)
        bar.on_epoch(replace(EPOCH, improved=True))
        bar.on_epoch(replace(EPOCH, epoch=2, improved=False))
        bar.on_end()
        assert capsys.readouterr().err == ""
        assert [record.getMessage() for record in caplog.records] == [
            "epoch 1: inner loss 0.5000, early-stopping accuracy 0.7500, the best so far, 10 edges expected",
            "epoch 2: inner loss 0.5000, early-stopping accuracy 0.7500, 10 edges expected",
        ]

    def test_can_be_hidden(self, capsys, caplog, monkeypatch):
        """A tqdm has a semaphore, which a killed process would leave behind."""
        on_a_terminal(monkeypatch, 80)
        caplog.set_level(logging.INFO, "lds.run")
        monkeypatch.setattr("lds.run._progress.tqdm", lambda **_: pytest.fail("made one"))
        bar = ProgressBar("lds on wine", None, hide=True)
        bar.on_step(STEP)
        bar.on_epoch(EPOCH)
        bar.on_end()
        assert (capsys.readouterr().err, caplog.records) == ("", [])

    def test_may_end_unopened(self, capsys):
        ProgressBar("lds on wine").on_end()
        assert capsys.readouterr().err == ""


def folds(bar):
    """Three learners on three folds, the last of which is left out of the third."""
    for fold in (1, 2, 3):
        for learner in ("ffnn", "knn-gcn (train+val)", "knn-lds")[: 2 if fold == 3 else None]:
            bar.on_fold(FoldRecord(learner, fold, 3, (1,), (0.5,), (True,)))
    bar.close()


class TestComparisonBar:
    def test_shows_what_happens_on_a_terminal(self, capsys, monkeypatch):
        on_a_terminal(monkeypatch, 60)
        folds(ComparisonBar(3))
        lines = [line for line in capsys.readouterr().err.replace("\n", "\r").split("\r") if line.strip()]
        assert lines[0].startswith("comparing")
        for part in ("| 8/9", "fold 3, knn-gcn (train+val)"):
            assert part in lines[-1]
        assert max(map(len, lines)) < 60

    def test_a_line_a_fold_where_there_is_no_terminal(self, caplog, capsys):
        caplog.set_level(logging.INFO, "lds.run")
        folds(ComparisonBar(3))
        wanted = [f"comparing on held-out fold {fold} of 3" for fold in (1, 2, 3)]
        assert [record.getMessage() for record in caplog.records] == wanted
        assert capsys.readouterr().err == ""

    def test_can_be_hidden(self, capsys, caplog, monkeypatch):
        on_a_terminal(monkeypatch, 80)
        caplog.set_level(logging.INFO, "lds.run")
        monkeypatch.setattr("lds.run._progress.tqdm", lambda **_: pytest.fail("made one"))
        folds(ComparisonBar(3, hide=True))
        assert (capsys.readouterr().err, caplog.records) == ("", [])


class TestTrainOnce:
    CONFIG = TrainConfig("wine", "knn-gcn", seed=3)

    def test_a_finished_run_is_not_repeated(self, tmp_path, monkeypatch):
        first = train_once(self.CONFIG, tmp_path / "run", progress=False)
        monkeypatch.setattr("lds.run._train._run", lambda *args, **kwargs: pytest.fail("ran again"))
        assert train_once(self.CONFIG, tmp_path / "run", progress=False) == first

    def test_a_run_that_was_cut_off_starts_again(self, tmp_path):
        first = train_once(self.CONFIG, tmp_path / "run", progress=False)
        (tmp_path / "run" / "result.json").unlink()
        again = train_once(self.CONFIG, tmp_path / "run", progress=False)
        assert again["test_accuracy"] == first["test_accuracy"]
        assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1

    def test_another_configuration(self, tmp_path):
        train_once(self.CONFIG, tmp_path / "run", progress=False)
        with pytest.raises(InputError, match="holds a run of another configuration"):
            train_once(TrainConfig("wine", "knn-gcn", seed=4), tmp_path / "run", progress=False)

    def test_a_folder_of_something_else(self, tmp_path):
        (tmp_path / "mine").write_text("x")
        with pytest.raises(InputError, match="holds files"):
            train_once(self.CONFIG, tmp_path, progress=False)
        assert [p.name for p in tmp_path.iterdir()] == ["mine"]
