"""Files of plain values: what is malformed is named by file and line."""

import math

import pytest

from lds._read import read_csv, read_json, read_jsonl, read_yaml
from lds.errors import DataError


def test_jsonl(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n\n{"a": NaN}\n')
    rows, torn = read_jsonl(file)
    assert not torn
    assert [row.where for row in rows] == [f"{file}:1", f"{file}:3"]
    assert math.isnan(rows[1].values["a"])


def test_a_torn_last_line(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n{"a": ')
    rows, torn = read_jsonl(file)
    assert torn
    assert len(rows) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": \n', r"a\.jsonl:2 must be a JSON object, but expecting value at column 7"),
        ("\n[1]\n", r"a\.jsonl:2 must hold names and values, but holds list"),
        ("[" * 100_000 + "\n", r"a\.jsonl:1 must be"),
    ],
)
def test_malformed_jsonl(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        read_jsonl(tmp_path / "a.jsonl")


@pytest.mark.parametrize(("text", "line"), [("", 1), ('{\n"a": 1,\n', 3), ("{\n1}", 2)])
def test_malformed_json(tmp_path, text, line):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=rf"a\.json:{line} must be JSON, but"):
        read_json(tmp_path / "a.json")


def test_malformed_yaml(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1\nb: [1\nc: 2\n")
    with pytest.raises(DataError, match=r"a\.yaml:3 must be YAML"):
        read_yaml(tmp_path / "a.yaml")


def test_no_text(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(DataError, match="must be UTF-8 text, but byte 7 is not"):
        read_json(tmp_path / "a.json")


def test_csv(tmp_path):
    (tmp_path / "a.csv").write_text("x,y,z\n1,2.5,no number\n\n2,,\n")
    first, second = read_csv(tmp_path / "a.csv", ["y", "x"])
    assert first == {"y": 2.5, "x": 1}
    assert second["x"] == 2
    assert math.isnan(second["y"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a\.csv:1 needs the columns x, y, but lacks x, y"),
        ("x,z\n1,2\n", r"a\.csv:1 needs the columns x, y, but lacks y"),
        ("x,y\n1,2\n1\n", r"a\.csv:3 needs 2 cells, as the header has, but holds 1"),
        ("x,y\n1,many\n", r"a\.csv:2 needs a number as y, but holds 'many'"),
    ],
)
def test_malformed_csv(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_csv(tmp_path / "a.csv", ["x", "y"])
