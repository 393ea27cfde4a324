"""The method auto: what it compares, what it chooses, and that it goes on where it was cut off."""

import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from lds._callbacks import Callback
from lds._signals import Interrupted
from lds.cli import main
from lds.errors import DataError, InputError, NumericalError
from lds.learner import Choice, StructureLearner, alternatives
from lds.run import TrainConfig, load_data, read_structure, replay_failure, resume, train
from lds.run._learner import make_alternatives
from lds.run._saving import take_compared
from lds.sweep import ProcessEngine, Spec, run_sweep
from tests.report.test_write import page

NAMES = ["ffnn (train+val)", "ffnn", "knn-gcn (train+val)", "knn-gcn", "knn-lds"]
GIVEN = [*NAMES[:-1], "gcn (train+val)", "gcn", "lds"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A file with two classes that features tell apart."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data")
    rows = [f"{i},{', '.join(f'{x:.3f}' for x in random.normal(2 * (i % 2), 1, 3))},{i % 2}" for i in range(40)]
    (folder / "points.csv").write_text("\n".join(["id,a,b,c,label", *rows]) + "\n")
    (folder / "edges.csv").write_text("source,target\n" + "".join(f"{i},{i + 2}\n" for i in range(38)))
    return folder


@pytest.fixture
def config(table):
    sizes = {"train_size": 8, "val_size": 8, "es_size": 8}
    return TrainConfig(data=str(table / "points.csv"), method="auto", k=3, max_epochs=1, samples=2, hidden=4, **sizes)


@pytest.fixture(autouse=True)
def few_folds(monkeypatch):
    monkeypatch.setattr("lds.learner._alternatives._FOLDS", 2)
    monkeypatch.setattr("lds.learner._alternatives._REPEATS", 1)


def run(*argv):
    try:
        return main([str(arg) for arg in argv])
    except SystemExit as stop:
        return stop.code


def logits(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["logits"]


def chosen_to_be(name, monkeypatch):
    """Have the comparison end so, whatever it finds."""

    def choose(data, learners, **options):
        return Choice(name, {}, 0, f"{name} is chosen: here")

    monkeypatch.setattr("lds.run._auto.choose_alternative", choose)


def test_what_is_chosen_is_trained_as_it_would_be_alone(config, tmp_path):
    result = train(config, tmp_path / "auto", progress=False)
    assert list(result["scores"]) == NAMES
    assert result["chosen"] in NAMES
    assert result["method"] == "auto"
    assert result["reason"].startswith(f"{result['chosen']} is chosen: ")
    assert set(result["scores"]["ffnn"]) == {"accuracy", "loss", "excess", "error", "nodes"}
    assert result["scores"]["ffnn"]["nodes"] == 24
    method, _, same_labels = result["chosen"].partition(" ")
    alone = replace(config, method=method, train_on="train+val" if same_labels else "train")
    train(alone, tmp_path / "alone", progress=False)
    assert torch.equal(logits(tmp_path / "auto"), logits(tmp_path / "alone"))
    assert not (tmp_path / "auto" / "progress.pt").exists()


@pytest.mark.parametrize("name", ["ffnn", "knn-gcn (train+val)", "knn-lds"])
def test_everything_that_follows_knows_what_was_chosen(config, tmp_path, monkeypatch, capsys, name):
    chosen_to_be(name, monkeypatch)
    folder = tmp_path / "run"
    result = train(config, folder, progress=False)
    # As a comparison leaves them.
    assert result["scores"] == {}
    html = page(folder, out=tmp_path / "report.html")
    assert f"{name} is chosen: here." in html
    if name == "ffnn":
        assert "ffnn, which was chosen, uses no graph." in html
        with pytest.raises(InputError, match="must be a run with a graph, but ffnn has none"):
            read_structure(folder)
        assert run("train", "--resume", folder, "--progress", "false") == 0
        assert "lds export" not in capsys.readouterr().out
    else:
        assert "within classes" in html
        assert (read_structure(folder).num_nodes, run("export", folder)) == (40, 0)
        assert "of the initial" in capsys.readouterr().out


def test_edges_are_compared_where_there_are_some(config, table):
    assert list(make_alternatives(config, load_data(config))) == NAMES
    config = replace(config, edges=str(table / "edges.csv"))
    found = make_alternatives(config, load_data(config))
    assert list(found) == GIVEN
    assert list(found) == list(alternatives(StructureLearner(), {"knn": None, "given": None}))


@pytest.mark.parametrize(
    ("options", "edges", "unused"),
    [
        ({"k": 3, "metric": "minkowski", "outer_lr": 0.1, "max_epochs": 3, "refit": 2}, True, []),
        ({"k": 3, "metric": "minkowski", "candidates": "knn:3", "score": "metric"}, False, []),
        ({"retain": 0.5}, True, []),
        ({"retain": 0.5}, False, ["retain"]),
    ],
)
def test_options_without_effect(options, edges, unused):
    config = TrainConfig("cora" if edges else "wine", "auto", **options)
    assert config.without_effect(has_edges=edges) == unused
    # Those that no alternative makes use of, of all that there are.
    kinds = {"knn": None} | ({"given": None} if edges else {})
    of_each = [config.fitted(name).without_effect(has_edges=edges) for name in alternatives(StructureLearner(), kinds)]
    assert set(unused) == set.intersection(*map(set, of_each))


def test_weights_to_start_from_are_refused(table):
    with pytest.raises(
        InputError, match="auto compares networks on the given graph as it is, but weights initial came"
    ):
        TrainConfig(data="points.csv", method="auto", weights="initial")


class Stop(Callback):
    """Asks to stop, or fails, after so many folds or in an outer step."""

    def __init__(self, folds=None, *, step=None, kill=False):
        self.left, self.step, self.kill, self.seen = folds, step, kill, []

    def on_fold(self, record):
        self.seen.append((record.fold, record.learner))
        if len(self.seen) == self.left:
            self.end()

    def on_step(self, record):
        if record.outer_step == self.step:
            self.end()

    def end(self):
        if self.kill:
            raise RuntimeError("killed")
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("folds", [1, 7])
@pytest.mark.parametrize("kill", [False, True])
def test_a_comparison_goes_on(config, tmp_path, folds, kill):
    whole = train(config, tmp_path / "whole", progress=False)
    stop, rest, folder = Stop(folds, kill=kill), Stop(), tmp_path / "run"
    with pytest.raises(RuntimeError if kill else Interrupted) as caught:
        train(config, folder, progress=False, callbacks=[stop])
    if not kill:
        assert str(caught.value) == f"stopped by SIGTERM; lds train --resume {folder} goes on from here"
    result = resume(folder, progress=False, callbacks=[rest])
    # What was told before it was saved is done again.
    assert len(rest.seen) == 10 - folds + kill
    assert set(stop.seen) | set(rest.seen) == {(fold, name) for fold in (1, 2) for name in NAMES}
    assert (result["scores"], result["test_accuracy"]) == (whole["scores"], whole["test_accuracy"])
    assert torch.equal(logits(folder), logits(tmp_path / "whole"))


def test_a_stop_in_a_long_fit_does_not_wait_for_its_end(config, tmp_path, monkeypatch):
    fit = StructureLearner.fit

    def stopped(self, data, *, callbacks=(), **options):
        return fit(self, data, callbacks=[Stop(step=3), *callbacks], **options)

    monkeypatch.setattr(StructureLearner, "fit", stopped)
    with pytest.raises(Interrupted, match="goes on from here"):
        train(config, tmp_path / "run", progress=False)
    monkeypatch.setattr(StructureLearner, "fit", fit)
    rest = Stop()
    resume(tmp_path / "run", progress=False, callbacks=[rest])
    assert rest.seen[0] == (1, "knn-lds")
    assert len(rest.seen) == 6


def test_a_structure_that_was_chosen_goes_on(config, tmp_path, monkeypatch):
    chosen_to_be("knn-lds", monkeypatch)
    train(config, tmp_path / "whole", progress=False)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", progress=False, callbacks=[Stop(step=4)])
    steps = []

    class Steps(Callback):
        def on_step(self, record):
            steps.append(record.outer_step)

    resume(tmp_path / "run", progress=False, callbacks=[Steps()])
    assert steps[0] == 5
    assert torch.equal(logits(tmp_path / "run"), logits(tmp_path / "whole"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: 3,
        lambda lines: [3],
        lambda lines: [{"learner": "ffnn"}],
        lambda lines: [lines[0] | {"losses": []}],
        lambda lines: [lines[0] | {"losses": [float("nan")] * len(lines[0]["nodes"])}],
        lambda lines: [lines[0] | {"losses": ["x"] * len(lines[0]["nodes"])}],
        lambda lines: [lines[0] | {"fold": "1"}],
        lambda lines: [lines[0] | {"nodes": ["x"] * len(lines[0]["nodes"])}],
    ],
)
def test_what_was_compared_is_checked(tmp_path, damage):
    line = {"learner": "ffnn", "fold": 1, "folds": 2, "nodes": (1, 2), "losses": (0.5, 0.1), "right": (True, False)}
    found, progress = take_compared(tmp_path, {"compared": [line], "outer_step": 3})
    assert vars(found[0]) == line
    assert progress == {"outer_step": 3}
    with pytest.raises(DataError, match=r"is damaged: what was compared is no list of folds; remove it"):
        take_compared(tmp_path, {"compared": damage([line])})


def test_a_learner_that_fails_says_which(config, tmp_path, monkeypatch):
    config = replace(config, inner_lr=1e38, weight_decay=0.0)
    message = r"ffnn \(train\+val\) of auto failed: .*; name it as --method to see it fail alone"
    with pytest.raises(NumericalError, match=message):
        train(config, tmp_path / "run", progress=False)
    chosen_to_be("knn-lds", monkeypatch)
    with pytest.raises(NumericalError, match=r"knn-lds of auto failed: in outer step 1, .*; name it as --method"):
        train(config, tmp_path / "other", progress=False)
    assert not (tmp_path / "other" / "failure.pt").exists()


def test_there_is_no_failure_to_replay(config, tmp_path):
    with pytest.raises(RuntimeError):
        train(config, tmp_path / "run", progress=False, callbacks=[Stop(1, kill=True)])
    with pytest.raises(InputError, match=r"auto leaves no failure\.pt: what failed was named in the message"):
        replay_failure(tmp_path / "run")


def test_the_command_line_says_what_and_why(config, tmp_path, capsys):
    options = ["--data", config.data, "--method", "auto", "--quick", "--k", 3, "--hidden", 4]
    options += ["--train-size", 8, "--val-size", 8, "--es-size", 8]
    assert run("train", *options, "--seeds", 0, 1, "--out", tmp_path / "run") == 0
    out, err = capsys.readouterr()
    results = [json.loads((tmp_path / f"run-{seed}" / "result.json").read_text()) for seed in (0, 1)]
    head, *rows = out.splitlines()
    assert head.split()[-3:] == ["chosen", "run", "folder"]
    assert all(f"  {result['chosen']}" in row for result, row in zip(results, rows, strict=False))
    assert "lds: comparing on held-out fold 2 of 2" in err
    assert run("train", "--resume", tmp_path / "run-1") == 0
    assert capsys.readouterr().out.splitlines()[1] == results[1]["reason"]
    html = page(tmp_path / "run-0", tmp_path / "run-1", out=tmp_path / "report.html")
    assert all(f"{result['reason']}." in html for result in results)
    assert "On held-out folds" in html


def test_a_sweep(config, tmp_path):
    values = {name: value for name, value in config.as_dict().items() if value != getattr(TrainConfig, name, None)}
    spec = Spec.make({"name": "auto", "runs": [values]})
    outcomes = run_sweep(spec, tmp_path / "sweep", ProcessEngine(1), progress=False)
    assert [outcome.status for outcome in outcomes] == ["done"]
    assert "chosen" in (tmp_path / "sweep" / "results.csv").read_text().splitlines()[0]
    html = page(tmp_path / "sweep", out=tmp_path / "report.html")
    assert f": {outcomes[0].result['chosen']}" in html
