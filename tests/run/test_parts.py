"""Models, updaters and devices by their names, from configuration to a run that goes on."""

import json

import pytest
import torch

from lds.cli import main
from lds.errors import InputError
from lds.learner import FixedGraphLearner, StructureLearner
from lds.nn import APPNP, GCN, SAGE, SGC, Backbone
from lds.run import TrainConfig, load_data, make_config, read_structure, resume, train
from lds.run._config import NETWORKS
from lds.run._learner import make_learner
from lds.run._parts import make_model, make_updater, on_device
from lds.updaters import SGD, Adam, AdamW

SHORT = {"tau": 20, "max_epochs": 1, "samples": 2, "k": 3}


class Net(torch.nn.Module):
    """A model that is called with (x, graph)."""

    def __init__(self, features, classes, width=4, hops=1):
        super().__init__()
        self.hops = hops
        self.first = torch.nn.Linear(features, width)
        self.last = torch.nn.Linear(width, classes)

    def forward(self, x, graph):
        x = self.last(self.first(x).relu())
        for _ in range(self.hops):
            x = graph.propagate(x)
        return x


def bad_module(features, classes):
    return None


A_NUMBER = 3
NET = f"{__name__}:Net"


class TestModel:
    def test_the_default(self):
        found = make_model(TrainConfig("wine", hidden=7, dropout=0.1))(5, 3)
        assert isinstance(found, GCN)
        assert {tuple(value.shape) for value in found.parameters()} == {(5, 7), (7, 3)}

    def test_by_place(self):
        found = make_model(TrainConfig("wine", model=NET, init_args="{width: 6, hops: 3}"))(5, 3)
        assert isinstance(found, Net)
        assert (found.first.in_features, found.first.out_features, found.last.out_features, found.hops) == (5, 6, 3, 3)

    def test_by_name_as_in_torch_geometric(self):
        config = TrainConfig(
            "cora", model="torch_geometric.nn:GCN", candidates="given", init_args="{hidden_channels: 6, num_layers: 2}"
        )
        found = make_model(config)(5, 3)
        assert isinstance(found, Backbone)
        assert (found.model.in_channels, found.model.hidden_channels, found.model.out_channels) == (5, 6, 3)

    def test_one_of_the_package(self):
        assert isinstance(make_model(TrainConfig("wine", model="lds.nn:SAGE"))(5, 3), SAGE)

    @pytest.mark.parametrize(("name", "kind"), [("gcn", GCN), ("sage", SAGE), ("sgc", SGC), ("appnp", APPNP)])
    def test_short_names(self, name, kind):
        assert NETWORKS.keys() == {"gcn", "sage", "sgc", "appnp"}
        config = TrainConfig("wine", model=name.upper())
        assert config == TrainConfig("wine", model=name)
        assert isinstance(make_model(config)(5, 3), kind)

    def test_short_names_take_the_options_of_the_configuration(self):
        config = TrainConfig("wine", model="appnp", hidden=7, dropout=0.1, init_args="{steps: 3}")
        found = make_model(config)(5, 3)
        assert {7, 5} in [set(value.shape) for value in found.parameters()]
        assert (found.steps, found.dropout) == (3, 0.1)
        shallow = make_model(TrainConfig("wine", model="sgc", init_args="{steps: 4}"))(5, 3)
        assert shallow.steps == 4

    def test_needs_candidates_to_be_called_with_weights(self):
        config = TrainConfig("cora", model="torch_geometric.nn:GCN", init_args="{hidden_channels: 6, num_layers: 2}")
        with pytest.raises(
            InputError, match="so θ must lie on candidate pairs, but candidates are not given; add them"
        ):
            make_model(config)(5, 3)
        # A fixed graph has weights.
        fixed = make_config({**config.as_dict(), "method": "gcn"})
        assert isinstance(make_model(fixed)(5, 3), Backbone)

    @pytest.mark.parametrize(
        ("path", "arguments", "message"),
        [
            (
                "no_such_module:Net",
                None,
                "must be importable, but no_such_module is not: ModuleNotFoundError: No module",
            ),
            (f"{__name__}:Nett", None, "there is no Nett; did you mean Net"),
            (f"{__name__}:A_NUMBER", None, "must be a class or a function, but is int"),
            (NET, "{depth: 3}", "which init_args must fit, but: got an unexpected keyword argument 'depth'"),
            ("torch_geometric.nn:GCN", None, "must fit, but: missing a required argument: 'hidden_channels'"),
        ],
    )
    def test_refused_before_anything_is_made(self, path, arguments, message):
        with pytest.raises(InputError, match=message):
            make_model(TrainConfig("wine", model=path, init_args=arguments))

    def test_no_module(self, tmp_path):
        config = TrainConfig("wine", "knn-gcn", model=f"{__name__}:bad_module")
        with pytest.raises(InputError, match=r"model must make a torch.nn.Module with parameters, got NoneType"):
            train(config, tmp_path / "run", progress=False)

    def test_a_module_that_fails(self, tmp_path, monkeypatch):
        (tmp_path / "broken_model.py").write_text("1 / 0\n")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(InputError, match="broken_model is not: ZeroDivisionError: division by zero; install it"):
            make_model(TrainConfig("wine", model="broken_model:Net"))


class TestConfiguration:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"model": "package.Net"}, "or package.module:Class, got 'package.Net'; put a colon"),
            ({"model": "a:b; import os"}, "model must be .*, or package.module:Class"),
            ({"init_args": "{a: 1}"}, "init_args belongs to model, but .* came without it"),
            ({"updater_args": "{a: 1}"}, "updater_args belongs to updater, but .* came without it"),
            ({"model": NET, "init_args": "[1, 2]"}, "init_args must be names and values such as {layers: 2}"),
            ({"model": NET, "init_args": "{a: {b: 1}}"}, "init_args must hold numbers, texts and lists of these"),
            ({"model": NET, "init_args": "{a: .nan}"}, "init_args must hold finite numbers, got nan"),
            ({"model": NET, "init_args": "{a: ["}, "init_args must be YAML such as"),
            ({"model": NET, "hidden": 8}, "hidden belongs to gcn, sage, appnp of the package, but model"),
            ({"model": "sgc", "dropout": 0.1}, "dropout belongs to gcn, sage, appnp of the package, but model sgc"),
            ({"model": "apnp"}, "be gcn, sage, sgc, appnp, or package.module:Class, got 'apnp'; did you mean appnp"),
            (
                {"model": "gcn", "hidden": 8, "init_args": "{hidden_channels: 4}"},
                "hidden and hidden_channels of init_args are the same, but both came; give one",
            ),
        ],
    )
    def test_refused(self, values, message):
        with pytest.raises(InputError, match=message):
            make_config({"dataset": "wine", **values})

    def test_the_same_arguments_are_the_same_run(self):
        forms = ["{b: 1.0e-3, a: [x, 2]}", '{"a": ["x", 2], "b": 1e-3}', {"b": 0.001, "a": ["x", 2]}]
        found = [make_config({"dataset": "wine", "model": NET, "init_args": form}) for form in forms]
        assert found[0] == found[1] == found[2]
        assert found[0].init_args == '{"a": ["x", 2], "b": 0.001}'
        assert make_config(found[0].as_dict()) == found[0]


class TestUpdater:
    def test_none(self):
        assert make_updater(TrainConfig("wine")) is None

    def test_by_name(self):
        found = make_updater(TrainConfig("wine", updater="sgd", updater_args="{momentum: 9e-1}", inner_lr=0.5))
        assert isinstance(found, SGD)
        assert (found.lr, found.momentum) == (0.5, 0.9)
        found = make_updater(TrainConfig("wine", updater="AdamW", updater_args="{lr: 0.1, betas: [0.8, 0.9]}"))
        assert isinstance(found, AdamW)
        assert found.lr == 0.1

    def test_two_rates(self):
        config = TrainConfig("wine", updater="sgd", updater_args="{lr: 0.1}", inner_lr=0.5)
        with pytest.raises(InputError, match=r"inner_lr and the lr of updater_args are the same, but 0.5 and 0.1 came"):
            make_updater(config)

    def test_by_path(self):
        assert isinstance(make_updater(TrainConfig("wine", updater="lds.updaters:Adam")), Adam)

    @pytest.mark.parametrize(
        ("name", "arguments", "message"),
        [
            ("SDG", None, "updater must be one of ASGD, SGD, .*, or package.module:Class, got 'SDG'; did you mean SGD"),
            ("sgd", "{mass: 1}", "which updater_args must fit, but: got an unexpected keyword argument 'mass'"),
            ("torch.optim:SGD", None, "which updater_args must fit, but: missing a required argument: 'params'"),
        ],
    )
    def test_refused(self, name, arguments, message):
        with pytest.raises(InputError, match=message):
            make_updater(TrainConfig("wine", updater=name, updater_args=arguments))

    @pytest.mark.parametrize("method", ["knn-lds", "knn-gcn"])
    def test_reaches_the_learner(self, method):
        config = TrainConfig("wine", method, updater="sgd", model=NET)
        learner = make_learner(config, load_data(config))
        assert isinstance(learner, StructureLearner | FixedGraphLearner)
        assert isinstance(learner.updater, SGD)
        assert isinstance(learner.model(13, 3), Net)


def test_a_fixed_graph_with_another_updater():
    config = TrainConfig("wine", "knn-gcn")
    data = load_data(config)
    by_default, same, other = (
        FixedGraphLearner(make_learner(config, data).graph, steps=10, updater=updater).fit(data)
        for updater in (None, Adam(0.02, eps=1e-5), SGD(0.1))
    )
    assert torch.equal(by_default.logits, same.logits)
    assert not torch.equal(by_default.logits, other.logits)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", "cpu:x"])
def test_a_device_that_is_not_there(device, tmp_path):
    with pytest.raises(InputError, match="device must be one that torch can use here, such as cpu, got"):
        train(TrainConfig("wine", "knn-gcn", device=device), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_the_data_goes_to_the_device():
    config = TrainConfig("wine", device="meta")
    assert on_device(config, load_data(config)).x.device.type == "meta"


def test_a_run_goes_on_with_its_model(tmp_path, monkeypatch, capsys):
    """resume finds it by what config.yaml says; export and read_structure need it not."""
    (tmp_path / "own_model.py").write_text("from tests.run.test_parts import Net as Own\n")
    monkeypatch.chdir(tmp_path)
    argv = ["train", "--dataset", "wine", "--method", "knn-lds", "--model", "own_model:Own", "--k", "3", "--tau", "20"]
    argv += ["--init-args", "{hops: 2}", "--max-epochs", "1", "--samples", "2", "--progress", "false", "--out", "run"]
    assert main(argv) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["config"]["model"], result["config"]["init_args"]) == ("own_model:Own", '{"hops": 2}')
    (tmp_path / "run" / "result.json").unlink()
    monkeypatch.delitem(__import__("sys").modules, "own_model")
    assert main(["train", "--resume", "run", "--progress", "false"]) == 0
    again = json.loads((tmp_path / "run" / "result.json").read_text())
    assert again["test_accuracy"] == result["test_accuracy"]
    (tmp_path / "own_model.py").unlink()
    monkeypatch.delitem(__import__("sys").modules, "own_model")
    assert read_structure(tmp_path / "run").num_nodes == 178
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(
        InputError, match=r"own_model is not: ModuleNotFoundError: .*; install it, or start in the folder"
    ):
        resume(tmp_path / "run", progress=False)
