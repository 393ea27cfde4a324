import pytest
from scipy import stats

from lds.report._tables import accuracy_tables, cost_table, version_table
from lds.run._reader import Run
from tests.report import samples


def runs(**by_setting):
    return [
        Run({"dataset": "wine", "method": method, "seed": seed}, samples.result(test))
        for method, tests in by_setting.items()
        for seed, test in tests.items()
    ]


def test_pairs_have_the_same_seed():
    a, b = {1: 0.90, 2: 0.92, 3: 0.91, 9: 0.1}, {3: 0.95, 2: 0.93, 1: 0.92, 7: 0.99}
    (table,) = accuracy_tables(runs(gcn=a, lds=b))
    first, second = table.rows
    assert first[0] == "gcn"
    assert first[5] == "baseline"
    seeds = (1, 2, 3)
    p = stats.ttest_rel([b[s] for s in seeds], [a[s] for s in seeds]).pvalue
    assert second[5] == "+2.3"  # (2 + 1 + 4) / 3
    assert second[7:] == [f"{p:.3f}", "3"]
    assert second[1] == "4"


def test_means_and_intervals():
    (table,) = accuracy_tables(runs(lds={1: 0.8, 2: 0.9, 3: 1.0}))
    assert table.rows[0][1:4] == ["3", "90.0 ± 10.0", "[65.2, 114.8]"]  # t = 4.3027


def test_one_seed_has_neither_interval_nor_p():
    (table,) = accuracy_tables(runs(gcn={1: 0.8}, lds={1: 0.9}))
    assert table.rows[1][1:] == ["1", "90.0", "–", "80.0", "+10.0", "–", "–", "1"]


def test_no_pairs():
    (table,) = accuracy_tables(runs(gcn={1: 0.8}, lds={2: 0.9}))
    assert table.rows[1][5:] == ["–", "–", "–", "0"]


def test_a_table_a_data_set():
    many = [Run({"dataset": name, "seed": 1}, samples.result(0.5)) for name in ("wine", "iris")]
    assert [table.caption for table in accuracy_tables(many)] == ["Accuracy on wine", "Accuracy on iris"]


def test_costs():
    config = {"dataset": "wine"}
    first = Run(config, samples.result(0.5, seconds=10.0, steps=50, peak_rss_mb=300.0))
    second = Run(config | {"seed": 1}, samples.result(0.5, seconds=30.0, steps=150, peak_rss_mb=500.0))
    assert cost_table([first, second]).rows == [
        ["lds", "wine", "2", "20.0 s", "40.0 s", "100", "200 ms", "500 MiB"]
    ]  # fmt: skip


@pytest.mark.parametrize("steps", [0, None])
def test_costs_of_what_takes_no_outer_steps(steps):
    row = cost_table([Run({"dataset": "wine"}, samples.result(0.5, steps=steps))]).rows[0]
    assert row[6] == "–"


def test_versions_that_differ():
    other = Run({"dataset": "wine"}, samples.result(0.5, versions={"torch": "2.14.0"}))
    table = version_table([*runs(lds={1: 0.5}), other])
    assert ["torch", "2.13.0, 2.14.0"] in table.rows
