"""Tables, MLflow and Weights & Biases; the last two are stubs here, which note what they are told."""

import csv
import json
import sys
from types import SimpleNamespace

import pytest

from lds.errors import DataError, InputError
from lds.learner import StructureLearner
from lds.run import CSVLog, MLflowLog, TrainConfig, WandbLog, resume, train
from lds.run._logs import log_of
from tests.learner.problems import Recorder, blocks
from tests.run.test_tensorboard import LEARNER, CutOff

SHORT = TrainConfig("wine", "knn-lds", tau=20, k=3, max_epochs=1, samples=2)


@pytest.fixture
def mlflow(monkeypatch):
    told = []

    def start_run(run_id=None):
        told.append(("start", run_id))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "abc"))

    stub = SimpleNamespace(
        start_run=start_run,
        log_params=lambda values: told.append(("params", values)),
        log_metrics=lambda values, step=None: told.append(("metrics", step, values)),
        end_run=lambda status: told.append(("end", status)),
    )
    monkeypatch.setitem(sys.modules, "mlflow", stub)
    return told


@pytest.fixture
def wandb(monkeypatch):
    told = []

    def init(**options):
        told.append(("init", options))
        return SimpleNamespace(
            id=options["id"] or "xyz",
            define_metric=lambda name, step_metric: told.append(("define", name, step_metric)),
            log=lambda values: told.append(("log", values)),
            summary=SimpleNamespace(update=lambda values: told.append(("summary", values))),
            finish=lambda exit_code: told.append(("finish", exit_code)),
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    return told


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class TestCSV:
    def test_every_step_and_epoch(self, tmp_path):
        recorder = Recorder()
        LEARNER.fit(blocks(), callbacks=[CSVLog(tmp_path), recorder])
        for name, records in (("steps.csv", recorder.steps), ("epochs.csv", recorder.epochs)):
            expected = [{key: str(value) for key, value in vars(record).items()} for record in records]
            assert table(tmp_path / name) == expected

    def test_losses_that_are_not_evaluated(self, tmp_path):
        learner = StructureLearner(tau=2, inner_steps=2, max_epochs=1, learn_structure=False)
        learner.fit(blocks(), callbacks=[CSVLog(tmp_path)])
        assert [row["outer_loss"] for row in table(tmp_path / "steps.csv")] == [""]

    @pytest.mark.parametrize(("keep", "stop"), [(1, 2), (3, 4), (3, 6), (4, 7)])
    def test_a_training_that_goes_on(self, tmp_path, keep, stop):
        LEARNER.fit(blocks(), callbacks=[CSVLog(tmp_path / "whole")])
        cut = CutOff(keep, stop)
        with pytest.raises(KeyboardInterrupt):
            LEARNER.fit(blocks(), callbacks=[CSVLog(tmp_path / "cut"), cut])
        with (tmp_path / "cut" / "steps.csv").open("a") as file:
            file.write("2,9")  # Cut off by a crash.
        LEARNER.fit(blocks(), callbacks=[CSVLog(tmp_path / "cut")], resume=cut.kept)
        for name in ("steps.csv", "epochs.csv"):
            assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()

    def test_of_a_run(self, tmp_path):
        train(SHORT, tmp_path / "run", progress=False, log="csv")
        assert log_of(tmp_path / "run") == "csv"
        before = (tmp_path / "run" / "steps.csv").read_text()
        (tmp_path / "run" / "result.json").unlink()
        resume(tmp_path / "run", progress=False)
        assert (tmp_path / "run" / "steps.csv").read_text() == before
        assert len(table(tmp_path / "run" / "epochs.csv")) == 1


class TestMLflow:
    def test_of_a_run_that_goes_on(self, tmp_path, mlflow):
        result = train(SHORT, tmp_path / "run", progress=False, log="mlflow")
        assert mlflow[0] == ("start", None)
        name, parameters = mlflow[1]
        assert (name, parameters["method"], parameters["tau"]) == ("params", "knn-lds", 20)
        assert None not in parameters.values()
        metrics = [call for call in mlflow if call[0] == "metrics"]
        assert [call[1] for call in metrics] == [*range(1, result["outer_steps"] + 1), 1, None]
        assert metrics[0][2].keys() == {"step/inner_loss", "step/outer_loss", "step/expected_edges"}
        assert metrics[-2][2]["epoch/es_accuracy"] == result["es_accuracy"]
        assert metrics[-1][2]["test_accuracy"] == result["test_accuracy"]
        assert mlflow[-1] == ("end", "FINISHED")
        assert (tmp_path / "run" / "mlflow.txt").read_text() == "abc\n"
        mlflow.clear()
        (tmp_path / "run" / "result.json").unlink()
        resume(tmp_path / "run", progress=False)
        assert mlflow[0] == ("start", "abc")
        assert mlflow[1][0] == "metrics"

    def test_a_training_that_is_cut_off(self, tmp_path, mlflow):
        with pytest.raises(KeyboardInterrupt):
            train(SHORT, tmp_path / "run", progress=False, log="mlflow", callbacks=[CutOff(1, 2)])
        assert mlflow[-1] == ("end", "KILLED")

    def test_without_a_run_folder(self, mlflow):
        LEARNER.fit(blocks(), callbacks=[MLflowLog(config={"tau": 2})])
        assert mlflow[:2] == [("start", None), ("params", {"tau": 2})]
        assert mlflow[-1] == ("end", "FINISHED")

    def test_a_damaged_name(self, tmp_path, mlflow):
        (tmp_path / "mlflow.txt").write_text("a\x1bb")
        with pytest.raises(DataError, match="must hold the name of a run, but does not; remove it to begin another"):
            LEARNER.fit(blocks(), callbacks=[MLflowLog(tmp_path)])


class TestWandb:
    def test_of_a_run_that_goes_on(self, tmp_path, wandb):
        result = train(SHORT, tmp_path / "run", progress=False, log="wandb")
        assert (wandb[0][1]["id"], wandb[0][1]["resume"], wandb[0][1]["config"]["tau"]) == (None, "allow", 20)
        assert ("define", "step/*", "step/number") in wandb
        logged = [call[1] for call in wandb if call[0] == "log"]
        assert [values["step/number"] for values in logged[:-1]] == list(range(1, result["outer_steps"] + 1))
        assert logged[-1]["epoch/number"] == 1
        assert wandb[-2][1]["test_accuracy"] == result["test_accuracy"]
        assert wandb[-1] == ("finish", 0)
        wandb.clear()
        (tmp_path / "run" / "result.json").unlink()
        resume(tmp_path / "run", progress=False)
        assert wandb[0][1]["id"] == "xyz"

    def test_without_a_run_folder(self, wandb):
        LEARNER.fit(blocks(), callbacks=[WandbLog()])
        assert wandb[-1] == ("finish", 0)


@pytest.mark.parametrize(("name", "title"), [("mlflow", "MLflow"), ("wandb", "Weights & Biases")])
def test_without_the_package(tmp_path, monkeypatch, name, title):
    monkeypatch.setitem(sys.modules, name, None)
    message = rf"logging to {title} needs {name}, which is not here; pip install 'lds-gnn\[{name}\]'"
    with pytest.raises(InputError, match=message):
        train(SHORT, tmp_path / "run", progress=False, log=name)
    assert not (tmp_path / "run").exists()


def test_a_name_that_nobody_knows(tmp_path):
    with pytest.raises(InputError, match="log must be one of tensorboard, csv, mlflow, wandb, got 'paper'"):
        train(SHORT, tmp_path / "run", progress=False, log="paper")


def test_a_run_without_a_log(tmp_path):
    train(TrainConfig("wine", "knn-gcn", k=3), tmp_path / "run", progress=False)
    assert log_of(tmp_path / "run") is None
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0 < result["majority_accuracy"] < 1
