"""`lds ablate` on a data set, through the command line."""

import csv
import json
import shutil
import signal

import pytest
import torch
import yaml

from lds._files import alone
from lds._sums import with_sum
from lds.ablate import fidelity
from lds.cli import main
from lds.data import load
from lds.graph import KNNGraph
from lds.hypergrad import sweep
from lds.learner import StructureLearner
from tests.sweep.processes import Command, linux

SHORT = ["ablate", "--dataset", "wine", "--method", "knn-lds", "--max-epochs", "1", "--samples", "2", "--k", "3"]
SHORT += ["--hidden", "4", "--interval", "5", "--fidelity-steps", "8", "--progress", "false"]


def run(*argv):
    try:
        return main([str(arg) for arg in argv])
    except SystemExit as stop:
        return stop.code


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation") / "wine"
    assert run(*SHORT, "--horizons", 0, 7, "--seeds", 1, 2, "--out", folder) == 0
    return folder


def test_rows(folder):
    rows = table(folder / "ablation.csv")
    assert [(row["horizon"], row["seed"]) for row in rows] == [("0", "1"), ("0", "2"), ("7", "1"), ("7", "2")]
    assert all(0.3 < float(row["test_accuracy"]) <= 1 and float(row["seconds"]) > 0 for row in rows)
    assert yaml.safe_load((folder / "ablation.yaml").read_text())["interval"] == 5


def test_fidelity(folder):
    rows = table(folder / "fidelity.csv")
    assert [int(row["depth"]) for row in rows] == list(range(9))
    assert float(rows[-1]["relative_error"]) == 0
    assert float(rows[-1]["cosine"]) == pytest.approx(1)
    assert float(rows[0]["relative_error"]) > 0.01


def test_recommendation_and_report(folder):
    assert json.loads((folder / "recommendation.json").read_text())["horizon"] in (0, 7)
    page = (folder / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "recommend" in page.lower()


def test_goes_on_and_grows(folder, capsys):
    before = {row["seed"] + row["horizon"]: row for row in table(folder / "ablation.csv")}
    swept = {path.name: path.stat().st_mtime_ns for path in (folder / "fidelity").iterdir()}
    assert len(swept) == 4
    assert run(*SHORT, "--horizons", 0, 2, 7, "--seeds", 1, 2, "--out", folder) == 0
    after = {row["seed"] + row["horizon"]: row for row in table(folder / "ablation.csv")}
    assert {name: after[name] for name in before} == before
    assert len(after) == 6
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "fidelity").iterdir()} == swept
    printed = capsys.readouterr().out
    assert "recommended horizon: " in printed
    assert printed.splitlines()[0].split()[:4] == ["horizon", "seeds", "test", "accuracy"]


def test_a_trajectory_that_fails_is_left_out(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "fidelity" / "seed-1-horizon-7.json").unlink()
    for config in (tmp_path / "copy" / "sweep" / "runs").glob("*/config.yaml"):
        values = yaml.safe_load(config.read_text())
        if (values["horizon"], values["seed"]) == (7, 1):
            (config.parent / "checkpoint.pt").write_text("damaged")
    before = (tmp_path / "copy" / "fidelity.csv").read_text()
    assert run(*SHORT, "--horizons", 0, 7, "--seeds", 1, 2, "--out", tmp_path / "copy") == 1
    captured = capsys.readouterr()
    assert captured.err == (
        "lds: warning: fidelity, seed 1, learned graph, is left out: it is not what torch.save writes\n"
    )
    assert "recommended horizon: " in captured.out
    assert len(table(tmp_path / "copy" / "fidelity.csv")) == 9
    assert (tmp_path / "copy" / "fidelity.csv").read_text() != before


def test_a_graph_that_is_gone(folder, tmp_path, capsys):
    """Its curve is kept; where that is gone, too, the trajectory is named."""
    out = tmp_path / "copy"
    shutil.copytree(folder, out)
    for checkpoint in out.rglob("checkpoint.pt"):
        checkpoint.unlink()
    options = [*SHORT, "--horizons", 0, 7, "--seeds", 1, 2, "--out", out]
    before = (out / "fidelity.csv").read_bytes()
    assert run(*options) == 0
    assert (out / "fidelity.csv").read_bytes() == before
    (out / "fidelity" / "seed-2-horizon-7.json").unlink()
    assert run(*options) == 1
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("lds: warning: fidelity, seed 2, learned graph, is left out: the run wine-knn-lds-")
    assert warning.endswith(" has no checkpoint.pt")
    assert (out / "fidelity.csv").read_bytes() != before


def test_one_process_at_a_time(folder, monkeypatch, capsys):
    """A second one changes nothing."""
    monkeypatch.setattr("lds._files.PATIENCE_SECONDS", 0.0)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with alone(folder):
        assert run(*SHORT, "--horizons", 0, 3, 7, "--seeds", 1, 2, "--out", folder) == 2
    assert "must be a folder that no other process works in, but one does" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@linux
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped(tmp_path, number, code):
    out = tmp_path / "out"
    options = [*SHORT[1:], "--max-epochs", "100000", "--patience", "100000", "--horizons", "0", "--seeds", "1"]
    process = Command("ablate", *options, "--out", out)
    process.wait_for(lambda: list(out.rglob("config.yaml")))
    process.process.send_signal(number)
    name = signal.Signals(number).name
    assert process.finish() == (code, "", f"lds: stopped by {name}; the same command goes on with what is in {out}\n")
    assert process.all_gone()


def test_everything_fails(tmp_path, capsys):
    assert run(*SHORT, "--horizons", 0, "--seeds", 3, "--inner-lr", 1e30, "--out", tmp_path / "all") == 1
    captured = capsys.readouterr()
    assert captured.out == (
        f"no run has ended well: there is no accuracy to show\nreport {tmp_path / 'all' / 'report.html'}\n"
    )
    initial, learned, failed = captured.err.splitlines()
    assert initial.startswith("lds: warning: fidelity, seed 3, initial graph, is left out: the inner objective must be")
    assert learned.startswith("lds: warning: fidelity, seed 3, learned graph, is left out: the run wine-knn-lds-")
    assert failed == "lds: 1 of 1 runs failed; the report has their tracebacks"
    page = (tmp_path / "all" / "report.html").read_text()
    for text in ("1 run has failed", "there is no recommendation yet", "There is no fidelity.csv"):
        assert text in page
    assert not (tmp_path / "all" / "fidelity.csv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--horizons", 0, "--k", 4], "holds an ablation of another configuration; choose another --out"),
        (["--horizons", 1, 1], "horizons must be one or more different integers, got [1, 1]"),
        (["--horizons", -1], "horizons must be >= 0, got -1"),
        (["--horizons", 1, "--seeds", 2, 2], "seeds must be one or more different integers, got [2, 2]"),
        (["--horizons", 1, "--method", "knn-gcn"], "method must be lds or knn-lds to have a horizon, got 'knn-gcn'"),
        (["--horizons", 1, "--fidelity-steps", 0], "fidelity_steps must be at least 1, got 0"),
    ],
)
def test_bad_input(folder, options, message, capsys):
    assert run(*SHORT, *options, "--out", folder) == 2
    assert message in capsys.readouterr().err


def test_missing_data_is_one_error(tmp_path, capsys):
    options = ["ablate", "--dataset", "cora", "--data-root", tmp_path, "--horizons", 0, 1, "--out", tmp_path / "out"]
    assert run(*options) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_failed_is_tried_again(tmp_path, capsys):
    options = [*SHORT, "--horizons", 0, "--fidelity-steps", 1, "--out", tmp_path / "out"]
    assert run(*options, "--seeds", 3) == 0
    ledger = tmp_path / "out" / "sweep" / "results.jsonl"
    outcome = json.loads(ledger.read_text()) | {"status": "failed", "error": {"type": "X", "message": "no memory"}}
    del outcome["sum"]
    ledger.write_text(json.dumps(with_sum(outcome | {"result": None})) + "\n")
    assert run(*options, "--seeds", 3) == 0
    assert [json.loads(line)["status"] for line in ledger.read_text().splitlines()] == ["failed", "done"]


def test_a_folder_of_something_else(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("...")
    assert run(*SHORT, "--horizons", 1, "--out", tmp_path) == 2
    assert "must be new, empty or the folder of an ablation" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_place_of_the_folder(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run(*SHORT, "--horizons", 1, "--out", tmp_path / "file") == 2
    assert capsys.readouterr().err.endswith("file cannot be made: File exists; choose another --out\n")


def test_fidelity_is_that_of_the_sweep():
    data = load("wine", seed=0)
    learner = StructureLearner(graph=KNNGraph(3))
    curve = fidelity(learner, data, steps=5, seed=4)
    problem = learner.problem(data, steps=5, seed=4)
    steps = list(sweep(problem.record(horizon=None), problem.outer_objective))
    grads = [step.grad["structure"].to_dense().triu(1) for step in steps]
    for k, grad in enumerate(grads):
        expected = float((grad - grads[-1]).norm() / grads[-1].norm())
        assert curve.relative_error[k] == pytest.approx(expected, abs=1e-4)


def test_fidelity_at_a_learned_graph():
    data = load("wine", seed=0)
    learner = StructureLearner(graph=KNNGraph(3), max_epochs=1)
    theta = learner.fit(data).structure.state()
    first, second = (fidelity(learner, data, steps=3, theta=t) for t in (None, theta))
    assert first.relative_error != second.relative_error
    problem = learner.problem(data, steps=3, theta=theta)
    assert torch.equal(problem.outer["structure"].state(), theta)
