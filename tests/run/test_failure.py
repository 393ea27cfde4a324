"""A run that ends on a number can be made to do so again."""

import pytest
import torch

from lds.cli import main, warnings_in_a_line
from lds.errors import DataError, InputError, NumericalError
from lds.run import TrainConfig, load_data, replay_failure, resume, train

WINE = {"dataset": "wine", "k": 3, "hidden": 4, "seed": 2, "samples": 2, "max_epochs": 1}
HUGE = TrainConfig(method="knn-lds", inner_lr=1e30, **WINE)


def run(*argv):
    try:
        return main([str(arg) for arg in argv])
    except SystemExit as stop:
        return stop.code


def fail(folder, config=HUGE):
    with pytest.raises(NumericalError) as caught:
        train(config, folder, progress=False)
    return str(caught.value)


@pytest.mark.parametrize("method", ["knn-lds", "frozen", "knn-gcn"])
def test_the_same_error(tmp_path, capsys, method):
    folder = tmp_path / "run"
    message = fail(folder, TrainConfig(method=method, inner_lr=1e30, **WINE))
    assert "must be finite" in message
    assert message.endswith(f"; lds train --replay-failure {folder} runs into it again")
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        "config.yaml",
        "failure.pt",
    ]
    torch.load(folder / "failure.pt", weights_only=True)
    assert run("train", "--replay-failure", folder) == 2
    assert capsys.readouterr().err == f"lds: error: {message.split('; lds train')[0]}\n"


@pytest.mark.parametrize("lr", ["1e39", "1e308"])
def test_an_outer_learning_rate_that_is_too_large(tmp_path, capsys, lr):
    folder = tmp_path / "run"
    options = [x for name, value in WINE.items() for x in (f"--{name.replace('_', '-')}", value)]
    assert run("train", "--method", "knn-lds", *options, "--outer-lr", lr, "--out", folder, "--progress", "false") == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "lds: error: in outer step 1, epoch 1: a step of θ must be finite in torch.float32, but the"
    )
    assert error.endswith(f"lower the outer learning rate; lds train --replay-failure {folder} runs into it again\n")
    assert error.count("\n") == 1
    assert run("train", "--replay-failure", folder) == 2
    assert capsys.readouterr().err == error.split("; lds train")[0] + "\n"


def test_in_a_later_step(tmp_path, monkeypatch):
    """It begins at the outer step, not at the beginning."""
    windows = []

    def project(self, gradient, lr):
        windows.append(lr)
        if len(windows) == 4:
            raise NumericalError("too much")

    monkeypatch.setattr("lds.graph.AllPairs.project_", project)
    folder = tmp_path / "run"
    assert "in outer step 4, epoch 1: too much" in fail(folder, TrainConfig(method="knn-lds", **WINE))
    del windows[:]
    assert replay_failure(folder) == f"what failed in {folder} no longer fails; lds train --resume {folder} goes on"
    assert len(windows) == 1
    windows[:] = [0.0] * 3
    with pytest.raises(NumericalError, match=r"^in outer step 4, epoch 1: too much$"):
        replay_failure(folder)


def test_no_longer(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("lds.graph.AllPairs.project_", lambda *_: (_ for _ in ()).throw(NumericalError("too much")))
        fail(folder, TrainConfig(method="knn-lds", **WINE))
    assert run("train", "--replay-failure", folder) == 0
    assert "no longer fails" in capsys.readouterr().out
    resume(folder, progress=False)
    assert not (folder / "failure.pt").exists()
    assert (folder / "result.json").exists()


def test_there_is_none(tmp_path):
    train(TrainConfig(method="knn-gcn", **WINE), tmp_path / "run", progress=False)
    with pytest.raises(InputError, match=r"must hold a failure\.pt to replay"):
        replay_failure(tmp_path / "run")
    with pytest.raises(InputError, match="must be the folder of a run"):
        replay_failure(tmp_path / "none")


def test_a_damaged_one(tmp_path):
    fail(tmp_path / "run")
    (tmp_path / "run" / "failure.pt").write_bytes(b"x")
    again = r"remove it, and lds train --resume .*run runs into it again"
    with pytest.raises(DataError, match=rf"failure\.pt must be what a run saved, but is damaged: .+; {again}"):
        replay_failure(tmp_path / "run")


@pytest.mark.parametrize("change", [{"outer_step": "x"}, {"resume": 3}, None])
def test_one_of_another_content(tmp_path, change):
    fail(tmp_path / "run")
    path = tmp_path / "run" / "failure.pt"
    saved = torch.load(path, weights_only=True)
    torch.save(saved | {"progress": {} if change is None else saved["progress"] | change}, path)
    with pytest.raises(DataError, match=r"failure\.pt must say which step failed and where to begin"):
        replay_failure(tmp_path / "run")


def test_one_that_cannot_be_read(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    fail(tmp_path / "run")
    monkeypatch.setattr("lds._read.read_file", refuse)
    with pytest.raises(DataError, match=r"failure\.pt cannot be read: Permission denied; check the file"):
        replay_failure(tmp_path / "run")


def test_another_configuration(tmp_path):
    fail(tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    path.write_text(path.read_text().replace("tau: 5", "tau: 6"))
    with pytest.raises(InputError, match=r"failure\.pt was saved with tau 5, but config\.yaml says 6; put it back"):
        replay_failure(tmp_path / "run")


def test_the_data_may_have_moved(tmp_path, capsys, monkeypatch):
    message = fail(tmp_path / "run")
    roots = []

    def load(config):
        roots.append(config.data_root)
        return load_data(config)

    monkeypatch.setattr("lds.run._failure.load_data", load)
    assert run("train", "--replay-failure", tmp_path / "run", "--data-root", tmp_path / "moved") == 2
    assert capsys.readouterr().err == f"lds: error: {message.split('; lds train')[0]}\n"
    assert roots == [str(tmp_path / "moved")]


@pytest.mark.parametrize("option", [["--tau", "3"], ["--out", "x"], ["--resume", "x"]])
def test_takes_everything_from_the_folder(option, capsys):
    assert run("train", "--replay-failure", "folder", *option) == 2
    error = capsys.readouterr().err
    assert f"--replay-failure takes everything from folder, but {option[0]} came with it" in error


def test_warnings_are_one_line(tmp_path):
    import warnings

    before = warnings.formatwarning
    with warnings_in_a_line():
        assert warnings.formatwarning(UserWarning("oh"), UserWarning, "file.py", 3) == "lds: warning: oh\n"
    assert warnings.formatwarning is before
