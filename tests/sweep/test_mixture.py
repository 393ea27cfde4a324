"""A sweep holds runs on one data set and of one version."""

import json

import pytest

from lds._sums import with_sum
from lds.errors import InputError
from lds.sweep import Spec, read_results, run_sweep
from tests.data.own.test_csv import edges, table
from tests.sweep.test_run import Here


def spec(data, seeds=(0,), **fields):
    return Spec.make({"name": "own", "runs": [{"data": str(data), "method": "logreg", "seed": list(seeds), **fields}]})


def sweep(what, out):
    engine = Here()
    outcomes = run_sweep(what, out, engine, progress=False)
    return outcomes, [config.seed for config in engine.ran]


@pytest.fixture
def data(tmp_path):
    return table(tmp_path / "own.csv")


@pytest.fixture
def out(tmp_path, data):
    sweep(spec(data, (0, 1)), tmp_path / "out")
    return tmp_path / "out"


def change(path):
    """Put another data set of the same size in its place."""
    table(path, names=("virginica", "setosa", "versicolor"))


def test_the_same_file_written_again(out, data):
    data.write_bytes(data.read_bytes())
    assert sweep(spec(data, (0, 1, 2)), out)[1] == [2]


def test_another_file_in_its_place(out, data):
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    good = data.read_bytes()
    change(data)
    for seeds in ((0, 1, 2), (1,)):
        with pytest.raises(
            InputError,
            match=r"on the same data, but .*own\.csv has changed since the run own_csv-logreg-\w{10}; bring the file",
        ):
            sweep(spec(data, seeds), out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    data.write_bytes(good)
    assert sweep(spec(data, (0, 1, 2)), out)[1] == [2]


def test_other_edges_in_their_place(tmp_path, data):
    links = edges(tmp_path / "links.csv", range(48))
    fields = {"method": "gcn", "edges": str(links), "retain": 0.5}
    sweep(spec(data, **fields), tmp_path / "out")
    assert sweep(spec(data, (0, 1), **fields), tmp_path / "out")[1] == [1]
    links.write_text("source,target\n0,1\n")
    with pytest.raises(InputError, match=r"own\.csv or .*links\.csv has changed"):
        sweep(spec(data, (0, 1, 2), **fields), tmp_path / "out")


def test_a_file_that_changes_meanwhile(tmp_path, data):
    class Changing(Here):
        def run(self, jobs):
            for reply in super().run(jobs):
                yield reply
                change(data)

    with pytest.raises(InputError, match="has changed since the run"):
        run_sweep(spec(data, (0, 1)), tmp_path / "out", Changing(), progress=False)
    with pytest.raises(InputError, match="has changed since the run"):
        sweep(spec(data, (0, 1)), tmp_path / "out")
    assert len(read_results(tmp_path / "out")) == 2


def test_a_file_that_is_gone(out, data):
    """What has ended stays readable, on another machine too; what is added fails."""
    first = read_results(out)
    data.unlink()
    assert sweep(spec(data, (0, 1)), out) == (first, [])
    outcomes, ran = sweep(spec(data, (0, 1, 2)), out)
    assert (outcomes[:2], ran, outcomes[2].status) == (first, [2], "failed")


def test_other_runs_of_the_file_count_only_while_they_are_part_of_the_sweep(out, data):
    change(data)
    assert sweep(spec(data, (2,)), out)[1] == [2]


def test_another_version(out, data):
    ledger = out / "results.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    lines[0]["result"]["versions"]["lds"] = "0.0.9"
    del lines[0]["sum"]
    lines[0] = with_sum(lines[0])
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert sweep(spec(data, (0, 1)), out)[1] == []
    with pytest.raises(InputError, match=r"holds runs of lds 0\.0\.9, but this is lds .* add runs with that version"):
        sweep(spec(data, (0, 1, 2)), out)
