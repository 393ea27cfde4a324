"""Tables with categories, gaps, and cells that are neither."""

import pytest
import torch

from lds.data import from_networkx, prepare, read
from lds.errors import DataError, InputError

HEADER = "age,town,label"
ROWS = [f"{20 + i},{'ABC'[i % 3]},{'xy'[i % 2]}" for i in range(24)]


def table(tmp_path, rows=ROWS, header=HEADER):
    path = tmp_path / "a.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def replaced(place, row):
    return [*ROWS[:place], row, *ROWS[place + 1 :]]


@pytest.mark.parametrize("one_hot", ["town", ["town"], "all"])
def test_a_column_a_category(tmp_path, one_hot):
    data = read(table(tmp_path), one_hot=one_hot)
    assert data.x.shape == (24, 4)
    assert torch.equal(data.x[:, 0], torch.arange(20.0, 44.0))
    assert torch.equal(data.x[:, 1:], torch.eye(3).repeat(8, 1))


def test_numbers_can_be_categories(tmp_path):
    assert read(table(tmp_path), one_hot="age,town").x.shape == (24, 24 + 3)


def test_a_gap_is_in_no_category(tmp_path):
    data = read(table(tmp_path, replaced(4, "24,,x")), one_hot="town")
    assert data.x[4].tolist() == [24, 0, 0, 0]


@pytest.mark.parametrize("gap", ["", "NA", "nan", "?", "null", " "])
def test_the_mean_of_a_column_fills_its_gaps(tmp_path, gap):
    data = read(table(tmp_path, replaced(0, f"{gap},A,x")), one_hot="town", impute="mean")
    assert data.x[0, 0] == pytest.approx(sum(range(21, 44)) / 23)
    assert torch.equal(data.x[1:, 0], torch.arange(21.0, 44.0))


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            ROWS,
            {},
            r"a\.csv: 24 cells must be finite numbers, .*: line 2, town 'A'; .*; and 19 more; ",
        ),
        (ROWS, {}, r"one_hot \(--one-hot\).* drop=town$"),
        (replaced(3, "x,A,x"), {"one_hot": "town"}, "line 5: age must be a finite number, but 'x' came; "),
        (replaced(3, "inf,A,x"), {"one_hot": "town"}, "line 5: age must be a finite number, but 'inf' came; "),
        (replaced(3, "x,A,x"), {"one_hot": "town", "impute": "mean"}, "line 5: age must be a finite number, but 'x'"),
        (replaced(3, "x,A,x"), {"one_hot": "all"}, "line 5: age must hold numbers, or texts alone, but 'x' came among"),
        (
            replaced(3, "inf,A,x"),
            {"one_hot": "all"},
            "line 5: age must hold numbers, or texts alone, but 'inf'",
        ),
        (
            replaced(3, ",A,x"),
            {"one_hot": "all"},
            "line 5: age must be a finite .* cell is empty; .* mean",
        ),
        (replaced(3, ",A,x"), {"one_hot": "town"}, "line 5: age must be a finite number, but '' came; .* impute=mean"),
        ([f",{row.split(',', 1)[1]}" for row in ROWS], {"one_hot": "town", "impute": "mean"}, "every cell is empty"),
        (ROWS, {"one_hot": "city"}, "must have a column 'city' with the categories"),
        (ROWS, {"one_hot": "label"}, "one_hot must name columns of features, but label came"),
    ],
)
def test_what_is_refused(tmp_path, rows, options, message):
    with pytest.raises(DataError, match=message) as caught:
        read(table(tmp_path, rows), **options)
    assert len(str(caught.value)) < 700


def test_the_options_are_those_of_tables(tmp_path):
    with pytest.raises(InputError, match='impute must be "none" or "mean", got \'median\''):
        read(table(tmp_path), impute="median")
    for option in ({"one_hot": "town"}, {"impute": "mean"}):
        with pytest.raises(InputError, match=r"belongs to a .*csv.* file"):
            read(tmp_path / "a.npz", **option)


def test_attributes_of_networkx():
    networkx = pytest.importorskip("networkx")
    graph = networkx.path_graph(24)
    for i in range(24):
        graph.nodes[i].update(town="AB"[i % 2], label="xy"[i % 2], **({"age": i} if i else {}))
    data = prepare(from_networkx(graph, one_hot=("all",), impute="mean"))
    assert data.x.shape == (24, 3)
    assert sorted(data.x[0].tolist()) == [0, 1, 12]
