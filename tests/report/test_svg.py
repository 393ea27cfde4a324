import pytest

from lds.report._svg import canvas, logarithmic, render


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([1.0, 10.0, 1000.0], {"1", "10", "100", "1000"}),
        ([0.06, 0.3, 0.7], {"0.1", "0.2", "0.5"}),
        ([0.33, float("nan"), 0.34], {"0.33", "0.34"}),
    ],
)
def test_a_logarithmic_axis_has_ticks_at_any_range(values, labels):
    with canvas("x", "y") as (figure, axes):
        axes.plot(range(len(values)), values)
        logarithmic(axes)
        svg = render(figure, "name", "title")
    assert axes.get_yscale() == "log"
    assert all(f">{label}</text>" in svg for label in labels)


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [0.0, -1.0], [float("nan")]])
def test_nothing_positive_has_a_linear_axis(values):
    with canvas("x", "y") as (figure, axes):
        axes.plot(range(len(values)), values)
        logarithmic(axes)
        render(figure, "name", "title")
    assert axes.get_yscale() == "linear"
