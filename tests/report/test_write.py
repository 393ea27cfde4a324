import io
import json
import re
import sys
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape

from lds.ablate._ablation_folder import read_ablation
from lds.cli import main
from lds.errors import DataError, InputError, StorageError
from lds.report import score_table, write_report
from lds.report._confusion import confusion
from lds.report._print import PRINTED
from tests.report import samples

TEMPLATES = files("lds.report") / "templates"
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
    assert html.count("<svg ") == html.count("<figure data-points=") == html.count("</figure>") == 8
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert len(html) < 500_000


def test_it_needs_nothing_from_elsewhere(tmp_path):
    html = page(samples.run_folder(tmp_path / "run"), samples.sweep_folder(tmp_path / "s"), out=tmp_path / "r.html")
    for address in re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', html):
        assert "".join(address).startswith(("#", "data:"))
    assert "<script src" not in html
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
    assert "<script>alert" not in html
    assert html.count("<script") == html.count("</script>") == 2 + 1  # The structures of run and sweep, and page.js.
    assert html.count("&lt;script&gt;") > 10


def test_paths_as_texts_and_a_single_folder(tmp_path):
    folder = samples.run_folder(tmp_path / "run", learned=False)
    assert write_report(str(folder)) == folder / "report.html"
    assert write_report(str(folder)).exists()  # That page is ours to write anew.
    assert write_report([str(folder)], str(tmp_path / "a.html")) == tmp_path / "a.html"
    with pytest.raises(InputError, match=r"a\.html must not be there yet"):
        write_report([str(folder)], str(tmp_path / "a.html"))


def test_two_runs_lie_over_one_another(tmp_path):
    folders = [samples.run_folder(tmp_path / f"run-{seed}", seed=seed, k=10 * seed) for seed in (1, 2)]
    html = page(*folders, out=tmp_path / "report.html")
    assert html.index("Inner loss of 2 runs by outer epoch") < html.index("Inner loss by outer epoch")
    for text in ("run-1: outer epoch 3, inner loss (nats) 0.3", "What the configurations differ in"):
        assert text in html
    one = page(folders[0], out=tmp_path / "one.html")
    assert "of 2 runs by outer epoch" not in one


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


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    root = tmp_path_factory.mktemp("every")
    run = samples.predictions(samples.run_folder(root / "run", count=4))
    return [run, samples.sweep_folder(root / "sweep"), samples.ablation_folder(root / "ablation")]


class TestFigures:
    def test_each_is_there_in_three_formats(self, every, tmp_path):
        write_report(every[0], tmp_path / "r.html", figures=tmp_path / "new" / "figures")
        names = {path.name for path in (tmp_path / "new" / "figures").iterdir()}
        stems = {
            "loss",
            "es",
            "edges",
            "confusion",
            "class",
            "origin",
            "adjacency-initial",
            "adjacency-learned",
            "node",
        }
        assert names == {f"{stem}.{kind}" for stem in stems for kind in ("pdf", "svg", "png")}
        starts = {"pdf": b"%PDF", "png": b"\x89PNG", "svg": b"<?xml"}
        for path in (tmp_path / "new" / "figures").iterdir():
            assert path.read_bytes().startswith(starts[path.suffix[1:]])

    def test_they_keep_the_colours_of_the_light_page(self, every, tmp_path):
        """No stand-in is left, and every colour is one of page.css."""
        write_report(every, tmp_path / "r.html", figures=tmp_path / "figures")
        css = (TEMPLATES / "page.css").read_text().split("@media")[0]
        known = set(re.findall(r"#[0-9a-f]{6}", css)) | {"#ffffff"}
        seen = set()
        for path in (tmp_path / "figures").glob("*.svg"):
            seen |= set(re.findall(r"#[0-9a-f]{6}\b", re.sub(r'(id|href)="[^"]*"|url\([^)]*\)', "", path.read_text())))
        assert seen - known == {"#000000"} & seen
        assert len(seen) > 8
        assert set(PRINTED.values()) <= known

    def test_the_same_input_gives_the_same_bytes(self, every, tmp_path):
        for name in "ab":
            write_report(every[0], tmp_path / f"{name}.html", figures=tmp_path / name)
        for path in (tmp_path / "a").iterdir():
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name

    def test_the_page_is_the_same_with_and_without(self, every, tmp_path):
        with_figures = page(every[0], out=tmp_path / "a.html", figures=tmp_path / "figures")
        assert with_figures == page(every[0], out=tmp_path / "b.html")


class TestTable:
    def test_csv_holds_numbers(self, every, capsys):
        assert main(["report", str(every[1]), "--table", "csv"]) == 0
        table = pd.read_csv(io.StringIO(capsys.readouterr().out), index_col="setting")
        assert list(table.index) == ["knn-gcn", "knn-lds", "knn-lds, k 20"]
        assert table.loc["knn-lds", "test accuracy, % (mean)"] == 92.9
        assert table.loc["knn-lds", "test accuracy, % (std)"] == 0.3
        assert (table["test accuracy, % low"] < table["test accuracy, % high"]).all()
        assert not (every[1] / "report.html").exists()

    def test_an_ablation_has_the_numbers_of_the_terminal(self, every, capsys):
        assert main(["report", str(every[2]), "--table", "md"]) == 0
        printed = capsys.readouterr().out
        header, _, *rows = [line.strip("| ").split(" | ") for line in printed.splitlines()]
        assert header[:3] == ["horizon", "seeds", "test accuracy (mean ± std)"]
        ours = [line.split() for line in read_ablation(every[2]).outcome.table().splitlines()[2:]]
        assert [row[:3] for row in rows] == [[*line[:2], " ".join(line[2:5])] for line in ours]

    def test_latex_is_escaped(self, tmp_path):
        rows = [{"config": {"dataset": "d", "method": "a_b & $c$ {50 %}", "seed": s}, "status": "done",
                 "result": samples.result(0.5 + s / 10)} for s in (1, 2)]  # fmt: skip
        (tmp_path / "sweep").mkdir()
        samples.write_lines(tmp_path / "sweep" / "results.jsonl", rows)
        text = score_table(tmp_path / "sweep", "latex")
        assert r"a\_b \& \$c\$ \{50 \%\} & 2 & 65.0 $\pm$ 7.1 &" in text
        assert text.count(r"\\") == 2
        assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))

    def test_with_a_page(self, every, tmp_path, capsys):
        out = tmp_path / "page.html"
        assert main(["report", str(every[1]), "--table", "md", "--out", str(out)]) == 0
        captured = capsys.readouterr()
        assert captured.out.startswith("| setting |")
        assert captured.err == f"report {out}\n"
        assert out.exists()

    def test_what_is_refused(self, every, tmp_path):
        with pytest.raises(InputError, match="table must be latex, csv or md, got 'word'"):
            score_table(every, "word")
        with pytest.raises(InputError, match="a table needs a run that has ended, but there is none in"):
            score_table(samples.run_folder(tmp_path / "run", done=False))


class TestClasses:
    def test_a_matrix_and_a_table(self, every, tmp_path):
        html = page(every[0], out=tmp_path / "r.html")
        for text in ("Confusion matrix", "Accuracy by class", "class 0, predicted 1: 2 (5.1 % of the class)"):
            assert text in html

    def test_by_hand(self, tmp_path):
        lines = [
            "a,test,cat,cat",
            "b,test,cat,dog",
            "c,test,dog,dog",
            "d,train,dog,cat",
            "e,test,,dog",
            "f,test,cat,cat",
        ]
        (tmp_path / "predictions.csv").write_text("\n".join(["node,split,label,predicted", *lines]))
        _, table = confusion(tmp_path, "f", ["dog", "cat", "cow"])
        assert table.rows == [
            ["dog", "1", "1", "100.0 %", "50.0 %"],
            ["cat", "3", "2", "66.7 %", "100.0 %"],
            ["all", "4", "3", "75.0 %", ""],
        ]

    @pytest.mark.parametrize(
        ("text", "said"),
        [("node,split,label,predicted\na,train,x,x\n", "No test node has a label"), (None, "holds no predictions.csv")],
    )
    def test_nothing_to_say(self, tmp_path, text, said):
        if text is not None:
            (tmp_path / "predictions.csv").write_text(text)
        assert said in confusion(tmp_path, "f", None)[0].text

    def test_malformed(self, tmp_path):
        (tmp_path / "predictions.csv").write_text("node,label\n0,1\n")
        with pytest.raises(
            DataError, match=r"predictions.csv:1 needs the columns split, .* but lacks split, predicted"
        ):
            confusion(tmp_path, "f", None)

    def test_a_line_cut_off(self, tmp_path):
        (tmp_path / "predictions.csv").write_text("node,split,label,predicted\n0,test,a,a\n1,test,b\n")
        with pytest.raises(DataError, match=r"csv:3 needs 4 cells, as the header has, but holds 3"):
            confusion(tmp_path, "f", None)

    def test_no_classes_at_all(self, tmp_path):
        lines = [f"{i},test,{i},{i}" for i in range(400)]
        (tmp_path / "predictions.csv").write_text("\n".join(["node,split,label,predicted", *lines]))
        assert "400 classes, too many" in confusion(tmp_path, "f", None)[0].text

    def test_a_hundred_classes(self, tmp_path):
        lines = [f"{i},test,{i % 100},{i % 97}" for i in range(500)]
        (tmp_path / "predictions.csv").write_text("\n".join(["node,split,label,predicted", *lines]))
        _, table = confusion(tmp_path, "f", None)
        assert [row[0] for row in table.rows[:3]] == ["0", "1", "2"]
        assert len(table.rows) == 101


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
            (["run", "--figures", "run/config.yaml"], "run/config.yaml cannot be made"),
            (["run", "--out", "taken.html"], "taken.html must not be there yet, but is"),
            (["run", "--figures", "taken"], "taken/loss.pdf must not be there yet, but is"),
            (["run", "--out", "run/config.yaml/page.html"], "run/config.yaml cannot be made"),
        ],
    )
    def test_refused(self, tmp_path, monkeypatch, capsys, argv, message):
        monkeypatch.chdir(tmp_path)
        folder = samples.run_folder(tmp_path / "run")
        (tmp_path / "taken").mkdir()
        for name in ("taken.html", "taken/loss.pdf"):
            (tmp_path / name).touch()
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
