"""The table, the comparison and the recommendation, by hand."""

import csv
import json
import math
from dataclasses import replace

import pytest

from lds.ablate import Ablation, Row
from lds.errors import InputError
from lds.hypergrad import TruncationCurve


def ablation(es, *, curve=None):
    """Rows with these early-stopping accuracies: horizon -> one a seed."""
    rows = [
        Row(h, seed, test_accuracy=0.5 + h / 100, es_accuracy=value, seconds=10.0 * (h + 1), peak_rss_mb=300.0)
        for h, values in es.items()
        for seed, value in enumerate(values)
    ]
    return Ablation(tuple(rows), curve)


CURVE = TruncationCurve([1.0, 0.5, 0.25, 0.0], [math.nan, 0.9, 0.95, 1.0], [4.0, 3.0, 2.0, 1.0])


class TestRecommendation:
    def test_the_shortest_within_one_standard_error(self):
        # Differences to the best, horizon 20: 0.02 and 0.04 at 5 (mean 0.03, standard error 0.01): not close. At 10:
        # -0.01 and 0.03 (mean 0.01, standard error 0.02): close.
        found = ablation({5: [0.78, 0.76], 10: [0.81, 0.77], 20: [0.80, 0.80]}).recommendation()
        assert found.horizon == 10
        assert "79.0 % over 2 seeds, is within one standard error of the best, 80.0 % at horizon 20" in found.reason
        assert "a run takes 110 s, not 210 s" in found.reason

    def test_pairing_counts(self):
        """The same means and spreads, but every seed loses as much: no doubt is left."""
        found = ablation({5: [0.70, 0.80, 0.90], 20: [0.71, 0.81, 0.91]}).recommendation()
        assert found.horizon == 20
        assert "best mean early-stopping accuracy, 81.0 % over 3 seeds" in found.reason

    def test_of_equals_the_shortest(self):
        assert ablation({0: [0.8, 0.8], 5: [0.8, 0.8]}).recommendation().horizon == 0

    def test_one_seed_takes_the_best_and_says_so(self):
        found = ablation({5: [0.7], 20: [0.8]}).recommendation()
        assert found.horizon == 20
        assert "with one seed may be luck" in found.reason

    def test_test_accuracy_plays_no_part(self):
        # Test accuracy grows with the horizon in `ablation`.
        assert ablation({1: [0.9, 0.8], 9: [0.2, 0.1]}).recommendation().horizon == 1

    def test_fidelity_is_part_of_the_reason(self):
        assert (
            "differs from the full one by 50 % (cosine 0.90)"
            in ablation({1: [0.9]}, curve=CURVE).recommendation().reason
        )
        assert "differs from the full one by 0 %" in ablation({3: [0.9]}, curve=CURVE).recommendation().reason
        beyond = ablation({4: [0.9]}, curve=CURVE).recommendation().reason
        assert "with one seed may be luck." in beyond
        assert "cosine" not in ablation({0: [0.9]}, curve=CURVE).recommendation().reason

    def test_no_runs(self):
        with pytest.raises(InputError, match="needs at least one run that is done"):
            Ablation(()).recommendation()


class TestDifference:
    def test_pairs_seeds(self):
        rows = [Row(1, s, 0.1 * s, 0, 0, 0) for s in (3, 1, 2)] + [
            Row(5, s, 0.1 * s - 0.05, 0, 0, 0) for s in (1, 2, 7)
        ]
        found = Ablation(tuple(rows)).difference(1, 5)
        assert found.difference.count == 2
        assert found.difference.mean == pytest.approx(0.05)

    def test_no_seed_in_common(self):
        rows = (Row(1, 0, 0, 0, 0, 0), Row(5, 1, 0, 0, 0, 0))
        with pytest.raises(InputError, match="horizons 1 and 5 must have a seed in common"):
            Ablation(rows).difference(1, 5)


def test_files(tmp_path):
    result = ablation({0: [0.7, 0.8], 2: [0.9, 0.9]}, curve=CURVE)
    result.write(tmp_path)
    with (tmp_path / "ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["horizon", "seed", "test_accuracy", "es_accuracy", "seconds", "peak_rss_mb"]
    assert [(row["horizon"], row["seed"], row["es_accuracy"]) for row in rows] == [
        ("0", "0", "0.7"),
        ("0", "1", "0.8"),
        ("2", "0", "0.9"),
        ("2", "1", "0.9"),
    ]
    with (tmp_path / "fidelity.csv").open() as file:
        depths = list(csv.DictReader(file))
    assert list(depths[0]) == ["depth", "relative_error", "cosine", "costate_norm"]
    assert [float(row["relative_error"]) for row in depths] == CURVE.relative_error
    recommendation = json.loads((tmp_path / "recommendation.json").read_text())
    assert recommendation["horizon"] == 2


def test_files_in_a_new_folder_and_after_others(tmp_path):
    folder = tmp_path / "new" / "folder"
    result = ablation({0: [0.7]}, curve=CURVE)
    result.write(folder)
    assert len(list(folder.iterdir())) == 3
    replace(result, curve=None).write(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["ablation.csv", "recommendation.json"]
    Ablation(()).write(folder)
    assert [path.name for path in folder.iterdir()] == ["ablation.csv"]


def test_files_where_a_file_is(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file cannot be made: File exists; choose another --out"):
        ablation({0: [0.7]}).write(tmp_path / "file")


def test_table():
    lines = ablation({0: [0.7, 0.8], 2: [0.9, 0.9]}, curve=CURVE).table().splitlines()
    assert lines[0].split()[0] == "horizon"
    # Student's t with one degree of freedom is 12.706; the standard error of 0.7 and 0.8 is 0.05.
    assert "75.0 ± 63.5" in lines[1]
    assert lines[1].split()[-2:] == ["1.000", "-"]
    assert lines[2].split()[-2:] == ["0.250", "0.950"]


def test_table_of_horizons_beyond_the_curve():
    lines = ablation({3: [0.7], 4: [0.8]}, curve=CURVE).table().splitlines()
    assert lines[1].split()[-2:] == ["0.000", "1.000"]
    assert lines[2].split()[-2:] == ["-", "-"]


def test_table_has_paired_differences_to_the_longest_horizon():
    tests = {(0, 1): 0.80, (0, 2): 0.90, (2, 1): 0.79, (2, 7): 0.10, (3, 8): 0.5, (5, 1): 0.82, (5, 2): 0.94}
    rows = [Row(h, seed, test, 0, 0, 0) for (h, seed), test in tests.items()]
    header, *lines = Ablation(tuple(rows)).table().splitlines()
    start = header.index("less horizon 5 (± 95 %)")
    cells = [line[start:][: len("less horizon 5 (± 95 %)")].strip() for line in lines]
    # −2 and −4 points: mean −3, standard error 1, Student's t 12.706.
    assert cells == ["-3.0 ± 12.7", "-3.0", "-", "baseline"]


def test_table_of_no_runs():
    assert Ablation(()).table() == "no run has ended well: there is no accuracy to show"
