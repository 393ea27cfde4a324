"""The table, the comparison and the recommendation, by hand."""

import csv
import json
import math
from dataclasses import replace

import pytest

from lds.ablate import Ablation, Row
from lds.ablate._ablation import number_format
from lds.ablate._ablation_folder import read_ablation
from lds.errors import InputError
from lds.hypergrad import TruncationCurve


def ablation(es, *, curve=None):
    """Rows with these early-stopping accuracies: horizon -> one per seed."""
    rows = [
        Row(h, seed, score=0.5 + h / 100, selection=value, seconds=10.0 * (h + 1), peak_rss_mb=300.0)
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
        assert (
            "es accuracy, 0.790 over 2 seeds, is within one standard error of the best, 0.800 at horizon 20"
            in found.reason
        )
        assert "a run takes 110 s, not 210 s" in found.reason

    def test_pairing_counts(self):
        """The same means and spreads, but every seed loses as much: no doubt is left."""
        found = ablation({5: [0.70, 0.80, 0.90], 20: [0.71, 0.81, 0.91]}).recommendation()
        assert found.horizon == 20
        assert "best mean es accuracy, 0.810 over 3 seeds" in found.reason

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


def losses(**by_horizon):
    rows = [
        Row(int(h[1:]), seed, value, None, 1.0, 300.0)
        for h, values in by_horizon.items()
        for seed, value in enumerate(values)
    ]
    return Ablation(tuple(rows), score="validation loss", lower_is_better=True)


class TestALoss:
    def test_the_least_is_best(self):
        found = losses(h0=[1.194, 1.2], h5=[0.25, 0.26], h20=[0.2, 0.21]).recommendation()
        assert found.horizon == 20
        assert found.reason == "it has the lowest mean validation loss, 0.205 over 2 seeds."

    def test_the_shortest_within_one_standard_error(self):
        # At 5 the loss is greater by −0.01 and 0.03: mean 0.01, standard error 0.02.
        found = losses(h0=[0.9, 0.9], h5=[0.29, 0.33], h20=[0.30, 0.30]).recommendation()
        assert found.horizon == 5
        assert "is within one standard error of the lowest, 0.300 at horizon 20" in found.reason

    def test_nothing_speaks_of_accuracy_or_per_cent(self):
        text = losses(h0=[1.194], h5=[0.25]).table()
        assert "accuracy" not in text
        assert "%" not in text.replace("95 % interval", "")
        assert "validation loss" in text
        assert "-1.194" not in text

    @pytest.mark.parametrize("name", ["validation loss", "test_error", "R², %", 'a "score", quoted'])
    def test_it_is_read_back(self, tmp_path, name):
        ablation = replace(losses(h0=[1.194, 1.2], h5=[0.25, 0.26]), score=name)
        ablation.write(str(tmp_path / "folder"))
        assert read_ablation(str(tmp_path / "folder")).outcome == ablation

    def test_two_scores_are_read_back(self, tmp_path):
        rows = (Row(0, 1, 3.5, 3.0, 1.0, 300.0), Row(5, 1, 3.25, 2.5, 1.0, 300.0))
        ablation = Ablation(rows, score="squared error", lower_is_better=True)
        ablation.write(tmp_path)
        assert (tmp_path / "ablation.csv").read_text().startswith("horizon,seed,test_squared error,es_squared error,")
        assert read_ablation(tmp_path).outcome == ablation
        assert "lowest mean es squared error" in ablation.recommendation().reason

    @pytest.mark.parametrize("name", ["", " ", "seconds", "a\nb", None])
    def test_no_name(self, name):
        with pytest.raises(InputError, match="score must be"):
            Ablation((), score=name)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.8240, 0.05], ["0.824", "0.050"]),
        ([1.0, 0.5], ["1.000", "0.500"]),
        ([119.41, 3.0], ["119.4", "3.0"]),
        ([0.0123456], ["0.0123"]),
        ([1.5e-7], ["1.5e-07"]),
        ([2.5e9, 1.0], ["2.5e+09", "1"]),
        ([0.0], ["0.000"]),
        ([math.nan], ["nan"]),
    ],
)
def test_as_many_digits_as_the_largest_needs(values, texts):
    assert [number_format(values)(value) for value in values] == texts


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
    assert lines[1].split()[:3] == ["mean", "±", "std"]
    assert "0.750 ± 0.071" in lines[2]
    assert lines[2].split()[-2:] == ["1.000", "-"]
    assert lines[3].split()[-2:] == ["0.250", "0.950"]


def test_table_of_horizons_beyond_the_curve():
    lines = ablation({3: [0.7], 4: [0.8]}, curve=CURVE).table().splitlines()
    assert lines[2].split()[-2:] == ["0.000", "1.000"]
    assert lines[3].split()[-2:] == ["-", "-"]


def test_table_has_paired_differences_to_the_longest_horizon():
    tests = {(0, 1): 0.80, (0, 2): 0.90, (2, 1): 0.79, (2, 7): 0.10, (3, 8): 0.5, (5, 1): 0.82, (5, 2): 0.94}
    rows = [Row(h, seed, test, 0, 0, 0) for (h, seed), test in tests.items()]
    header, lines = Ablation(tuple(rows)).cells()
    place = header.index("less horizon 5\nmean [95 % interval]")
    # −0.02 and −0.04: mean −0.03, standard error 0.01, Student's t 12.706.
    assert [line[place] for line in lines] == ["-0.030 [-0.157, +0.097]", "-0.030", "-", "baseline"]
    # t = −3 with one degree of freedom.
    assert [line[place + 1] for line in lines] == ["0.205", "-", "-", ""]


def test_table_of_no_runs():
    assert Ablation(()).table() == "no run has ended well: there is no accuracy to show"
