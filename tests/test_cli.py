"""The command line, in process but for the few tests of what only a process shows."""

import builtins
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import lds
from lds._kernel import kernel
from lds.cli import main
from lds.cli._commands import COMMANDS
from lds.run import TrainConfig
from tests.data.damage import flip_a_bit

SHORT = ["train", "--dataset", "wine", "--method", "knn-lds", "--max-epochs", "1", "--samples", "2", "--tau", "20"]
SHORT += ["--k", "3", "--hidden", "4"]
FILES = ["checkpoint.pt", "config.yaml", "graph.npz", "metrics.jsonl", "predictions.csv", "result.json"]


def run(*argv):
    """The exit code, wherever it comes from."""
    try:
        return main([str(arg) for arg in argv])
    except SystemExit as stop:
        return stop.code


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestTrain:
    @pytest.fixture(scope="class")
    @staticmethod
    def folder(tmp_path_factory):
        folder = tmp_path_factory.mktemp("runs") / "deep" / "run"
        assert run(*SHORT, "--out", folder, "--seed", 5) == 0
        return folder

    def test_files(self, folder):
        assert names(folder) == FILES

    def test_config(self, folder):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        expected = TrainConfig("wine", "knn-lds", max_epochs=1, samples=2, tau=20, k=3, hidden=4, seed=5).as_dict()
        assert config == expected

    def test_result(self, folder):
        result = json.loads((folder / "result.json").read_text())
        needed = {"test_accuracy", "es_accuracy", "outer_epochs", "outer_steps", "seconds", "peak_rss_mb", "versions"}
        assert needed | {"seed", "dataset", "method"} <= result.keys()
        assert all(0 <= result[name] <= 1 for name in ("test_accuracy", "es_accuracy", "val_accuracy"))
        assert result["test_accuracy"] > 0.5
        assert (result["outer_epochs"], result["seed"]) == (1, 5)
        assert result["seconds"] > 0

    def test_metrics(self, folder):
        (line,) = (folder / "metrics.jsonl").read_text().splitlines()
        record = json.loads(line)
        result = json.loads((folder / "result.json").read_text())
        assert record["es_accuracy"] == result["es_accuracy"]
        assert record["outer_step"] == result["outer_steps"] > 0
        assert record["expected_edges"] == pytest.approx(result["expected_edges"])

    def test_checkpoint(self, folder):
        checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
        assert checkpoint.keys() == {"theta", "params", "logits"}
        assert checkpoint["logits"].shape == (178, 3)
        assert checkpoint["params"]["weights.0"].shape == (13, 4)
        assert bool(((checkpoint["theta"] >= 0) & (checkpoint["theta"] <= 1)).all())

    def test_graph(self, folder):
        graph = np.load(folder / "graph.npz", allow_pickle=False)
        assert graph["edge_index"].shape == (2, graph["edge_weight"].size)
        assert graph["num_nodes"] == 178
        assert 0.01 < graph["edge_weight"].min() <= graph["edge_weight"].max() <= 1
        pairs = set(map(tuple, graph["edge_index"].T.tolist()))
        assert pairs == {(j, i) for i, j in pairs}
        result = json.loads((folder / "result.json").read_text())
        assert graph["edge_weight"].sum() / 2 == pytest.approx(result["expected_edges"], rel=0.05)

    def test_repeats_bit_for_bit(self, folder, tmp_path, capsys):
        assert run(*SHORT, "--out", tmp_path / "again", "--seed", 5, "--progress", "false") == 0
        captured = capsys.readouterr()
        assert captured.out.startswith("test accuracy 0.")
        assert captured.err == ""
        first, again = (json.loads((f / "result.json").read_text()) for f in (folder, tmp_path / "again"))
        for name in ("seconds", "peak_rss_mb", "versions"):
            first.pop(name), again.pop(name)
        # That of the result itself, with its measured seconds.
        assert first["sums"].pop("result.json") != again["sums"].pop("result.json")
        assert first == again
        for name in ("metrics.jsonl", "config.yaml"):
            assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        first, again = (torch.load(f / "checkpoint.pt", weights_only=True) for f in (folder, tmp_path / "again"))
        assert torch.equal(first["theta"], again["theta"])

    def test_a_config_file_and_options_that_override_it(self, folder, tmp_path):
        out = tmp_path / "run"
        config = folder / "config.yaml"
        assert run("train", "--config", config, "--seed", 6, "--out", out, "--progress", "false") == 0
        written = yaml.safe_load((out / "config.yaml").read_text())
        assert written == dict(yaml.safe_load(config.read_text()), seed=6)

    def test_options_before_the_config_file_count_less(self, folder, tmp_path):
        (tmp_path / "own.yaml").write_text("dataset: wine\nmethod: knn-gcn\nk: 4\n")
        out = tmp_path / "run"
        argv = ["train", "--k", 9, "--config", tmp_path / "own.yaml", "--method", "knn-gcn", "--out", out]
        assert run(*argv, "--progress", "false") == 0
        written = yaml.safe_load((out / "config.yaml").read_text())
        assert (written["method"], written["k"]) == ("knn-gcn", 4)

    @pytest.mark.parametrize("method", ["gcn", "frozen"])
    def test_cora(self, data_root, tmp_path, method):
        argv = ["train", "--dataset", "cora", "--method", method, "--data-root", data_root, "--retain", "0.5"]
        argv += ["--max-epochs", "1", "--samples", "2", "--tau", "100", "--progress", "false"]
        assert run(*argv, "--out", tmp_path / "run") == 0
        assert names(tmp_path / "run") == FILES
        assert json.loads((tmp_path / "run" / "result.json").read_text())["test_accuracy"] > 0.6

    def test_the_environment_names_the_data_root(self, data_root, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("LDS_DATA_ROOT", str(tmp_path))
        assert run("data", "verify", "cora") == 2
        monkeypatch.setenv("LDS_DATA_ROOT", str(data_root))
        assert run("data", "verify", "cora") == 0

    def test_an_interrupt(self, monkeypatch, tmp_path, capsys):
        def interrupt(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr("lds.cli._train.train", interrupt)
        assert run(*SHORT, "--out", tmp_path / "run") == 130
        assert capsys.readouterr().err == "lds: interrupted\n"

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize(
        ("files", "hint"),
        [
            ([], "nothing was saved"),
            (["config.yaml"], "nothing was saved; lds train --resume {out} starts anew"),
            (["config.yaml", "progress.pt"], "lds train --resume {out} goes on from here"),
            (["config.yaml", "progress.pt", "result.json"], "the run in {out} has ended"),
        ],
    )
    def test_a_stop_at_any_time(self, monkeypatch, tmp_path, capsys, number, files, hint):
        out = tmp_path / "run"

        def stopped(*args, **kwargs):
            out.mkdir()
            for name in files:
                (out / name).touch()
            signal.raise_signal(number)

        monkeypatch.setattr("lds.cli._train.train", stopped)
        assert run(*SHORT, "--out", out) == 128 + number
        assert capsys.readouterr().err == f"lds: stopped by {number.name}; {hint.format(out=out)}\n"

    def test_a_stop_before_the_command(self, monkeypatch, capsys):
        def import_(name, *args):
            if name == "lds.cli._parser":
                signal.raise_signal(signal.SIGTERM)
                done.append(name)
            return real(name, *args)

        real, done = builtins.__import__, []
        monkeypatch.setattr("builtins.__import__", import_)
        assert run("data", "list") == 143
        assert done  # An import is not cut off.
        assert capsys.readouterr() == ("", "lds: stopped by SIGTERM; nothing was begun\n")


@pytest.fixture
def cora_root(data_root, tmp_path_factory):
    """A root of its own with the real Cora, free to be damaged."""
    root = tmp_path_factory.mktemp("data")
    shutil.copytree(data_root / "planetoid" / "Cora" / "raw", root / "planetoid" / "Cora" / "raw")
    return root


def check_refused(capsys, out, *argv, message):
    """Exit code 2, one line on stderr, nothing on stdout and nothing on disk."""
    assert run(*argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lds: error: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    assert message in captured.err
    assert "Traceback" not in captured.err
    if out is not None:
        assert not out.exists()


class TestBadInput:
    WINE = ("--dataset", "wine", "--method", "knn-gcn")

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--dataset", "nope"], "name must be one of cora"),
            (["--dataset", "wine"], "the data brings no edges"),
            (["--dataset", "wine", "--method", "gcn"], "the data brings no edges"),
            ([*WINE, "--retain", "1.5"], "retain must lie in [0, 1], got 1.5"),
            ([*WINE, "--retain", "-0.1"], "retain must lie in [0, 1], got -0.1"),
            ([*WINE, "--retain", "nan"], "retain"),
            ([*WINE, "--retain", "0.5"], "wine has no edges"),
            ([*WINE, "--method", "knn-lds", "--tau", "0"], "tau must be an integer >= 1, got 0"),
            ([*WINE, "--method", "knn-lds", "--interval", "0"], "interval must be an integer >= 1, got 0"),
            ([*WINE, "--method", "knn-lds", "--outer-lr", "-1"], "outer_lr must be finite and >= 0, got -1.0"),
            ([*WINE, "--method", "knn-lds", "--max-epochs", "0"], "max_epochs must be an integer >= 1, got 0"),
            ([*WINE, "--dropout", "1"], "dropout must lie in [0, 1), got 1.0"),
            ([*WINE, "--hidden", "0"], "hidden must be at least 1, got 0"),
            ([*WINE, "--k", "0"], "k must be an integer >= 1, got 0"),
            ([*WINE, "--k", "178"], "k must be smaller than the number of nodes, 178, got 178"),
            ([*WINE, "--seed", "-1"], "seed must be an integer from 0"),
            ([*WINE, "--method", "magic"], "method"),
            ([*WINE, "--metric", "manhattan"], "metric"),
            ([*WINE, "--noise", "fresh"], "noise"),
            ([*WINE, "--tau", "many"], "tau"),
            ([*WINE, "--tau", "2.5"], "tau"),
            ([*WINE, "--retain", "all"], "retain"),
            ([*WINE, "--learn-inner-lr", "perhaps"], "learn_inner_lr"),
            ([*WINE, "--colour", "red"], "unrecognized arguments: --colour"),
            ([*WINE, "stray"], "stray"),
            ([], "dataset"),
            (["--config", "absent.yaml", *WINE], "absent.yaml"),
        ],
    )
    def test_options(self, capsys, tmp_path, argv, message):
        out = tmp_path / "run"
        check_refused(capsys, out, "train", *argv, "--out", out, message=message)
        assert names(tmp_path) == []

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("tau: [1", "config"),
            ("- 1\n- 2\n", "config"),
            ("colour: red\n", "colour"),
            ("tau: many\n", "tau"),
            ("retain: 2\n", "retain"),
            ("method: magic\n", "method"),
            ("\tdataset: wine\n", "config"),
            ("\0\0", "config"),
        ],
    )
    def test_config_files(self, capsys, tmp_path, text, message):
        (tmp_path / "bad.yaml").write_text(text)
        out = tmp_path / "run"
        argv = ["train", "--dataset", "wine", "--method", "knn-gcn", "--config", tmp_path / "bad.yaml", "--out", out]
        if message != "method":
            argv += ["--method", "knn-gcn"]
        check_refused(capsys, out, *argv, message=message)

    def test_a_folder_that_is_taken(self, capsys, tmp_path):
        (tmp_path / "mine").write_text("x")
        check_refused(capsys, None, "train", *self.WINE, "--out", tmp_path, message="holds files")
        assert names(tmp_path) == ["mine"]

    @pytest.mark.parametrize("below", ["", "a/b"])
    def test_a_file_in_its_place(self, capsys, tmp_path, below):
        (tmp_path / "mine").write_text("x")
        out = tmp_path / "mine" / below
        check_refused(capsys, None, "train", *self.WINE, "--out", out, message="is no writable folder")
        assert (tmp_path / "mine").read_text() == "x"

    def test_a_name_too_long(self, capsys, tmp_path):
        check_refused(capsys, None, "train", *self.WINE, "--out", tmp_path / ("a" * 300), message="cannot be made")

    def test_missing_raw_files(self, capsys, tmp_path):
        out = tmp_path / "run"
        argv = ["train", "--dataset", "cora", "--data-root", tmp_path / "none", "--out", out]
        check_refused(capsys, out, *argv, message="cora needs the file ind.cora.x")
        assert names(tmp_path) == []

    @pytest.mark.parametrize("damage", ["altered", "truncated", "missing", "no pickle"])
    def test_damaged_raw_files(self, capsys, cora_root, tmp_path, damage):
        file = cora_root / "planetoid" / "Cora" / "raw" / "ind.cora.allx"
        if damage == "altered":
            flip_a_bit(file)
        elif damage == "truncated":
            file.write_bytes(file.read_bytes()[:100])
        elif damage == "missing":
            file.unlink()
        else:
            file.write_text("hello")
        out = tmp_path / "run"
        message = "needs the file ind.cora.allx" if damage == "missing" else "must have the SHA-256 sum"
        check_refused(
            capsys, out, "train", "--dataset", "cora", "--data-root", cora_root, "--out", out, message=message
        )
        assert run("data", "verify", "cora", "--data-root", cora_root) == 2
        captured = capsys.readouterr()
        assert captured.err == "cora: 7 of 8 files are there with the right checksum\n"

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["data"], "subcommand"),
            (["data", "verify"], "name"),
            (["data", "verify", "nope"], "name must be one of"),
            (["data", "fetch", "nope"], "name must be one of"),
            (["data", "burn", "wine"], "burn"),
            (["frobnicate"], "frobnicate"),
            (["--frobnicate"], "frobnicate"),
        ],
    )
    def test_commands(self, capsys, argv, message):
        check_refused(capsys, None, *argv, message=message)


class TestData:
    def test_list(self, capsys, tmp_path):
        assert run("data", "list", "--data-root", tmp_path) == 0
        lines = capsys.readouterr().out.splitlines()
        names = [line.split()[0] for line in lines]
        assert names[:7] == ["cora", "citeseer", "pubmed", "wine", "breast_cancer", "digits", "iris"]
        assert {"texas", "actor", "chameleon", "minesweeper", "photo", "cs", "wikics", "dblp", "karate"} <= set(names)
        assert all(what in lines[0] for what in ("homophily 0.81", "1 split", "MIT"))
        assert "not here" in lines[0]
        assert "not here" not in lines[3]
        assert "2708 nodes" in lines[0]

    def test_list_of_what_is_here(self, capsys, data_root):
        assert run("data", "list", "--data-root", data_root) == 0
        assert "not here" not in capsys.readouterr().out.splitlines()[0]

    @pytest.mark.parametrize("command", ["verify", "fetch"])
    def test_of_a_built_in_set(self, capsys, command):
        assert run("data", command, "wine") == 0
        captured = capsys.readouterr()
        assert captured.out == "wine is built into scikit-learn: nothing to fetch, nothing to verify\n"
        assert captured.err == ""

    def test_verify(self, capsys, data_root):
        assert run("data", "verify", "cora", "--data-root", data_root) == 0
        assert capsys.readouterr().out == "cora: 8 of 8 files are there with the right checksum\n"


class TestHelp:
    def test_version(self, capsys):
        assert run("--version") == 0
        assert capsys.readouterr().out == f"lds {lds.__version__} (kernel: {kernel()})\n"

    def test_version_names_the_kernel(self, capsys, monkeypatch):
        monkeypatch.setenv("LDS_KERNEL", "torch")
        assert run("--version") == 0
        assert capsys.readouterr().out == f"lds {lds.__version__} (kernel: torch)\n"
        monkeypatch.setenv("LDS_KERNEL", "other")
        assert run("--version") == 2
        assert "LDS_KERNEL must be native or torch, got 'other'" in capsys.readouterr().err

    def test_no_arguments(self, capsys):
        assert run() == 0
        assert "train" in capsys.readouterr().out

    @pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["data", "--help"], ["data", "fetch", "--help"]])
    def test_help(self, capsys, argv):
        assert run(*argv) == 0
        assert "usage: lds" in capsys.readouterr().out

    def test_every_option_is_explained(self, capsys):
        run("train", "--help")
        text = capsys.readouterr().out
        for name in TrainConfig.__dataclass_fields__:
            assert f"--{name.replace('_', '-')} " in text
        assert "--max_epochs" not in text


class TestNearMisses:
    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["trian"], "a command must be one of train, export, .*, got 'trian'; did you mean train?"),
            (["--vresion"], "unrecognized arguments: --vresion; did you mean --version?"),
            (["train", "--datset", "wine"], "--datset wine; did you mean --dataset?"),
            (["train", "--learning-inner-lr"], "did you mean --learn-inner-lr?"),
            (["train", "--method", "knnlds"], "--method must be one of lds, .*, got 'knnlds'; did you mean knn-lds?"),
            (["train", "--log", "tensorbord"], "--log must be one of tensorboard, .*; did you mean tensorboard?"),
            (["data", "fech", "cora"], "did you mean fetch?"),
            (["data", "verify", "Corra"], "name must be one of .*, but 'Corra' came; did you mean cora?"),
            (["export", "run", "--format", "grahml"], "got 'grahml'; did you mean graphml?"),
        ],
    )
    def test_one_line_says_what_may_have_been_meant(self, capsys, argv, message):
        assert run(*argv) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert captured.err.startswith("lds: error: ")
        assert re.search(message.replace("?", r"\?"), captured.err)

    def test_nothing_is_near(self, capsys):
        assert run("train", "--zzz", "1") == 2
        assert "did you mean" not in capsys.readouterr().err

    def test_in_files(self, capsys, tmp_path):
        (tmp_path / "own.yaml").write_text("datset: wine\n")
        assert run("train", "--config", tmp_path / "own.yaml") == 2
        assert "has 'datset'; did you mean dataset?" in capsys.readouterr().err


class TestConveniences:
    QUIET = ("--progress", "false")

    @pytest.fixture(autouse=True)
    @staticmethod
    def here(tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def test_a_folder_of_its_own(self, tmp_path, capsys):
        assert run("train", "--dataset", "wine", "--method", "knn-gcn", "--seed", 3, *self.QUIET) == 0
        folder = tmp_path / "runs" / "wine-knn-gcn-3"
        assert names(folder) == FILES
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("best outer epoch 1, early-stopping accuracy ")
        assert "the most frequent class alone has 0." in last
        assert last.endswith(f"next: lds report {Path('runs') / folder.name}, lds export {Path('runs') / folder.name}")

    def test_seeds(self, tmp_path, capsys):
        argv = ["train", "--dataset", "wine", "--method", "ffnn", "--seeds", 2, 5, "--out", "of", *self.QUIET]
        assert run(*argv) == 0
        out = capsys.readouterr().out
        assert names(tmp_path) == ["of-2", "of-5"]
        found = [json.loads((tmp_path / name / "result.json").read_text()) for name in names(tmp_path)]
        assert [result["seed"] for result in found] == [2, 5]
        lines = out.splitlines()
        assert [line.split()[:2] for line in lines[1:3]] == [
            [str(result["seed"]), f"{result['test_accuracy']:.4f}"] for result in found
        ]
        accuracies = [result["test_accuracy"] for result in found]
        expected = f"{statistics.mean(accuracies):.4f} ± {statistics.stdev(accuracies):.4f} (standard deviation) over 2"
        assert expected in lines[3]
        assert lines[4] == "next: lds report of-2 of-5 --out report.html"
        assert run(*argv) == 0  # Goes on, with nothing left to do.
        assert capsys.readouterr().out == out

    def test_seeds_and_a_seed(self, capsys):
        check_refused(
            capsys, None, "train", "--dataset", "wine", "--seed", 1, "--seeds", 2, message="--seeds stands for --seed"
        )
        check_refused(capsys, None, "train", "--dataset", "wine", "--seeds", 2, 2, message="must be different integers")

    def test_a_truth_value_without_a_value(self, tmp_path):
        argv = [
            "train",
            "--dataset",
            "wine",
            "--method",
            "knn-lds",
            "--learn-inner-lr",
            "--quick",
            "--tau",
            40,
            "--k",
            3,
        ]
        assert run(*argv, "--samples", 2, "--max-epochs", 1, *self.QUIET) == 0
        config = yaml.safe_load((tmp_path / "runs" / "wine-knn-lds-0" / "config.yaml").read_text())
        assert (config["learn_inner_lr"], config["samples"], config["max_epochs"]) == (True, 2, 1)

    def test_a_quick_look(self, tmp_path, monkeypatch):
        def train(config, out, **options):
            found.append((config.max_epochs, config.samples, out))
            raise KeyboardInterrupt

        found = []
        monkeypatch.setattr("lds.cli._train.train", train)
        run("train", "--dataset", "wine", "--quick")
        run("train", "--data", "a b/My data.csv", "--quick", "--samples", 9, "--method", "knn-lds")
        assert found == [(2, 4, Path("runs/wine-lds-0")), (2, 9, Path("runs/my_data-knn-lds-0"))]

    def test_threads(self, tmp_path):
        before = torch.get_num_threads()
        argv = ["train", "--dataset", "wine", "--method", "knn-gcn", "--threads", before + 1, *self.QUIET]
        assert run(*argv) == 0
        assert json.loads((tmp_path / "runs/wine-knn-gcn-0/result.json").read_text())["threads"] == before + 1
        assert torch.get_num_threads() == before

    def test_no_threads(self, capsys):
        check_refused(capsys, None, "train", "--dataset", "wine", "--threads", 0, message="threads must be at least 1")

    def test_a_model_of_this_folder(self, tmp_path):
        before = list(sys.path)
        (tmp_path / "net_of_here.py").write_text("from tests.run.test_parts import Net\n")
        argv = ["train", "--dataset", "wine", "--method", "knn-gcn", "--model", "net_of_here:Net", *self.QUIET]
        assert run(*argv) == 0
        assert sys.path == before


def test_completion(capsys):
    assert run("--completion", "fish") == 2
    assert "--completion must name one of bash, zsh, tcsh, got 'fish'" in capsys.readouterr().err
    pytest.importorskip("shtab", reason="shtab is not installed; pip install '.[completion]'")
    assert run("--completion", "bash") == 0
    script = capsys.readouterr().out
    assert all(what in script for what in ("knn-lds", "--learn-inner-lr", "graphml", "verify"))


def test_completion_without_shtab(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert run("--completion", "bash") == 2
    assert "needs shtab, which is not here; pip install 'lds-gnn[completion]'" in capsys.readouterr().err


def test_help_in_groups(capsys):
    run("train", "--help")
    text = capsys.readouterr().out
    titles = [text.index(f"\n{title}:\n") for title in ("data", "structure", "training", "run")]
    assert titles == sorted(titles)
    assert titles[0] < text.index("--dataset ") < titles[1] < text.index("--tau ") < titles[2]
    assert titles[2] < text.index("--patience ") < titles[3] < text.index("--out ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example(capsys, command):
    text, example = COMMANDS[command]
    run("--help")
    overview = capsys.readouterr().out
    assert text in overview
    assert example in overview
    run(command, "--help")
    assert f"example: {example}" in " ".join(capsys.readouterr().out.split())


def in_a_process(*argv):
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    return subprocess.run([sys.executable, "-m", "lds", *argv], capture_output=True, text=True, env=environment)


def test_a_process_shows_one_line_and_no_warning(tmp_path):
    """Warnings of what it imports would go to the same place."""
    done = in_a_process("train", "--dataset", "wine", "--out", str(tmp_path / "run"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [done.stderr.strip()]
    assert "the data brings no edges to start from" in done.stderr
    assert names(tmp_path) == []


def test_a_process_trains_quietly(tmp_path):
    argv = ["train", "--dataset", "wine", "--method", "knn-gcn", "--progress", "false", "--out", str(tmp_path / "run")]
    done = in_a_process(*argv)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("test accuracy 0.")
    assert names(tmp_path / "run") == FILES


def test_help_needs_no_parser():
    """It must come at once."""
    code = "import sys, lds.cli; lds.cli.main(['--help']); sys.exit('jsonargparse' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_a_terminal_shows_something_before_torch_is_there(tmp_path):
    import pty

    ours, theirs = pty.openpty()
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from lds.cli import main\nmain(['train', '--dataset', 'wine', '--method', 'knn-lds'])"
    )
    subprocess.run([sys.executable, "-c", code], stderr=theirs, stdout=subprocess.DEVNULL, cwd=tmp_path)
    os.close(theirs)
    assert os.read(ours, 1000).startswith(b"lds: knn-lds on wine, seed 0: reading the data")
    os.close(ours)


def test_help_needs_no_torch():
    code = "import sys, lds.cli; lds.cli.main([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
