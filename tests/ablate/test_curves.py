"""Trajectories of an ablation on an engine that computes nothing."""

import json
import math

import pytest

from lds.ablate import AblationConfig
from lds.ablate._fidelity import average, curves
from lds.hypergrad import TruncationCurve
from lds.run import TrainConfig
from lds.sweep import Failure, Reply
from lds.sweep._spec import folder_name, identity
from tests.data.own.test_csv import table

TRAIN = TrainConfig("wine", method="knn-lds")


class Engine:
    """Replies with the same curve to all jobs but those whose name holds a word, and counts them."""

    def __init__(self, failing="nothing"):
        self.failing = failing
        self.names = []

    def run(self, jobs):
        for job in reversed(jobs):  # In any order.
            self.names.append(job.name)
            steps = job.arguments[1]
            curve = TruncationCurve([1.0] * steps + [0.0], [float("nan")] + [1.0] * steps, [2.0] * (steps + 1))
            failed = Reply(error=Failure("NumericalError", "it is\nnot finite"))
            yield job, failed if self.failing in job.name else Reply(curve)


def config(seeds=(1, 2), horizons=(0, 4), steps=3):
    return AblationConfig(TRAIN, horizons, seeds, steps)


def compute(folder, engine, config, progress=False):
    return curves(config, folder / "runs", folder / "fidelity", engine, data_root=None, progress=progress)


def learned(folder, seed, horizon=4):
    run = folder / "runs" / folder_name(identity(TrainConfig("wine", method="knn-lds", horizon=horizon, seed=seed)))
    run.mkdir(parents=True)
    (run / "checkpoint.pt").touch()


def test_finished_ones_are_not_repeated(tmp_path):
    learned(tmp_path, 2)
    first = Engine()
    found, failed = compute(tmp_path, first, config())
    assert sorted(first.names) == [
        "fidelity, seed 1, initial graph",
        "fidelity, seed 2, initial graph",
        "fidelity, seed 2, learned graph",
    ]
    assert len(found) == 3
    (line,) = failed
    assert line.startswith("fidelity, seed 1, learned graph, is left out: the run wine-knn-lds-")
    again = Engine()
    assert repr(compute(tmp_path, again, config())) == repr((found, failed))  # NaN is not equal to itself.
    assert again.names == []
    assert sorted(path.name for path in (tmp_path / "fidelity").iterdir()) == [
        "seed-1-initial.json",
        "seed-2-horizon-4.json",
        "seed-2-initial.json",
    ]


def test_a_curve_outlives_its_graph(tmp_path):
    learned(tmp_path, 1)
    found, _ = compute(tmp_path, Engine(), config(seeds=[1]))
    (graph,) = tmp_path.rglob("checkpoint.pt")
    graph.unlink()
    again = Engine()
    assert repr(compute(tmp_path, again, config(seeds=[1]))) == repr((found, []))
    assert again.names == []


def test_a_curve_of_other_data(tmp_path):
    data = table(tmp_path / "own.csv")
    what = AblationConfig(TrainConfig(data=str(data), method="knn-lds"), [4], [1], 3)
    compute(tmp_path, Engine(), what)
    same = Engine()
    compute(tmp_path, same, what)
    assert same.names == []
    table(data, names=("virginica", "setosa", "versicolor"))
    other = Engine()
    compute(tmp_path, other, what)
    assert other.names == ["fidelity, seed 1, initial graph"]


def test_what_is_another_trajectory(tmp_path):
    learned(tmp_path, 1)
    learned(tmp_path, 1, horizon=9)
    compute(tmp_path, Engine(), config(seeds=[1]))
    grown = Engine()
    compute(tmp_path, grown, config(seeds=[1, 3], horizons=[0, 4, 9]))
    assert sorted(grown.names) == ["fidelity, seed 1, learned graph", "fidelity, seed 3, initial graph"]
    longer = Engine()
    (curve, _), _ = compute(tmp_path, longer, config(seeds=[1], steps=5))
    assert len(longer.names) == 2
    assert len(curve.relative_error) == 6


def test_one_that_fails_is_named_and_tried_again(tmp_path):
    for seed in (1, 2, 3):
        learned(tmp_path, seed)
    found, failed = compute(tmp_path, Engine(failing="seed 2, initial"), config(seeds=[1, 2, 3]))
    assert len(found) == 5
    assert failed == ["fidelity, seed 2, initial graph, is left out: it is not finite"]
    again = Engine()
    found, failed = compute(tmp_path, again, config(seeds=[1, 2, 3]))
    assert (len(found), failed) == (6, [])
    assert again.names == ["fidelity, seed 2, initial graph"]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[1]", "{}", '{"relative_error": 1, "cosine": 1, "costate_norm": 1}', ["x"] * 4, [-math.inf] * 4],
)
def test_a_damaged_one_is_computed_again(tmp_path, content):
    compute(tmp_path, Engine(), config(seeds=[1]))
    (file,) = (tmp_path / "fidelity").iterdir()
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"cosine": content}) if isinstance(content, list) else content)
    again = Engine()
    compute(tmp_path, again, config(seeds=[1]))
    assert len(again.names) == 1
    assert json.loads(file.read_text())["relative_error"] == [1.0, 1.0, 1.0, 0.0]


def test_the_mean_of_large_norms():
    curves = [TruncationCurve([0.5], [1.0], [1e308])] * 3
    assert average(curves).costate_norm == pytest.approx([1e308])


def test_progress(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    compute(tmp_path, Engine(), config(), progress=False)
    assert capsys.readouterr().err == ""
    compute(tmp_path, Engine(), config(seeds=[1, 2, 3]), progress=True)
    shown = capsys.readouterr().err
    assert "fidelity" in shown
    assert "2/3" in shown  # Those of the first time.
    assert "3/3" in shown
