"""A sweep into a folder, on an engine that runs everything here."""

import csv

import pytest

from lds.errors import InputError
from lds.sweep import Outcome, ProcessEngine, Spec, read_results, run_sweep
from lds.sweep._grid import GridBar
from lds.sweep._worker import execute
from tests.data.own.test_csv import table


class Here:
    """Runs jobs in this process, the last first, and remembers them."""

    def __init__(self, stop_after=None):
        self.ran = []
        self.stop_after = stop_after

    def run(self, jobs):
        for job in reversed(jobs):
            if self.stop_after is not None and len(self.ran) == self.stop_after:
                raise KeyboardInterrupt
            self.ran.append(job.arguments[0])
            yield job, execute(job, 1)


def spec(seeds=(0, 1), name="small", **fields):
    return Spec.make({"name": name, "runs": [{"dataset": "wine", "method": "logreg", "seed": list(seeds), **fields}]})


def sweep(what, out, **options):
    engine = Here()
    outcomes = run_sweep(what, out, engine, progress=False, **options)
    return outcomes, [config.seed for config in engine.ran]


BAD = Spec.make({"name": "small", "runs": [{"dataset": "wine", "method": ["lds", "logreg"]}]})


def test_what_a_sweep_leaves(tmp_path):
    outcomes, ran = sweep(spec(C=2), tmp_path / "out")
    assert ran == [1, 0]
    assert [outcome.config for outcome in outcomes] == [
        {"dataset": "wine", "method": "logreg", "C": 2.0, "seed": seed} for seed in (0, 1)
    ]
    assert read_results(tmp_path / "out") == outcomes
    assert read_results(tmp_path / "out" / "results.jsonl") == outcomes[::-1]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "sweep.yaml", "results.jsonl", "results.csv", "runs",
    }  # fmt: skip
    assert len(list((tmp_path / "out" / "runs").glob("wine-logreg-*/result.json"))) == 2
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 2
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["dataset"], row["C"], row["seed"], row["status"], row["error"]) for row in rows] == [
        ("wine", "2.0", seed, "done", "") for seed in "01"
    ]
    assert [float(row["test_accuracy"]) for row in rows] == [o.result["test_accuracy"] for o in outcomes]
    assert "versions" not in rows[0]


def test_finished_runs_are_not_repeated_and_the_description_may_grow(tmp_path):
    first, _ = sweep(spec(), tmp_path)
    assert sweep(spec(), tmp_path) == (first, [])
    grown, ran = sweep(spec((2, 0, 1)), tmp_path)
    assert ran == [2]
    assert grown[1:] == first
    shrunk, ran = sweep(spec((1,)), tmp_path)
    assert (shrunk, ran) == (first[1:], [])
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 2


def test_the_ledger_alone_is_enough(tmp_path):
    first, _ = sweep(spec(), tmp_path / "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "results.jsonl").write_bytes((tmp_path / "one" / "results.jsonl").read_bytes())
    assert sweep(spec(), tmp_path / "two") == (first, [])
    assert (tmp_path / "two" / "results.csv").read_bytes() == (tmp_path / "one" / "results.csv").read_bytes()


def test_a_run_whose_line_is_lost_is_read_from_its_folder(tmp_path, monkeypatch):
    first, _ = sweep(spec(), tmp_path)
    (tmp_path / "results.jsonl").write_text("")
    monkeypatch.setattr("lds.run._train.train", lambda *args, **kwargs: pytest.fail("ran again"))
    assert sweep(spec(), tmp_path)[0] == first


def test_an_interrupt_keeps_what_is_done(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_sweep(spec((0, 1, 2)), tmp_path, Here(stop_after=1), progress=False)
    assert [outcome.config["seed"] for outcome in read_results(tmp_path)] == [2]
    assert sweep(spec((0, 1, 2)), tmp_path)[1] == [1, 0]


def test_a_failed_run_is_recorded_and_repeated_on_demand_only(tmp_path):
    (bad, good), ran = sweep(BAD, tmp_path)
    assert (bad.status, bad.result, good.status, good.error) == ("failed", None, "done", None)
    assert bad.error["type"] == "InputError"
    assert bad.error["message"].startswith("the data brings no edges")
    assert bad.error["traceback"].startswith("Traceback")
    assert "InputError: the data brings no edges" in (tmp_path / "results.csv").read_text()
    assert len(ran) == 2
    assert sweep(BAD, tmp_path)[1] == []
    assert len(sweep(BAD, tmp_path, retry_failed=True)[1]) == 1
    assert len(read_results(tmp_path)) == 2


def test_keep(tmp_path):
    data = str(table(tmp_path / "own.csv", ids=range(48)))
    what = Spec.make({"name": "a", "runs": [{"data": data, "method": ["knn-gcn", "logreg"]}]})
    sweep(what, tmp_path / "old")
    bulk = {"checkpoint.pt", "graph.npz", "predictions.npy", "predictions.csv", "node_names.json", "class_names.json"}
    assert bulk <= {path.name for path in tmp_path.rglob("*")}
    sweep(what, tmp_path / "old", keep="metrics")
    left = [path.name for path in tmp_path.rglob("old/runs/*/*")]
    assert sorted(left) == ["config.yaml", "config.yaml", "metrics.jsonl", "result.json", "result.json"]
    sweep(what, tmp_path / "new", keep="metrics")
    assert not bulk & {path.name for path in (tmp_path / "new").rglob("*")}


def test_the_data_root_is_no_part_of_a_run(tmp_path):
    engine = Here()
    run_sweep(spec(), tmp_path / "out", engine, data_root="here", progress=False)
    assert {config.data_root for config in engine.ran} == {str(tmp_path.cwd() / "here")}
    assert sweep(spec(), tmp_path / "out", data_root="there")[1] == []


def test_another_sweep(tmp_path):
    sweep(spec(), tmp_path)
    with pytest.raises(InputError, match="must be a folder of the sweep other, but holds small"):
        sweep(spec(name="other"), tmp_path)


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InputError, match="but holds files"):
        sweep(spec(), tmp_path)
    with pytest.raises(InputError, match="cannot be made"):
        sweep(spec(), tmp_path / "mine" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_bar_counts_runs_and_failures(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    run = {"dataset": "wine", "method": "gcn", "seed": 0}
    with GridBar("name", 5, [Outcome(run, "done", {}), Outcome(run, "failed", error={})], hide=False) as bar:
        bar.add(Outcome(run, "failed", error={}))
    shown = capsys.readouterr().err
    for part in ("name:  40%", "2/5", "failed=1", "name:  60%", "3/5", "failed=2"):
        assert part in shown
    with GridBar("name", 5, [], hide=True):
        pass
    assert capsys.readouterr().err == ""


def test_the_engine_of_processes(tmp_path):
    outcomes = run_sweep(BAD, tmp_path, ProcessEngine(2), progress=False)
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]
