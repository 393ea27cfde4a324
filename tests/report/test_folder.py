import json
import math

import pytest

from lds.ablate import Ablation
from lds.ablate._ablation_folder import AblationFolder
from lds.errors import DataError, InputError
from lds.report._sections import read_folder
from lds.run._reader import Run
from lds.sweep._grid_folder import GridFolder
from tests.report import samples


@pytest.mark.parametrize(
    ("make", "kind"),
    [(samples.run_folder, Run), (samples.sweep_folder, GridFolder), (samples.ablation_folder, AblationFolder)],
)
def test_what_a_folder_is(tmp_path, make, kind):
    assert type(read_folder(make(tmp_path / "it"))) is kind


def test_what_is_no_folder_of_ours(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="but nothing is there"):
        read_folder(tmp_path / "absent")
    with pytest.raises(InputError, match="but a file is there"):
        read_folder(tmp_path / "file")
    with pytest.raises(InputError, match="but holds none of these"):
        read_folder(tmp_path)


def test_a_run(tmp_path):
    run = read_folder(samples.run_folder(tmp_path / "run", k=20, seed=7))
    assert (run.dataset, run.method, run.seed) == ("wine", "knn-lds", 7)
    assert run.setting == "knn-lds, k 20"  # tau 5 and metric cosine are the defaults
    assert run.best.epoch == 2
    assert run.figure("test_accuracy") == 0.9189
    assert run.figure("no such figure") is None


def test_a_run_in_progress_may_end_half_way(tmp_path):
    folder = samples.run_folder(tmp_path / "run", count=3, done=False)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "inner')
    run = read_folder(folder)
    assert run.result is None
    assert len(run.epochs) == 3


def test_a_run_that_has_ended_may_not(tmp_path):
    folder = samples.run_folder(tmp_path / "run", count=3)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "inner')
    with pytest.raises(DataError, match=r"metrics\.jsonl:4 ends half-way"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.yaml", "tau: 5\n", "needs the configuration of a run with its dataset"),
        ("config.yaml", "dataset: wine\nseed: x\n", "needs an integer as seed, but holds 'x'"),
        ("metrics.jsonl", '{"epoch": 1}\n', r"metrics\.jsonl:1 needs the field inner_loss"),
        ("result.json", "{}", r"result\.json needs the field test_accuracy"),
        ("result.json", '{"test_accuracy": 1, "versions": 3}', "needs names and numbers as versions"),
    ],
)
def test_malformed_runs(tmp_path, file, text, message):
    folder = samples.run_folder(tmp_path / "run")
    (folder / file).write_text(text)
    with pytest.raises(DataError, match=message):
        read_folder(folder)


def test_a_sweep(tmp_path):
    sweep = read_folder(samples.sweep_folder(tmp_path / "sweep"))
    assert len(sweep.done) == 12
    (failed,) = sweep.failed
    assert failed.failure.message == "inner loss is NaN"
    assert [run.path.name for run in sweep.in_progress] == ["going-on"]
    assert not sweep.torn


def test_a_later_line_of_a_sweep_counts(tmp_path):
    config = {"dataset": "wine", "method": "knn-lds", "seed": 1}
    error = {"type": "E", "message": "m", "traceback": None}
    rows = [
        {"config": config, "status": "failed", "error": error},
        {"config": config | {"tau": 5}, "status": "done", "result": samples.result(0.9)},  # 5 is the default
    ]
    samples.write_lines(tmp_path / "results.jsonl", rows)
    sweep = read_folder(tmp_path)
    assert (len(sweep.done), sweep.failed) == (1, ())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"status": "done"}, "needs the configuration of a run"),
        ({"config": {"dataset": "wine"}, "status": "lost"}, 'needs "done" or "failed" as status'),
        ({"config": {"dataset": "wine"}, "status": "done"}, "needs the result of a run, but holds None"),
        ({"config": {"dataset": "wine"}, "status": "failed"}, "needs type, message and traceback as error"),
    ],
)
def test_malformed_sweeps(tmp_path, row, message):
    (tmp_path / "results.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=rf"results\.jsonl:1 {message}"):
        read_folder(tmp_path)


def test_an_ablation(tmp_path):
    ablation = read_folder(samples.ablation_folder(tmp_path / "ablation"))
    assert len(ablation.outcome.rows) == 20
    assert ablation.outcome.curve.relative_error == [math.exp(-depth / 3) for depth in range(20)] + [0.0]
    assert ablation.recommendation["horizon"] == 10


def test_the_runs_of_an_ablation_may_have_a_folder_of_their_own(tmp_path):
    folder = samples.ablation_folder(tmp_path / "ablation")
    assert len(read_folder(folder).grid.done) == 20
    (folder / "sweep").mkdir()
    (folder / "results.jsonl").rename(folder / "sweep" / "results.jsonl")
    assert len(read_folder(folder).grid.done) == 20
    samples.sweep_folder(tmp_path / "other")
    (tmp_path / "other" / "results.jsonl").replace(folder / "sweep" / "results.jsonl")
    with pytest.raises(DataError, match=r"ablation\.csv must be of the runs in .*, but that of horizon 0"):
        read_folder(folder)


def test_an_ablation_that_goes_on(tmp_path):
    (tmp_path / "ablation.yaml").write_text("dataset: wine\n")
    ablation = read_folder(tmp_path)
    assert (ablation.outcome, ablation.recommendation, ablation.grid) == (Ablation(()), None, None)


def test_the_order_of_a_sweep_is_not_that_of_its_lines(tmp_path):
    settings = [("lds", 10, 1), ("lds", 5, 2), ("gcn", None, 1), ("lds", 5, 1)]
    configs = [{"dataset": "wine", "method": m, "horizon": h, "seed": s} for m, h, s in settings]
    rows = [{"config": config, "status": "done", "result": samples.result(0.9)} for config in configs]
    samples.write_lines(tmp_path / "results.jsonl", rows)
    order = [(run.setting, run.seed) for run in read_folder(tmp_path).done]
    assert order == [("gcn", 1), ("lds, horizon 5", 1), ("lds, horizon 5", 2), ("lds, horizon 10", 1)]
