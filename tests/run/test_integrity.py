"""What has changed since it was written is refused, wherever it is read; nothing else is."""

import json
import shutil
import warnings
from random import Random

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from lds.cli import main
from lds.data import read
from lds.errors import DataError, InputError, UnverifiedWarning
from lds.run import read_structure, resume, train
from lds.run._data import fingerprint
from lds.run._reader import read_run
from lds.sweep import read_results
from tests.learner.problems import blocks
from tests.report.samples import run_folder
from tests.run import flips


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    flips.make(root)
    return root


@pytest.fixture
def run(root, tmp_path):
    return shutil.copytree(root / "run", tmp_path / "run")


COMMANDS = (["train", "--resume"], ["export", "--out", "g.csv", "--format", "csv"], ["report", "--out", "r.html"])


def refused(run, capsys, monkeypatch, commands=COMMANDS):
    """What the commands say, each in one line; none writes anything."""
    monkeypatch.chdir(run.parent)
    lines = []
    for command in commands:
        assert main([*command, "run"]) == 2, command
        lines.append(capsys.readouterr().err)
        assert lines[-1].startswith("lds: error: ")
        assert lines[-1].count("\n") == 1
    assert [path.name for path in run.parent.iterdir()] == ["run"]
    return lines


@pytest.mark.parametrize("folder", flips.FOLDERS)
def test_flipped_bits_are_refused_or_harmless(root, folder):
    """scripts/flips.py flips more of them."""
    counts = dict(flips.flip_all(root, folder, 6, seed=1))
    assert {name: found["silent"] for name, found in counts.items()} == dict.fromkeys(counts, 0)
    assert sum(found["refused"] for found in counts.values()) > len(counts)


@pytest.mark.parametrize("name", ["own.pt", "own.npz"])
def test_flipped_bits_in_own_data(tmp_path, name):
    data, path = blocks(20), tmp_path / name
    parts = {part: data[part] for part in ("x", "y", "edge_index")}
    if name == "own.pt":
        torch.save(Data(**parts), path)
    else:
        np.savez(path, **{part: value.numpy() for part, value in parts.items()})
    whole, expected, random, outcomes = path.read_bytes(), fingerprint(read(path)), Random(0), []
    for _ in range(200):
        changed = bytearray(whole)
        changed[random.randrange(len(whole))] ^= 1 << random.randrange(8)
        path.write_bytes(changed)
        try:
            outcomes.append(fingerprint(read(path)) == expected)
        except DataError:
            outcomes.append(None)
    assert False not in outcomes
    assert outcomes.count(None) > 100


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dataset: wine", "dataset: iris", "ended with dataset 'wine', but says 'iris'; put it back"),
        ("method: knn-lds", "method: gcn", "ended with method 'knn-lds', but says 'gcn'"),
        ("seed: 2", "seed: 3", "ended with seed 2, but says 3"),
        ("retain: 1.0\n", "", "ended with retain 1.0, but says None"),
    ],
)
def test_an_edited_configuration(run, capsys, monkeypatch, old, new, message):
    path = run / "config.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert all(message in line for line in refused(run, capsys, monkeypatch))


def test_the_place_of_the_data_may_change(run):
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("data_root: null", "data_root: elsewhere"))
    assert resume(run) == json.loads((run / "result.json").read_text())


@pytest.mark.parametrize("name", ["checkpoint.pt", "graph.npz", "metrics.jsonl", "node_names.json"])
def test_a_file_of_another_run(root, run, capsys, monkeypatch, name):
    if name == "node_names.json":
        (run / name).write_text(json.dumps([f"n{i}" for i in range(178)]))
        message = "must be a file of its folder, but the folder ended without it"
    else:
        other = next(path for path in (root / "sweep" / "runs").iterdir() if "knn-lds" in path.name)
        shutil.copy(other / name, run / name)
        message = f"{name} must be as its folder ended with it, but has changed or is that of another folder"
    assert all(message in line for line in refused(run, capsys, monkeypatch))


@pytest.mark.parametrize("name", ["test_accuracy", "seconds", "seed"])
def test_an_edited_result(run, capsys, monkeypatch, name):
    result = json.loads((run / "result.json").read_text())
    result[name] += 1
    (run / "result.json").write_text(json.dumps(result))
    assert all("differs from its own sum" in line for line in refused(run, capsys, monkeypatch))


def test_files_that_were_removed_to_save_room(run):
    for name in ("checkpoint.pt", "graph.npz"):
        (run / name).unlink()
    assert resume(run)["outer_epochs"] == 2
    assert len(read_run(run).epochs) == 2
    (run / "metrics.jsonl").unlink()
    with pytest.raises(DataError, match=r"metrics\.jsonl must be there, for its folder ended with it, but is missing"):
        read_run(run)


def test_a_folder_of_an_earlier_version_is_read_and_said_to_be_unverified(run):
    path = run / "result.json"
    result = {name: x for name, x in json.loads(path.read_text()).items() if name not in ("sums", "config")}
    path.write_text(json.dumps(result))
    for reader in (read_run, resume, read_structure):
        with pytest.warns(UnverifiedWarning, match="is not verified: it has no sums"):
            reader(run)


def test_a_ledger_of_an_earlier_version(root, tmp_path):
    lines = [json.loads(line) for line in (root / "sweep" / "results.jsonl").read_text().splitlines()]
    for line in lines:
        del line["sum"]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.warns(UnverifiedWarning, match=r"results\.jsonl is not verified"):
        assert len(read_results(tmp_path)) == 2


def test_a_run_folder_of_another_sweep(root, tmp_path, capsys):
    sweep = shutil.copytree(root / "sweep", tmp_path / "sweep")
    folder = next(path for path in (sweep / "runs").iterdir() if "knn-lds" in path.name)
    # The same configuration, another day: every file is whole, and belongs to the others of its folder.
    shutil.rmtree(folder)
    train(flips.TWO, folder, progress=False)
    assert main(["report", str(sweep)]) == 2
    assert "must hold the run that" in capsys.readouterr().err


def test_a_last_line_whose_end_has_changed_is_not_taken_for_one_that_was_cut_off(root, tmp_path):
    sweep = shutil.copytree(root / "sweep", tmp_path / "sweep")
    ledger = sweep / "results.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-1] + b"\x0b")
    with pytest.raises(InputError, match=r"line 2 of .*results\.jsonl must be the outcome of a run"):
        read_results(sweep)


@pytest.mark.parametrize("change", [{"stale": 30}, {"best": None}, {"outer_step": 0}, {"history": []}])
def test_counters_that_no_training_leads_to(root, tmp_path, change):
    folder = shutil.copytree(root / "interrupted", tmp_path / "run")
    saved = torch.load(folder / "progress.pt", weights_only=True)
    saved["progress"] |= change
    torch.save(saved, folder / "progress.pt")
    with pytest.raises(InputError, match="it does not fit"):
        resume(folder, progress=False)


def test_a_reading_command_needs_no_writable_disk(run, monkeypatch):
    """A lock beside the folder could not be made."""

    def refuse(folder):
        raise AssertionError("locked")

    monkeypatch.setattr("lds.run._folder.alone", refuse)
    assert resume(run)["outer_epochs"] == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_structure(run)


@pytest.mark.parametrize("value", [1e308, -1e308, 10**400])
def test_figures_beyond_all_bounds(tmp_path, value, capsys):
    folder = run_folder(tmp_path / "run", count=2, done=False)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    line = json.loads(lines[0])
    for name in ("inner_loss", "epoch"):
        changed = {key: x for key, x in line.items() if key != "sum"} | {name: value}
        (folder / "metrics.jsonl").write_text("\n".join([json.dumps(changed), *lines[1:]]) + "\n")
        assert main(["report", str(folder)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert len(error) < 500
