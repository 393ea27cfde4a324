import math

import pytest

from lds._statistics import mean, paired


def test_mean_of_known_values():
    # 1, 2, 3: std 1, and t_{0.975, 2} = 4.302653 from the tables.
    result = mean([1.0, 2.0, 3.0])
    assert (result.mean, result.std, result.count) == (2.0, 1.0, 3)
    assert result.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_one_value_has_no_interval():
    result = mean([0.5])
    assert result.mean == 0.5
    assert math.isnan(result.std)
    assert math.isnan(result.half_width)


def test_paired_by_hand():
    # Differences 1, 2, 3: t = 2 √3, two-sided p with 2 degrees of freedom is 1 − t/√(t² + 2).
    result = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    t = 2 * math.sqrt(3)
    assert result.difference.mean == 2
    assert result.p_value == pytest.approx(1 - t / math.sqrt(t * t + 2), rel=1e-9)


def test_equal_differences_have_no_p_value():
    assert math.isnan(paired([1.0, 2.0], [0.0, 1.0]).p_value)
    # One of 148 nodes each, which rounding tells apart.
    first, second = [130 / 148, 134 / 148], [129 / 148, 133 / 148]
    assert first[0] - second[0] != first[1] - second[1]
    assert math.isnan(paired(first, second).p_value)


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0])])
def test_what_cannot_be_compared(a, b):
    with pytest.raises(ValueError, match=r"at least one|shorter|longer"):
        paired(a, b)
