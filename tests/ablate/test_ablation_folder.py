"""The folder of an ablation, read back."""

import pytest

from lds.ablate import Ablation, Row
from lds.ablate._ablation_folder import read_ablation
from lds.errors import DataError
from lds.hypergrad import TruncationCurve

ROWS = (Row(0, 1, 0.5, 0.25, 2.0, 400.0), Row(5, 1, 0.75, 0.5, 3.0, 401.5))
CURVE = TruncationCurve([1.0, 0.5, 0.0], [0.25, 0.5, 1.0], [3.0, 2.0, 1e-3])


@pytest.mark.parametrize("ablation", [Ablation(ROWS, CURVE), Ablation(ROWS), Ablation(())])
def test_what_is_written_is_read(tmp_path, ablation):
    ablation.write(tmp_path)
    found = read_ablation(tmp_path)
    assert found.outcome == ablation
    assert (found.recommendation is None) == (not ablation.rows)
    assert (found.config, found.grid) == ({}, None)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("ablation.csv", "5,1,", "5.5,1,", r"ablation\.csv needs integers as horizon and seed, but holds 5\.5, 1\.0"),
        ("ablation.csv", "5,1,", "5,,", "needs integers as horizon and seed, but holds 5.0, nan"),
        ("ablation.csv", "0.75", "good", r"ablation\.csv:3 needs a number as test_accuracy, but holds 'good'"),
        ("fidelity.csv", "1,0.5", "2,0.5", r"fidelity\.csv needs a row for each depth from 0 on"),
        ("fidelity.csv", "0,1.0", ",1.0", "needs a row for each depth from 0 on"),
    ],
)
def test_malformed_files(tmp_path, file, old, new, message):
    Ablation(ROWS, CURVE).write(tmp_path)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    with pytest.raises(DataError, match=message):
        read_ablation(tmp_path)
