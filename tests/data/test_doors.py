"""No door disagrees with another: the same oddities through files, memory, the estimator and the transform."""

import csv

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

import lds
from lds.data import complete_masks, prepare, read
from lds.errors import InputError
from lds.graph import KNNGraph
from lds.transforms import LearnStructure

N = 60
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(N, 3)).round(3)
CLASS = np.arange(N) % 3
TEXTS = np.array(["ant", "bee", "cat"], dtype=object)[CLASS]
EDGES = np.stack([np.arange(N), (np.arange(N) + 3) % N])
QUICK = {"tau": 1, "inner_steps": 1, "max_epochs": 1, "samples": 1}


def marked(mark, labels=TEXTS):
    """Every third label replaced by a mark."""
    changed = np.array(labels, dtype=object)
    changed[1::4] = mark
    return changed


# What comes, and the names of the classes that every door must find, or the words that every door must refuse it by.
ODDITIES = {
    "the text -1": ({"y": marked("-1")}, ["ant", "bee", "cat"]),
    "the text -1.0": ({"y": marked("-1.0")}, ["ant", "bee", "cat"]),
    "the number -1": ({"y": np.where(np.arange(N) % 4 == 1, -1, CLASS)}, ["0", "1", "2"]),
    "the number -1 among texts": ({"y": marked(-1)}, ["ant", "bee", "cat"]),
    "NaN among numbers": ({"y": np.where(np.arange(N) % 4 == 1, np.nan, CLASS)}, ["0", "1", "2"]),
    "NaN among texts": ({"y": marked(float("nan"))}, ["ant", "bee", "cat"]),
    "None": ({"y": marked(None)}, ["ant", "bee", "cat"]),
    **{f"the text {mark!r}": ({"y": marked(mark)}, ["ant", "bee", "cat"]) for mark in ("", "NA", "<NA>", "NaT")},
    "whole numbers as floats": ({"y": CLASS.astype(float)}, ["0", "1", "2"]),
    "numbers with gaps": ({"y": np.array([7, 10**9, 12])[CLASS]}, ["7", "12", "1000000000"]),
    "numbers as texts": ({"y": np.array(["9", "10", "11"], dtype=object)[CLASS]}, ["9", "10", "11"]),
    "truth values": ({"y": CLASS > 0}, ["False", "True"]),
    "small integers": ({"y": CLASS.astype(np.uint8)}, ["0", "1", "2"]),
    "a column of labels": ({"y": CLASS[:, None]}, ["0", "1", "2"]),
    "one-hot labels": ({"y": np.eye(3)[CLASS]}, ["0", "1", "2"]),
    "a question mark among texts": ({"y": marked("?")}, "'\\?' came among texts"),
    "a text among numbers": ({"y": marked("unknown", CLASS.astype(str))}, "the text 'unknown' came among numbers"),
    "measurements": ({"y": X[:, 0]}, "must name classes, but measurements came"),
    "measurements as texts": ({"y": X[:, 0].astype(str).astype(object)}, "must name classes, but measurements came"),
    "another negative number": ({"y": np.where(CLASS == 1, -100, CLASS)}, "-100 came"),
    "one class": ({"y": np.zeros(N, dtype=int)}, "at least 2 classes"),
    "no label": ({"y": np.full(N, -1)}, "every (node|row) is .*unlabelled"),
    "several labels per node": ({"y": np.eye(3)[CLASS] + np.eye(3)[0] * (CLASS == 1)[:, None]}, "several 1s"),
    "integer features": ({"x": np.arange(3 * N).reshape(N, 3) % 7}, ["0", "1", "2"]),
    "truth values as features": ({"x": X > 0}, ["0", "1", "2"]),
    "half precision": ({"x": X.astype(np.float16)}, ["0", "1", "2"]),
    "tiny features": ({"x": X * 1e-9}, ["0", "1", "2"]),
    "NaN in the features": ({"x": np.where(X > 2, np.nan, X)}, "must be finite|must be a finite number|contains NaN"),
    "edges of 32 bits, twice, with loops": (
        {"edge_index": np.concatenate([EDGES, EDGES[::-1], EDGES[:1].repeat(2, 0)], 1).astype(np.int32)},
        ["0", "1", "2"],
    ),
}  # fmt: skip


def parts_of(oddity):
    return {"x": X, "y": CLASS, "edge_index": EDGES, **ODDITIES[oddity][0]}


def from_csv(tmp_path, x, y, edge_index):
    if np.ndim(y) == 2 and y.shape[1] > 1:
        pytest.skip("a column of a table holds one label")
    labels = ["" if label is None else label for label in np.ravel(y).tolist()]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["a", "b", "c", "label"], *([*row, label] for row, label in zip(x.tolist(), labels, strict=True))]
        )
    with (tmp_path / "e.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["source", "target"], *edge_index.T.tolist()])
    return read(tmp_path / "a.csv", edges=tmp_path / "e.csv", id="").class_names


def from_npz(tmp_path, x, y, edge_index):
    np.savez(tmp_path / "a.npz", x=x, y=y.astype(str) if y.dtype == object else y, edge_index=edge_index)
    return read(tmp_path / "a.npz").class_names


def as_data(x, y, edge_index):
    labels = y.tolist() if y.dtype == object else torch.from_numpy(y)
    return Data(x=torch.from_numpy(x), y=labels, edge_index=torch.from_numpy(edge_index.copy()))


def from_pt(tmp_path, x, y, edge_index):
    torch.save(as_data(x, y, edge_index), tmp_path / "a.pt")
    return read(tmp_path / "a.pt").class_names


def from_memory(tmp_path, x, y, edge_index):
    data = as_data(x, y, edge_index)
    data.update(complete_masks(data))
    return lds.StructureLearner(**QUICK).fit(data).class_names


def from_parts(tmp_path, x, y, edge_index):
    return prepare({"x": x, "y": y, "edge_index": edge_index}).class_names


def from_transform(tmp_path, x, y, edge_index):
    data = LearnStructure(lds.StructureLearner(graph=KNNGraph(3), **QUICK))(as_data(x, y, edge_index))
    names = data.get("class_names")
    return [str(number) for number in range(int(data.y.max()) + 1)] if names is None else names


@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
def from_estimator(tmp_path, x, y, edge_index):
    model = lds.LDSClassifier(**QUICK, n_neighbors=3, refit=False, random_state=0).fit(x, y)
    assert set(model.transduction_) <= set(model.classes_)
    return [str(name) for name in model.classes_] if np.ndim(y) < 2 or y.shape[1] < 2 else [str(c) for c in range(3)]


DOORS = {
    "csv": from_csv,
    "npz": from_npz,
    "pt": from_pt,
    "Data": from_memory,
    "prepare": from_parts,
    "LDSClassifier": from_estimator,
    "LearnStructure": from_transform,
}


@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("oddity", ODDITIES)
def test_every_door_has_the_same_rule(tmp_path, oddity, door):
    expected = ODDITIES[oddity][1]
    if isinstance(expected, list):
        found = DOORS[door](tmp_path, **parts_of(oddity))
        assert [name.removesuffix(".0") for name in found] == expected
    else:
        # scikit-learn's own check of X raises a ValueError of its own.
        kind = ValueError if (door, oddity) == ("LDSClassifier", "NaN in the features") else InputError
        with pytest.raises(kind, match=expected) as caught:
            DOORS[door](tmp_path, **parts_of(oddity))
        assert kind is ValueError or "\n" not in str(caught.value)


WEIGHTS = {"zero": 0.0, "a half": 0.5, "beyond one": 3.0}


def weighted_csv(tmp_path, data):
    from_csv(tmp_path, X, CLASS, EDGES)
    rows = [f"{s},{t},{w}" for s, t, w in zip(*EDGES, data.edge_weight.tolist(), strict=True)]
    (tmp_path / "e.csv").write_text("\n".join(["source,target,weight", *rows]))
    return read(tmp_path / "a.csv", edges=tmp_path / "e.csv", id="")


def weighted_npz(tmp_path, data):
    np.savez(tmp_path / "a.npz", x=X, y=CLASS, edge_index=EDGES, edge_weight=data.edge_weight)
    return read(tmp_path / "a.npz")


def weighted_pt(tmp_path, data):
    torch.save(data, tmp_path / "a.pt")
    return read(tmp_path / "a.pt")


WEIGHTED = {
    "csv": weighted_csv,
    "npz": weighted_npz,
    "pt": weighted_pt,
    "Data": lambda _, data: lds.StructureLearner(**QUICK).fit(data),
    "prepare": lambda _, data: prepare(data),
    "LearnStructure": lambda _, data: LearnStructure(lds.StructureLearner(**QUICK))(data),
}


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("door", WEIGHTED)
def test_weights_are_refused_at_every_door(tmp_path, door, weight):
    data = as_data(X, CLASS, EDGES)
    data.edge_weight = torch.full((N,), WEIGHTS[weight])
    data.update(complete_masks(data))
    with pytest.raises(InputError, match=r"edge_weight must be 1 on every edge"):
        WEIGHTED[door](tmp_path, data)
    data.edge_weight = torch.ones(N)
    WEIGHTED[door](tmp_path, data)


def test_predictions_are_in_the_numbers_of_the_data():
    data = as_data(X, np.array([7, 10**9, 12])[CLASS], EDGES)
    data.update(complete_masks(data))
    fit = lds.StructureLearner(**QUICK).fit(data)
    assert fit.logits.shape == (N, 3)
    assert set(fit.predict().tolist()) <= {7, 12, 10**9}
    assert fit.accuracy("test") == (fit.predict() == data.y)[data.test_mask].double().mean()


def test_what_came_stays_as_it_was():
    data = as_data(X, np.array([7, 9, 12])[CLASS], EDGES.astype(np.int32))
    before = data.clone()
    prepare(data)
    assert data.to_dict().keys() == before.to_dict().keys()
    assert all(torch.equal(data[name], before[name]) for name in before.to_dict())
