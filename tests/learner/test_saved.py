"""A fit in other people's hands: as a table, as a graph of networkx, as a file."""

import builtins
import pickle

import pytest
import torch

from lds.data import from_networkx, prepare
from lds.errors import DataError, InputError, MissingMaskWarning
from lds.graph import AllPairs, CandidatePairs
from lds.learner import Fit, FixedGraphLearner, StructureLearner
from tests.learner.problems import blocks

LEARNER = StructureLearner(tau=2, inner_steps=6, max_epochs=2, samples=2)


def named():
    data = blocks(classes=3)
    y = [["ant", "bee", "cat"][label] for label in data.y.tolist()]
    return prepare({**data.to_dict(), "y": y, "node_names": [f"n{i}" for i in range(48)]})


@pytest.fixture(scope="module", params=["all pairs", "candidates", "fixed"])
def fit(request):
    if request.param == "fixed":
        return FixedGraphLearner(steps=20).fit(named())
    kind = {"all pairs": AllPairs, "candidates": CandidatePairs}[request.param]
    return StructureLearner(tau=2, inner_steps=6, max_epochs=2, samples=2, edges=kind).fit(named())


def test_what_is_loaded_is_what_was_saved(fit, tmp_path):
    fit.save(tmp_path / "fit.pt")
    again = Fit.load(str(tmp_path / "fit.pt"))
    assert again.history == fit.history
    assert again.class_names == fit.class_names == ["ant", "bee", "cat"]
    assert torch.equal(again.logits, fit.logits)
    assert torch.equal(again.structure.state(), fit.structure.state())
    assert {n: x.tolist() for n, x in again.params.items()} == {n: x.tolist() for n, x in fit.params.items()}
    for split in ("train", "val", "es", "test"):
        assert again.accuracy(split) == fit.accuracy(split)
        assert again.loss(split) == fit.loss(split)
    assert torch.equal(again.graph(0.1).edge_weight, fit.graph(0.1).edge_weight)
    assert repr(again) == repr(fit)
    assert len(repr(fit).splitlines()) == 6
    assert "ant" in repr(fit)
    assert again.to_frame().equals(fit.to_frame())


def test_numbers_of_classes_stay_what_they_were(tmp_path):
    data = blocks(classes=2)
    data.y = data.y * 10 + 5
    del data.num_classes
    fit = LEARNER.fit(data)
    fit.save(tmp_path / "fit.pt")
    assert set(Fit.load(tmp_path / "fit.pt").predict().tolist()) <= {5, 15}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_cut_off(tmp_path, fit, share):
    fit.save(tmp_path / "fit.pt")
    content = (tmp_path / "fit.pt").read_bytes()
    (tmp_path / "fit.pt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"fit\.pt must be what Fit.save wrote, but .*; save the fit again"):
        Fit.load(tmp_path / "fit.pt")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", "another"),
        ("theta", torch.full((3,), 0.5)),
        ("theta", "none"),
        ("num_nodes", 10**6),
        ("num_nodes", "48"),
        ("logits", torch.zeros(48, 9)),
        ("logits", torch.zeros(1).expand(48, 3)),
        ("known", {}),
        ("history", [{"epoch": 1}]),
        ("params", 3),
        ("outer_steps", -1),
    ],
)
def test_other_values(tmp_path, name, value):
    path = tmp_path / "fit.pt"
    LEARNER.fit(named()).save(path)
    torch.save({**torch.load(path, weights_only=True), name: value}, path)
    with pytest.raises(DataError, match=r"fit\.pt must be what Fit.save wrote, but"):
        Fit.load(path)


def test_no_code_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"format": "lds fit 1", "theta": Evil()}, tmp_path / "fit.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("fit.pt", "plain.pt", "missing.pt"):
        with pytest.raises(DataError):
            Fit.load(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_structure_of_ones_own_is_refused(tmp_path):
    class Own(AllPairs):
        pass

    fit = LEARNER.fit(named())
    object.__setattr__(fit, "structure", object())
    with pytest.raises(InputError, match="AllPairs or CandidatePairs can be saved, but object came"):
        fit.save(tmp_path / "fit.pt")


def test_a_table_of_pandas(fit):
    table = fit.to_frame()
    probabilities = [f"probability of {name}" for name in ("ant", "bee", "cat")]
    assert list(table.columns) == ["split", "label", "predicted", *probabilities]
    assert list(table.index) == [f"n{i}" for i in range(48)]
    test = table[table["split"] == "test"]
    assert (test["label"] == test["predicted"]).mean() == pytest.approx(fit.accuracy("test"))
    assert table[probabilities].to_numpy() == pytest.approx(fit.predict_proba().double().numpy())


@pytest.mark.parametrize(("name", "ask"), [("pandas", Fit.to_frame), ("networkx", Fit.to_networkx)])
def test_without_the_library(fit, monkeypatch, name, ask):
    real = builtins.__import__

    def without(module, *args, **kwargs):
        if module == name:
            raise ImportError(name)
        return real(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=f"needs {name}, but it is not installed; pip install {name}"):
        ask(fit)


def test_a_graph_of_networkx(fit):
    graph, expected = fit.to_networkx(top_k=3), fit.graph(top_k=3)
    assert list(graph) == [f"n{i}" for i in range(48)]
    assert 2 * graph.number_of_edges() == expected.edge_index.shape[1]
    for (a, b), weight in zip(expected.edge_index.T.tolist(), expected.edge_weight.tolist(), strict=True):
        assert graph.edges[f"n{a}", f"n{b}"]["weight"] == weight
    assert graph.nodes["n0"]["label"] == fit.to_frame().loc["n0", "label"]


def test_there_and_back(fit):
    graph = fit.to_networkx(0.0)
    for place, name in enumerate(graph):
        graph.nodes[name]["feature"] = float(place)
    data = from_networkx(graph, drop=("predicted", "split"))
    assert data.node_names == list(graph)
    assert data.edge_index.shape[1] == graph.number_of_edges()


class TestWithoutEarlyStoppingNodes:
    @pytest.mark.parametrize("learner", [LEARNER, FixedGraphLearner(steps=10)])
    def test_half_of_the_validation_nodes_become_them(self, learner):
        data = named()
        count = int(data.val_mask.sum())
        del data.es_mask
        with pytest.warns(MissingMaskWarning, match=rf"no es_mask .* {count // 2} nodes of its val_mask") as told:
            fit = learner.fit(data, seed=3)
        assert told[0].filename == __file__
        assert "es_mask" not in data
        assert int(data.val_mask.sum()) == count
        frame = fit.to_frame()
        assert {(frame["split"] == name).sum() for name in ("val", "es")} <= {count // 2, count - count // 2}

    def test_other_masks_are_asked_for(self):
        data = named()
        del data.es_mask, data.test_mask
        with pytest.raises(DataError, match=r"data\.es_mask must select nodes, but it is missing"):
            LEARNER.fit(data)
