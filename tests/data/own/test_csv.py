"""Tables of a user's own."""

import csv

import pytest
import torch

from lds.data import MASKS, read
from lds.errors import DataError
from tests.data.own.problems import DATA, same

NAMES = ("setosa", "versicolor", "virginica")


def write(path, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def table(path, *, names=NAMES, label="label", ids=None, masks=(), bits=("0", "1")):
    """The data set as a CSV file."""
    head = [f"f{i}" for i in range(8)]
    rows = [[*head[:4], label, *head[4:], *masks, *(["id"] if ids else [])]]
    for node, (x, y) in enumerate(zip(DATA.x.tolist(), DATA.y.tolist(), strict=True)):
        selected = [bits[int(DATA[mask][node])] for mask in masks]
        rows.append([*x[:4], names[y], *x[4:], *selected, *([ids[node]] if ids else [])])
    return write(path, *rows)


def edges(path, ids):
    pairs = [(ids[i], ids[j]) for i, j in DATA.edge_index.T.tolist() if i < j]
    return write(path, ("source", "target"), *pairs)


def test_features_labels_and_edges(tmp_path):
    ids = range(48)
    data = read(table(tmp_path / "a.csv"), edges=edges(tmp_path / "e.csv", ids))
    assert same(data)
    assert data.x.dtype == torch.float32
    assert data.class_names == list(NAMES)
    assert (data.num_nodes, data.num_classes) == (48, 3)
    assert all(data[mask].any() for mask in MASKS)


def test_named_nodes(tmp_path):
    ids = [f"node {(5 * i) % 48}" for i in range(48)]
    data = read(table(tmp_path / "a.CSV", ids=ids), edges=edges(tmp_path / "e.csv", ids))
    assert same(data)
    assert data.node_names == ids


def test_other_names_of_columns(tmp_path):
    ids = [100 + i for i in range(48)]
    path = table(tmp_path / "a.csv", label="species", ids=ids)
    path.write_text(path.read_text().replace(",id", ",key"))
    assert same(read(path, label="species", id="key", edges=edges(tmp_path / "e.csv", ids)))


@pytest.mark.parametrize("bits", [("0", "1"), ("False", "True"), (" FALSE", "true ")])
def test_masks(tmp_path, bits):
    data = read(table(tmp_path / "a.csv", masks=MASKS, bits=bits))
    assert all(torch.equal(data[mask], DATA[mask]) for mask in MASKS)
    assert data.edge_index.shape == (2, 0)


@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        (["b", "", "a", " b "], [1, -1, 0, 1], ["a", "b"]),
        (["10", "9", "-1", "10"], [1, 0, -1, 1], ["9", "10"]),
        (["1", "01", "1", "1"], [1, 0, 1, 1], ["01", "1"]),
        (["10.0", "9.00", "-1.0", "10"], [1, 0, -1, 1], ["9", "10"]),
        (["1.0", "2", "nan", "-1e0"], [0, 1, -1, -1], ["1", "2"]),
        (["v1.0", "v1", "NaN", "1.0.0"], [2, 1, -1, 0], ["1.0.0", "v1", "v1.0"]),
        (["b", "NA", "a", "None"], [1, -1, 0, -1], ["a", "b"]),
        (["True", "null", "False", "<NA>"], [1, -1, 0, -1], ["False", "True"]),
    ],
)
def test_labels(tmp_path, labels, numbers, names):
    rows = [(label, 1.0) for label in labels] * 5
    data = read(write(tmp_path / "a.csv", ("label", "x"), *rows))
    assert data.y[:4].tolist() == numbers
    assert data.class_names == names


def test_what_spreadsheets_write(tmp_path):
    path = table(tmp_path / "a.csv")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n")
    assert torch.equal(read(path).x, DATA.x)


GOOD = ["label,f,g", *["a,1,2", "b,3,4"] * 6]


@pytest.mark.parametrize(
    ("place", "line", "message"),
    [
        (0, "", "must have a column 'label'|must begin"),
        (0, "y,f,g", "must have a column 'label' with the labels, but has y, f, g; name the right one with label, or"),
        (3, "1.5,1,2", "must be all numbers or all texts, but the text 'a' came among numbers"),
        (3, "?,1,2", "but '\\?' came among texts in 1 rows, the first row 2; .*unlabelled='\\?'"),
        (0, "label;f;g", "line 2: a line must have 3 cells, .* or name what separates cells with sep"),
        (0, "label,f,f", "must name every column once, but 'f' came"),
        (0, "label,f,", r"must name every column, but column 3 has no name; .* to_csv\(…, index=False\)"),
        (0, "label,id,train_mask", "must be its own|train_mask must be 0 or 1"),
        (3, "a,1", "line 4: a line must have 3 cells, as the first has, but 2 came"),
        (3, "a,1,2,3", "line 4: a line must have 3 cells, as the first has, but 4 came"),
        (3, "a,1,red", "line 4: g must be a finite number, but 'red' came"),
        (3, "a,1,", "line 4: g must be a finite number, but '' came"),
        (3, "a,nan,1", "line 4: f must be a finite number, but 'nan' came"),
        (3, "a,1,1e400", "line 4: g must be a finite number, but '1e400' came"),
        (3, "a,1,1e300", "x must be finite, but NaN or infinity came in 1 row, the first at node 2"),
        (3, 'a,1,"2', "must be text in UTF-8 with commas between cells"),
    ],
)
def test_damage(tmp_path, place, line, message):
    path = tmp_path / "a.csv"
    path.write_text("\n".join([*GOOD[:place], line, *GOOD[place + 1 :]]))
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must begin with a line of column names, but is empty"),
        (b"\n\n", "must begin with a line of column names, but is empty"),
        (b"label,f\n", "must have a line per node"),
        (b"label\na\nb\n", "must have columns of features, but has none; add some, or make them with features"),
        (b"label,f\n\xff\xfe,1\n", "must be text in UTF-8"),
        (b"label,f\na,1\nb,\0\n", "must be"),
        (b"label,f\n" + b"a,1\n" * 20, "labels must be of at least 2 classes, but 1 came"),
        (b"label,f\n" + b"-1,1\n1,2\n" * 20, "at least 2 classes, but 1 came .-1 marks unlabelled nodes"),
        (b"label,f\n" + b",1\n" * 20, "label some nodes"),
        (b"label,f\na,1\nb,1\n", "needs 7 labelled nodes, but 2 came"),
        (b"label,f,train_mask\na,1,yes\nb,1,0\n", "line 2: train_mask must be 0 or 1, or False or True, but 'yes'"),
        (b"label,f,id\na,1,p\nb,1,p\n", "line 3: the name of a node must be its own, but 'p' came before"),
        (b"label,f,id\na,1,p\nb,1,\n", "line 3: the name of a node must be its own, but is empty"),
        (b"label,f,id\na,1,p\x01\n", "line 2: the name of a node must be its own, but holds a control character"),
        (b'label,f,id\na,1,"p\nq"\n', "the name of a node must be its own, but holds a control character; rename it"),
        (b"label,f,id\na,1," + b"p" * 1001 + b"\n", "but has 1001 characters, more than 1000; rename it"),
    ],
)
def test_content(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("0", "1"), ("1", "48")], "line 2: '48' must be one of the 48 nodes, 0 … 47, numbered from 0 by their lines"),
        ([("source", "target"), ("0", "48")], "line 2: '48' must be one of the 48 nodes, 0 … 47, .*; correct it"),
        ([("48", "49"), ("0", "1")], "line 1: '48' must be one of the 48 nodes"),
        ([("source", "target"), ("0", "-1")], "line 2: '-1' must be one of the 48 nodes"),
        ([("source", "target", "year"), ("0", "1", "1")], "must have two columns, the nodes of an edge, and may have"),
        ([("a", "b", "weight", "weigh"), ("0", "1", "1", "1")], "and may have a third, weight, but has a, b, weight"),
        ([("a", "b", "weight"), ("0", "1", "1"), ("0", "2", "0.5")], "edge_weight must be 1 .* but 0.5 came"),
        ([("a", "b", "weight"), ("0", "1", "")], "line 2: weight must be 1, since every edge .* but '' came"),
        ([("0", "1", "weight"), ("1", "2", "1")], "line 1: weight must be 1, since every edge .* but 'weight' came"),
        ([("source",), ("0",)], "must have two columns"),
        ([("source", "target"), ("0",)], "line 2: a line must have 2 cells"),
        ([], "must hold edges, two nodes per line, but is empty"),
    ],
)
def test_edges(tmp_path, rows, message):
    path = write(tmp_path / "e.csv", *rows)
    with pytest.raises(DataError, match=message) as caught:
        read(table(tmp_path / "a.csv"), edges=path)
    assert str(path.parent) in str(caught.value)


def test_no_such_file(tmp_path):
    with pytest.raises(DataError, match=r"e\.csv cannot be read: No such file or directory; check"):
        read(table(tmp_path / "a.csv"), edges=tmp_path / "e.csv")
    with pytest.raises(DataError, match=r"b\.csv cannot be read: No such file or directory; check"):
        read(tmp_path / "b.csv")


def test_edges_lose_direction_duplicates_and_loops(tmp_path):
    path = write(tmp_path / "e.csv", ("from", "to"), (1, 0), (0, 1), (2, 2), (3, 2))
    assert read(table(tmp_path / "a.csv"), edges=path).edge_index.tolist() == [[0, 1, 2, 3], [1, 0, 3, 2]]


def test_weights_of_one(tmp_path):
    path = write(tmp_path / "e.csv", ("from", "to", "weight"), (1, 0, 1), (3, 2, "1.0"))
    assert read(table(tmp_path / "a.csv"), edges=path).edge_index.tolist() == [[0, 1, 2, 3], [1, 0, 3, 2]]
