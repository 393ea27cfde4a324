"""What the command line reads and replaces: one parser with one guard, one line for what is wrong."""

import subprocess
import sys

import pytest

from lds.cli import main
from lds.run import TrainConfig, train

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
INDENTED = "".join(f"  {line}\n" for line in BOMB.splitlines())


def run(*argv):
    try:
        return main([str(arg) for arg in argv])
    except SystemExit as stop:
        return stop.code


def one_line(capsys):
    error = capsys.readouterr().err
    assert error.startswith("lds: error: ")
    assert error.count("\n") == 1
    assert len(error) < 1500
    return error


CONFIGS = {
    "bomb": BOMB,
    "nested": "dataset: wine\nconfig: {there}\n",
    "integer": f"dataset: wine\ntau: |\n{INDENTED}",
    "number": f"dataset: wine\nretain: |\n{INDENTED}",
    "choice": f"dataset: wine\nmethod: |\n{INDENTED}",
    "bool": f"dataset: wine\nprogress: |\n{INDENTED}",
    "none": f"dataset: wine\nrandom_edges: |\n{INDENTED}",
    "text": f"dataset: |\n{INDENTED}",
    "path": "__path__: x\ndataset: wine\n",
    "orig": "__orig__: x\ndataset: wine\n",
    "default config": "__default_config__: x\ndataset: wine\n",
    "mapping": "dataset: {a: 1}\n",
    "list": "dataset: [a, [b]]\n",
    "config mapping": "config: {a: 1}\ndataset: wine\n",
    "a list": "- dataset\n",
    "number keys": "1: 2\ndataset: wine\n",
    "nothing": "",
    "NUL": 'dataset: wine\nout: "a\\0b"\n',
    "surrogate": 'dataset: "\\uD800"\n',
    "long": f"dataset: wine\ntau: [{'x, ' * 50_000}x]\n",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_of_malice(tmp_path, name, capsys):
    (tmp_path / "there.yaml").write_text(BOMB)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIGS[name].replace("{there}", str(tmp_path / "there.yaml")))
    assert run("train", "--config", path, "--out", tmp_path / "o") == 2
    one_line(capsys)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--dataset", "wine", "--tau", BOMB, "--out", "o"],
        ["train", "--dataset", "wine", "--retain", BOMB, "--out", "o"],
        ["train", "--config", BOMB, "--out", "o"],
        ["ablate", "--dataset", "wine", "--horizons", BOMB, "--out", "o"],
        ["report", "x", "--node", BOMB],
        ["export", "x", "--top-k", BOMB],
    ],
)
def test_values_of_malice(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*argv) == 2
    one_line(capsys)


def test_a_file_that_a_configuration_names_is_not_shown(tmp_path, capsys):
    (tmp_path / "secret").write_text("secret: [hidden]\n")
    path = tmp_path / "config.yaml"
    for field in ("config", "dataset", "tau", "method", "data"):
        path.write_text(f"{field}: {tmp_path / 'secret'}\n")
        assert run("train", "--config", path, "--out", tmp_path / "o") == 2
        assert "hidden" not in one_line(capsys)


def test_a_good_configuration_is_taken(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(
        "lds.cli._train.train",
        lambda config, *_, **__: taken.append(config) or {"test_accuracy": 0.0, "outer_epochs": 0},
    )
    monkeypatch.setattr("lds.cli._train._print_result", lambda *_: None)
    path = tmp_path / "config.yaml"
    path.write_text("dataset: wine\nmethod: knn-lds\ninner_lr: 1e-3\nmax_epochs: 3\nlearn_inner_lr: true\nretain: 1\n")
    assert run("train", "--config", path, "--k", 4, "--out", tmp_path / "o") == 0
    expected = TrainConfig("wine", "knn-lds", inner_lr=1e-3, max_epochs=3, learn_inner_lr=True, k=4)
    assert taken == [expected]


@pytest.mark.parametrize("name", ["a\\0b", "x" * 256, "é" * 101, "\\uD800", "a\\nb", "..", "a/b", ""])
def test_names_of_sweeps(tmp_path, monkeypatch, name, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(f'name: "{name}"\nruns: [{{dataset: wine, method: logreg}}]\n')
    assert run("sweep", "spec.yaml") == 2
    one_line(capsys)


@pytest.mark.parametrize("length", [250, 255, 256, 5000])
def test_names_near_the_limit_of_the_file_system(tmp_path, monkeypatch, length, capsys):
    monkeypatch.chdir(tmp_path)
    name = "n" * length
    for argv in (
        ["train", "--dataset", "wine", "--method", "knn-gcn", "--out", name],
        ["train", "--resume", name],
        ["report", name],
        ["export", name],
        ["sweep", name],
        ["train", "--config", name, "--out", "o"],
        ["train", "--data", f"{name}.csv", "--out", "o"],
    ):
        assert run(*argv) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replacing") / "run"
    train(TrainConfig("wine", "knn-gcn", k=3, hidden=2), folder, progress=False)
    return folder


class TestReplacing:
    def test_a_report_asks(self, folder, tmp_path, capsys):
        out = tmp_path / "thesis.html"
        out.write_text("mine")
        assert run("report", folder, "--out", out) == 2
        assert "must not be there yet, but is; choose another file, or force to replace it" in one_line(capsys)
        assert out.read_text() == "mine"
        assert run("report", folder, "--out", out, "--force") == 0
        assert out.read_text() != "mine"

    def test_the_report_in_the_folder_is_written_anew(self, folder):
        assert run("report", folder) == run("report", folder) == 0

    @pytest.mark.parametrize("command", ["export", "report"])
    @pytest.mark.parametrize("name", ["checkpoint.pt", "graph.npz", "result.json", "config.yaml", "metrics.jsonl"])
    def test_own_files_are_not_replaced_by_force(self, folder, tmp_path, command, name, capsys):
        before = (folder / name).read_bytes()
        (tmp_path / "link").symlink_to(folder)
        for path in (folder / name, tmp_path / "link" / name, folder / ".." / "run" / name):
            assert run(command, folder, "--out", path, "--force") == 2
            assert "left as it is even by force" in one_line(capsys)
        assert (folder / name).read_bytes() == before


SIZES = [
    ["--hidden", "1000000000"],
    ["--hidden", "1" + "0" * 30],
    ["--tau", "1000000000"],
]


@pytest.mark.parametrize("options", SIZES)
def test_what_cannot_fit(tmp_path, options, capsys):
    argv = ["train", "--dataset", "wine", "--method", "knn-lds", *options, "--out", tmp_path / "o"]
    assert run(*argv) == 2
    assert "must fit into memory, but need" in one_line(capsys)
    assert not (tmp_path / "o").exists()


def test_nothing_is_printed_that_a_terminal_cannot_show(tmp_path):
    """A name of a file need be no text."""
    process = subprocess.run(
        [sys.executable, "-m", "lds", "report", b"a\xff\nb"], capture_output=True, cwd=tmp_path, check=False
    )
    assert process.returncode == 2
    assert process.stderr.count(b"\n") == 1
