"""A whole run, from Python."""

import pytest
import torch

import lds
from lds.errors import DataError, InputError
from lds.run import TrainConfig, train, train_once
from lds.run._environment import peak_rss_mb
from lds.run._train import ProgressBar
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


class TestProgressBar:
    def test_shows_what_happens_on_a_terminal(self, capsys, monkeypatch):
        monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
        bar = ProgressBar("lds on wine", 4)
        assert capsys.readouterr().err == ""
        bar.on_step(STEP)
        bar.on_epoch(EPOCH)
        bar.on_epoch(EPOCH)
        bar.on_end()
        shown = capsys.readouterr().err
        for part in ("lds on wine", "2/4", "inner loss 0.5000", "es accuracy 0.750", "edges 10"):
            assert part in shown

    @pytest.mark.parametrize(("terminal", "hide"), [(True, True), (False, False)])
    def test_can_be_hidden_and_is_where_there_is_no_terminal(self, capsys, monkeypatch, terminal, hide):
        monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
        bar = ProgressBar("lds on wine", None, hide=hide)
        bar.on_step(STEP)
        bar.on_epoch(EPOCH)
        bar.on_end()
        assert capsys.readouterr().err == ""

    def test_hidden_it_makes_no_bar(self, monkeypatch):
        """A tqdm has a semaphore, which a killed process would leave behind."""
        monkeypatch.setattr("lds.run._train.tqdm", lambda **_: pytest.fail("made one"))
        bar = ProgressBar("lds on wine", None, hide=True)
        bar.on_step(STEP)
        bar.on_end()

    def test_may_end_unopened(self, capsys):
        ProgressBar("lds on wine", None).on_end()
        assert capsys.readouterr().err == ""


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
