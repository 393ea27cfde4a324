import json
import re
import sys

import numpy as np
import pytest
from markupsafe import escape

from lds.cli import main
from lds.errors import InputError, StorageError
from lds.report import write_report
from tests.report import samples

EVIL = "<script>alert('x')</script>&\"$\\frac"


def page(*folders, out, **options):
    return write_report(folders, out, **options).read_text()


@pytest.mark.parametrize("make", [samples.run_folder, samples.sweep_folder, samples.ablation_folder])
def test_the_same_input_gives_the_same_bytes(tmp_path, make):
    folder = make(tmp_path / "it")
    assert page(folder, out=tmp_path / "a.html") == page(folder, out=tmp_path / "b.html")


def test_a_run(tmp_path):
    html = page(samples.run_folder(tmp_path / "run", k=20), out=tmp_path / "report.html")
    for text in ("91.9 %", "80.0 %", "3 (best 2)", "12.0 s", "400 MiB", "expected number of edges", "within classes"):
        assert text in html
    assert html.count("<svg ") == html.count('role="img" aria-label=') == 6
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert len(html) < 500_000


def test_it_needs_nothing_from_elsewhere(tmp_path):
    html = page(samples.run_folder(tmp_path / "run"), samples.sweep_folder(tmp_path / "s"), out=tmp_path / "r.html")
    for address in re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', html):
        assert "".join(address).startswith(("#", "data:"))
    assert "<script" not in html
    assert "#0a00" not in html
    assert "#01010" not in html


def test_a_sweep(tmp_path):
    html = page(samples.sweep_folder(tmp_path / "sweep"), out=tmp_path / "report.html")
    for text in ("knn-lds, k 20", "&lt; 0.001", "1 run has failed", "inner loss is NaN", "line 1", "going-on"):
        assert text in html


def test_an_ablation(tmp_path):
    html = page(samples.ablation_folder(tmp_path / "ablation"), out=tmp_path / "report.html")
    for text in ("recommended horizon", "stays below 5 %", "Costate norm by depth", "Cosine by depth", "baseline"):
        assert text in html
    assert "<summary>Values</summary>" not in html  # Inside of the fold of the configuration.


def test_what_is_not_there_yet(tmp_path):
    run = samples.run_folder(tmp_path / "run", count=2, done=False)
    assert "2 outer epochs have ended, and there is no result yet" in page(run, out=tmp_path / "a.html")
    (run / "metrics.jsonl").unlink()
    assert "No outer epoch has ended yet" in page(run, out=tmp_path / "b.html")
    ablation = tmp_path / "ablation"
    ablation.mkdir()
    (ablation / "ablation.yaml").write_text("dataset: wine\n")
    assert "there is no recommendation yet" in page(ablation, out=tmp_path / "c.html")
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "results.jsonl").write_text('{"config": {"data')
    assert "was being written" in page(sweep, out=tmp_path / "d.html")


def test_a_method_without_network(tmp_path):
    run = samples.run_folder(tmp_path / "run", method="logreg", learned=False)
    (run / "metrics.jsonl").unlink()
    (run / "result.json").write_text(json.dumps({"test_accuracy": 0.95, "seconds": 0.1}))
    samples.seal(run)
    html = page(run, out=tmp_path / "report.html")
    for text in ("95.0 %", "100 ms", "This method has no outer epochs.", "This method uses no graph."):
        assert text in html


@pytest.mark.parametrize(
    ("method", "text"),
    [("ffnn", "This method uses no graph."), ("knn-lds", "No pair of nodes has an edge probability above 0.01.")],
)
def test_no_learned_edge(tmp_path, method, text):
    run = samples.run_folder(tmp_path / "run", count=1, method=method)
    np.savez(run / "graph.npz", edge_index=np.empty((2, 0), np.int64), edge_weight=np.empty(0), num_nodes=178)
    samples.seal(run)
    html = page(run, out=tmp_path / "report.html")
    assert text in html
    assert "<svg" not in html
    assert "Learned neighbourhood" not in html


def test_data_that_cannot_be_loaded(tmp_path):
    folder = samples.run_folder(tmp_path / "run", dataset="cora", method="lds")
    html = page(folder, out=tmp_path / "report.html", data_root=tmp_path)
    assert "since the data set cannot be loaded: cora needs the file ind.cora.x" in html
    assert "Name its folder with --data-root." in html
    assert "chosen because it has the most expected edges" in html


def test_a_file_that_is_gone(tmp_path):
    folder = samples.run_folder(tmp_path / "run", dataset=None, data="gone.csv")
    html = page(folder, out=tmp_path / "report.html")
    assert "gone.csv cannot be read: No such file or directory" in html
    assert "Put the file back, or write the report where the run was started" in html
    assert "--data-root" not in html


def test_several_runs_are_compared(tmp_path):
    folders = [samples.run_folder(tmp_path / f"run-{seed}", seed=seed, test=0.9 + seed / 100) for seed in (1, 2)]
    html = page(*folders, folders[0], out=tmp_path / "report.html")
    assert "91.5 ± 0.7" in html
    assert "only the last counts" in html


def test_texts_of_files_are_no_markup(tmp_path):
    run = samples.run_folder(tmp_path / "run", metric=EVIL)
    whole = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(whole | {"versions": {EVIL: EVIL}}))
    samples.seal(run)
    sweep = samples.sweep_folder(tmp_path / "sweep")
    config = {"dataset": EVIL, "method": EVIL, "seed": 1, EVIL: EVIL}
    error = {"type": EVIL, "message": EVIL, "traceback": EVIL}
    samples.write_lines(
        sweep / "results.jsonl",
        [
            {"config": config, "status": "done", "result": samples.result(0.5)},
            {"config": config | {"seed": 2}, "status": "failed", "error": error},
        ],
    )
    samples.run_folder(sweep / "runs" / "evil", dataset=EVIL, metric=EVIL)
    ablation = samples.ablation_folder(tmp_path / "ablation")
    samples.recommend(ablation, {"horizon": EVIL, "reason": EVIL})
    html = page(run, sweep, ablation, out=tmp_path / "report.html")
    assert "<script" not in html
    assert html.count("&lt;script&gt;") > 10


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="at least one folder"):
        write_report([], tmp_path / "report.html")


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_package_that_is_missing(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"a report needs {package}; run: pip install 'lds-gnn\[report\]'"):
        write_report([tmp_path], tmp_path / "report.html")


def test_a_full_disk(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    folder = samples.run_folder(tmp_path / "run", learned=False)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="cannot be written: No space left on device"):
        write_report([folder], tmp_path / "report.html")


class TestCommand:
    def test_default_path(self, tmp_path, capsys):
        folder = samples.run_folder(tmp_path / "run", learned=False)
        assert main(["report", str(folder)]) == 0
        assert capsys.readouterr().out == f"report {folder / 'report.html'}\n"
        assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")

    def test_a_node(self, tmp_path, capsys):
        folder = samples.run_folder(tmp_path / "run")
        out = tmp_path / "new" / "page.html"
        assert main(["report", str(folder), "--node", "7", "--out", str(out)]) == 0
        assert "Neighbourhood of node 7" in out.read_text()

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["run", "run"], "--out is needed for a page on 2 folders"),
            (["run", "--node", "178"], "node must lie in 0..177, got 178; choose another --node"),
            (["."], "but holds none of these"),
            (["absent"], "but nothing is there"),
            (["run", "--out", "run/config.yaml/page.html"], "run/config.yaml cannot be made"),
        ],
    )
    def test_refused(self, tmp_path, monkeypatch, capsys, argv, message):
        monkeypatch.chdir(tmp_path)
        folder = samples.run_folder(tmp_path / "run")
        before = sorted(folder.iterdir())
        assert main(["report", *argv]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("lds: error: ")
        assert captured.err.count("\n") == 1
        assert message in captured.err
        assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("name", ["$x$", "a $\\frac{ $", "_hidden", "$", "%s", "\u202eabc", "x" * 300])
def test_names_that_a_plotting_library_may_take_for_something_else(tmp_path, name):
    rows = [
        {"config": {"dataset": name, "method": name, "seed": seed}, "status": "done", "result": samples.result(0.5)}
        for seed in (1, 2)
    ]
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    samples.write_lines(sweep / "results.jsonl", rows)
    for seed in (1, 2):
        samples.run_folder(sweep / "runs" / str(seed), count=2, dataset=name, metric=name, seed=seed, learned=False)
    html = page(sweep, out=tmp_path / "report.html")
    assert "<svg" in html
    assert str(escape(name)) in html


@pytest.mark.parametrize("value", [1e100, float("inf"), float("nan"), 1e-320])
def test_figures_at_the_bounds(tmp_path, value):
    folder = samples.run_folder(tmp_path / "run", count=3, done=False)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        del line["sum"]
        line |= dict.fromkeys(("inner_loss", "es_accuracy", "expected_edges"), (-1) ** number * value)
    samples.write_lines(folder / "metrics.jsonl", lines)
    assert "<svg" in page(folder, out=tmp_path / "report.html")
