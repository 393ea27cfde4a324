"""Variants of the learners against the control with the same labels, and what a structure adds to them."""

import importlib

import pytest

from lds.sweep import Outcome

CONTROL = {"method": "gcn", "train_on": "train+val", "retain": 0.25}


@pytest.fixture
def learners():
    return importlib.import_module("learners")


def outcomes(es, test, loss=1.0, **fields):
    config = {"dataset": "cora", **fields}
    return [
        Outcome({**config, "seed": s}, "done", {"es_accuracy": e, "test_accuracy": t, "es_loss": loss})
        for s, (e, t) in enumerate(zip(es, test, strict=True))
    ]


def test_rows(learners):
    control, wide, learned, plain, other = learners.make_rows(
        [
            *outcomes([0.70, 0.71, 0.72, 0.71, 0.71], [0.70, 0.72, 0.71, 0.70, 0.72], **CONTROL),
            *outcomes([0.73] * 5, [0.72] * 5, **CONTROL, hidden=64),
            *outcomes([0.73] * 5, [0.75] * 5, loss=0.9, method="lds", retain=0.25, hidden=64),
            *outcomes([0.71] * 5, [0.74] * 5, method="lds", retain=0.25),
            *outcomes([0.60] * 5, [0.7] * 5, method="knn-gcn", train_on="train+val"),
        ]
    )
    assert (control["graph"], control["variant"], control["labels"]) == ("25% of the edges", "plain", "train+val")
    assert "kept" not in control
    assert other["graph"] == "kNN"  # Another place, with itself as the control.
    assert "es_difference" not in other
    assert (wide["variant"], wide["kept"], wide["chosen"]) == ("hidden 64", "yes", None)
    assert wide["es_difference"] == pytest.approx(2)
    assert "added" not in wide
    # Of equal accuracies the one with the lower loss is chosen; it is compared with the network of its width, too.
    assert (learned["kept"], learned["chosen"], learned["labels"]) == ("yes", "yes", "train, and val for θ")
    assert learned["test_difference"] == pytest.approx(4)
    assert learned["added"] == pytest.approx(3)
    assert (plain["variant"], plain["kept"]) == ("plain", "no")
    assert plain["added"] == pytest.approx(3)
    text = learners.markdown([control, wide, learned])
    assert "| cora | 25% of the edges | lds | hidden 64 | train, and val for θ | 5 | 73.0 | 2.0 ± " in text
