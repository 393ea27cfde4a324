"""What was tried: every variant once, and what is kept."""

import importlib

import pytest

from lds.graph import KNNGraph
from tests.learner.problems import blocks


@pytest.fixture
def tried():
    return importlib.import_module("tried")


@pytest.mark.parametrize("plain", ["APPNP (train+val)", "LDS", "LDS on candidates"])
def test_every_variant_runs(tried, monkeypatch, plain):
    """On a small problem in place of Cora."""
    data = blocks(96, classes=3)
    data.x = data.x.abs()
    monkeypatch.setattr(tried, "load", lambda *_, **__: data)
    monkeypatch.setattr(tried, "KNNGraph", lambda *_: KNNGraph(2))
    for variant in tried.VARIANTS[plain]:
        found = tried.run(plain, variant, 0, 1)
        assert 30 < found["test"] <= 100, variant


def test_the_table_has_all_runs_that_there_are(tried, monkeypatch, tmp_path):
    """Also where only one of the plain learners is asked for; so it is the one that is kept in the repository."""
    kept = tried.HERE / "results" / "tried"
    (tmp_path / "runs.jsonl").write_bytes((kept / "runs.jsonl").read_bytes())
    monkeypatch.setattr("sys.argv", ["tried.py", "--plain", "LDS", "--out", str(tmp_path)])
    tried.main()
    for name in ("table.md", "table.csv"):
        assert (tmp_path / name).read_text() == (kept / name).read_text()


def test_rows(tried):
    runs = [
        {"plain": "LDS", "variant": variant, "seed": seed, "es": 70 + es + 0.1 * seed, "test": 70}
        for variant, es in (("plain", 0.0), ("denoising 0.1", 1.0), ("denoising 1", -1.0))
        for seed in range(5)
    ]
    rows = {row["variant"]: row for row in tried.make_rows(runs)}
    assert "kept" not in rows["plain"]
    assert rows["denoising 0.1"]["kept"] == "yes"
    assert rows["denoising 0.1"]["es_difference"] == pytest.approx(1)
    assert rows["denoising 1"]["kept"] == "no"


def test_a_tie_by_rounding_is_not_kept_and_dropped_variants_stay_in_the_table(tried):
    plain = "LDS on candidates"
    es = {"plain": [74.0] * 7, "pull 0.001": [74.4, 74.0, 73.6, 74.4, 74.4]}  # Their mean is one standard error.
    runs = [
        {"plain": plain, "variant": variant, "seed": seed, "es": value, "test": value}
        for variant, values in es.items()
        for seed, value in enumerate(values)
    ]
    found = {row["variant"]: row for row in tried.make_rows(runs)}
    assert found["pull 0.001"]["kept"] == "no"
    assert found["pull 0.001"]["es_difference"] == pytest.approx(0.16)
    assert found["plain"]["seeds"] == 7
    assert all(set(names).isdisjoint(tried.VARIANTS[plain]) for plain, names in tried.DROPPED.items())
