"""Pieces of work: what is done is not done again, and a line that was cut off is."""

import importlib
import json

import pytest

from lds.sweep import Job


def square(x):
    if x < 0:
        raise ValueError("negative")
    return {"value": x * x}


@pytest.fixture
def run_pieces():
    return importlib.import_module("pieces").run_pieces


def test_it_goes_on_where_it_stopped(run_pieces, tmp_path):
    path = tmp_path / "out" / "runs.jsonl"
    pieces = [Job(f"piece {x}", square, (x,)) for x in (1, 2, 3)]
    assert [found["value"] for found in run_pieces(path, pieces[:2], 1, "run")] == [1, 4]
    lines = path.read_text().splitlines()
    # A result that no work gives shows that the piece is not run again; the second line was cut off.
    path.write_text(json.dumps({"piece": "piece 1", "value": 100}) + "\n" + lines[1][:5])
    assert [found["value"] for found in run_pieces(path, pieces, 2, "run")] == [100, 4, 9]
    assert json.loads(path.read_text().splitlines()[0])["piece"] == "piece 1"
    assert len(path.read_text().splitlines()) == 3


def test_a_piece_that_fails_is_named_and_the_others_are_kept(run_pieces, tmp_path):
    path = tmp_path / "runs.jsonl"
    pieces = [Job(f"piece {x}", square, (x,)) for x in (2, -1)]
    with pytest.raises(RuntimeError, match=r"piece -1 failed: negative"):
        run_pieces(path, pieces, 1, "run")
    assert json.loads(path.read_text())["value"] == 4
