"""Outcomes grouped over seeds, and which setting is selected."""

import pytest

from lds.errors import InputError
from lds.sweep import Outcome, select, summary


def done(seed, es, *, test=0.5, loss=None, method="lds", **fields):
    config = {"dataset": "cora", "method": method, **fields, "seed": seed}
    return Outcome(config, "done", {"test_accuracy": test, "es_accuracy": es, "es_loss": loss})


def failed(seed, **fields):
    return Outcome({"dataset": "cora", "method": "lds", **fields, "seed": seed}, "failed", error={"type": "E"})


def test_summary():
    outcomes = [done(1, 0.8, test=0.7, tau=20), failed(0, tau=9), done(0, 0.6, test=0.9, tau=20), failed(2, tau=20)]
    first, second = summary(outcomes)
    assert first.setting == {"dataset": "cora", "method": "lds", "tau": 20}
    assert (first.seeds, first.test, first.es, first.failed) == ([0, 1], [0.9, 0.7], [0.6, 0.8], 1)
    assert first.mean("es_accuracy").mean == pytest.approx(0.7)
    assert (second.setting["tau"], second.seeds, second.results, second.failed) == (9, [], [], 1)
    assert summary([]) == []


@pytest.mark.parametrize(
    ("outcomes", "chosen"),
    [
        # The mean, not the best seed; and nothing that happens on test nodes.
        ([done(0, 1.0, tau=1), done(1, 0.0, tau=1), done(0, 0.6, tau=2), done(1, 0.6, tau=2)], 2),
        ([done(0, 0.5, test=0.9, tau=1), done(0, 0.6, test=0.1, tau=2)], 2),
        ([done(0, 0.5, loss=0.3, tau=1), done(0, 0.5, loss=0.2, tau=2)], 2),
        ([done(0, 0.5, loss=0.3, tau=1), done(0, 0.5, tau=2)], 1),
        ([done(0, 0.5, loss=0.3, tau=1), done(0, 0.5, loss=0.3, tau=2)], 1),
        ([done(0, 0.5, loss=0.3, tau=1), done(0, 0.6, loss=0.4, tau=2)], 2),
        ([failed(0, tau=1), done(0, 0.1, tau=2)], 2),
    ],
)
def test_select(outcomes, chosen):
    (setting,) = select(outcomes)
    assert setting.setting["tau"] == chosen


def test_select_by():
    outcomes = [done(0, 0.5), done(0, 0.6, retain=0.5), done(0, 0.4, retain=1.0, k=3), done(0, 0.1, method="gcn")]
    assert [s.setting for s in select(outcomes)] == [
        {"dataset": "cora", "method": "lds", "retain": 0.5},
        {"dataset": "cora", "method": "gcn"},
    ]
    # What a run does not say is the default.
    assert [s.es for s in select(outcomes, by=("dataset", "method", "retain"))] == [[0.5], [0.6], [0.1]]
    assert select([failed(0)]) == []


@pytest.mark.parametrize("name", ["colour", "seed"])
def test_select_by_no_field(name):
    with pytest.raises(InputError, match=f"by must name fields of a run other than its seed, got '{name}'"):
        select([], by=("dataset", name))
