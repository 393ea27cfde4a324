"""The harness of scripts/benchmarks: fresh processes, rounds in turn, medians of what is paired within a round."""

import importlib.util
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "scripts" / "benchmarks"


@pytest.fixture(scope="module")
def harness():
    spec = importlib.util.spec_from_file_location("harness", BENCHMARKS / "harness.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_spec_is_measured_in_a_process_of_its_own(harness):
    found = harness.fresh(str(BENCHMARKS / "imports.py"), {"statement": "import json"})
    assert found["seconds"] >= 0
    assert found["peak_rss_mb"] > 1


def test_a_failure_says_which_spec_failed_and_why(harness):
    with pytest.raises(RuntimeError, match=r"import nowhere.*No module named 'nowhere'"):
        harness.fresh(str(BENCHMARKS / "imports.py"), {"statement": "import nowhere"})


@pytest.fixture
def order(harness, monkeypatch):
    """What was measured, in order; "gone" is absent, "bad" fails."""
    measured = []

    def fresh(script, spec, *, threads, tree):
        measured.append((spec["case"], tree.name))
        if spec["case"] == "bad":
            raise RuntimeError("it is bad")
        return {"absent": "not installed"} if spec["case"] == "gone" else {"seconds": 1.0}

    monkeypatch.setattr(harness, "fresh", fresh)
    return measured


def test_a_round_goes_over_all_alternatives_before_the_next_begins(harness, order):
    trees = {"new": Path("a"), "old": Path("b")}
    rows = harness.run("x.py", [{"case": "one"}, {"case": "two"}], 2, trees=trees)
    assert order == [("one", "a"), ("one", "b"), ("two", "a"), ("two", "b")] * 2
    assert [row["round"] for row in rows] == [0] * 4 + [1] * 4


def test_absent_and_known_specs_are_not_measured_again(harness, order):
    specs = [{"case": case} for case in ("gone", "bad", "good")]
    kept = []
    rows = harness.run("x.py", specs, 2, known=[{"case": "good", "round": 0, "seconds": 2.0}], keep=kept.append)
    assert [case for case, _ in order] == ["gone", "bad", "bad", "good"]
    assert kept[-1] == rows
    table = harness.medians(rows, ["case"])
    assert table.to_dict("records") == [{"case": "good", "rounds": 2, "seconds": 1.5}]


def test_a_failure_ends_a_run_that_keeps_nothing(harness, order):
    with pytest.raises(RuntimeError, match="it is bad"):
        harness.run("x.py", [{"case": "bad"}], 1)


def test_ratios_are_those_within_a_round(harness):
    """The machine gets ten times as slow after the first round; the ratios stay 2."""
    rows = [
        {"case": case, "round": number, "seconds": seconds * slowness}
        for number, slowness in enumerate((1, 10, 10))
        for case, seconds in (("reference", 1.0), ("other", 2.0))
    ]
    table = harness.medians(rows, ["case"], pair=("case", "reference")).set_index("case")
    assert table["ratio"].to_dict() == {"reference": 1.0, "other": 2.0}
    assert table["seconds"].to_dict() == {"reference": 10.0, "other": 20.0}


def test_a_result_says_how_it_came_about(harness, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", [str(BENCHMARKS / "imports.py"), "--rounds", "1"])
    harness.write(tmp_path / "new" / "result.json", rows=[1])
    report = json.loads((tmp_path / "new" / "result.json").read_text())
    assert report["command"] == "python scripts/benchmarks/imports.py --rounds 1"
    assert report["rows"] == [1]
    assert {"python", "lds", "torch"} <= report["versions"].keys()
    assert "torch" in report["machine"]
