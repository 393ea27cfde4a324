"""Runs on a user's own data."""

import json

import pytest
import torch
import yaml

from lds.cli import main
from lds.data import read
from lds.errors import InputError
from lds.run import BaselineConfig, TrainConfig, load_data, make_config, train
from lds.run._data import fingerprint
from tests.data.own.test_csv import edges, table


@pytest.fixture
def path(tmp_path):
    return str(table(tmp_path / "own.csv", label="species"))


def test_a_run_of_the_command(path, tmp_path):
    links = str(edges(tmp_path / "e.csv", range(48)))
    own = ["--data", path, "--label", "species", "--edges", links, "--scale", "standard", "--train-size", "12"]
    assert main(["train", *own, "--method", "gcn", "--retain", "0.5", "--seed", "2", "--out", str(tmp_path / "r")]) == 0
    config = make_config(yaml.safe_load((tmp_path / "r" / "config.yaml").read_text()))
    assert config == TrainConfig(
        None, "gcn", 0.5, seed=2, data=path, label="species", edges=links, scale="standard", train_size=12
    )
    data = load_data(config)
    expected = read(path, label="species", edges=links, scale="standard", train_size=12, retain=0.5, seed=2)
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    assert result["dataset"] == path
    assert result["data_fingerprint"] == fingerprint(data) == fingerprint(expected)


@pytest.mark.parametrize("config", ["knn-gcn", "logreg"])
def test_without_edges(path, tmp_path, config):
    own = {"data": path, "label": "species"}
    made = BaselineConfig(None, "logreg", **own) if config == "logreg" else TrainConfig(None, "knn-gcn", k=3, **own)
    assert 0 <= train(made, tmp_path / "r", progress=False)["test_accuracy"] <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "a run needs dataset, a name, or data, a file of your own, but neither came"),
        ({"dataset": "wine", "data": "a.csv"}, "a run is on dataset or data, but wine and a.csv came; drop one"),
        ({"dataset": "wine", "label": "y"}, "label belongs to data, a file of your own, but dataset wine came"),
        ({"dataset": "wine", "val_size": 3}, "val_size belongs to data"),
    ],
)
def test_one_source(options, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**options)


def test_bad_data_leaves_nothing_behind(path, tmp_path, capsys):
    assert main(["train", "--data", path, "--method", "knn-gcn", "--out", str(tmp_path / "r")]) == 2
    assert "must have a column 'label' with the labels" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    assert torch.is_tensor(read(path, label="species").x)
