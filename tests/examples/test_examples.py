"""Every example runs and finds what its docstring says."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the examples draw pictures")

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
# Smaller settings, where the ones that the pictures are made with take too long for a test.
SMALLER = {
    "few_shot": ["--quick"],
    "hyper_cleaning": ["--outer-steps=15"],
    "learning_rate_schedule": ["--outer-steps=8", "--grid=4", "--seeds=2", "--measured=6"],
    "minibatch_cleaning": ["--epochs=25"],
    "own_data": ["--seeds=2", "--epochs=1"],
    "semi_supervised": ["--datasets", "wine", "iris", "--seeds=1", "--epochs=1"],
    "tune": ["--trials=8", "--epochs=2"],
    "weight_decay_per_parameter": ["--outer-steps=12"],
    "darts_cell": ["--search-steps=10", "--steps=30", "--seeds=1"],
    "dataset_distillation": ["--outer-steps=40", "--seeds=1", "--starts=3"],
    "learned_optimizer": ["--problems=10", "--seeds=1", "--grid=4", "--tried=1", "--measured=3"],
}


def check_alternating_gradient(found):
    assert found["error_g"] <= 1e-12
    assert found["error_jtg"] <= 1e-12
    assert found["drift"] <= 1e-12
    assert found["f_last"] < 0.01 * found["f_first"]


def check_implicit_scalar(found):
    assert found["implicit_error"] <= 1e-12
    assert found["unrolled_error"] == pytest.approx(0.8**60, rel=1e-6)  # (1 − 2η)^T of 60 steps.
    assert found["formula_error"] <= 1e-12
    assert 0 < found["theta"] < 1e-8
    assert found["silent_from"] == 33  # 0.8^30 > stationarity_tol > 0.8^33.


def check_argmin_network(found):
    assert found["unrolled_error"] <= 1e-12
    assert found["difference_error"] <= 1e-8
    assert not found["warned_with"]
    assert found["warned_without"]
    assert found["names_infinity"]


def check_weight_decay_per_parameter(found):
    assert found["validation_after"] < 0.7 * found["validation_before"]
    assert found["test_after"] < 0.9 * found["test_before"]
    assert found["accuracy_after"] > found["accuracy_before"]


def check_hyper_cleaning(found):
    assert found["auc"] > 0.9
    assert found["loss_last"] < 0.5 * found["loss_first"]
    assert found["learned weights"] > found["all labels"] + 0.05
    assert found["learned weights + validation"] > found["all labels + validation"]


def check_minibatch_cleaning(found):
    assert found["auc"] > 0.9
    assert found["learned"] > found["plain"] + 0.05


def check_few_shot(found):
    assert found["MAML"] > found["random weights"] + 10
    assert found["MAML"] > found["Reptile"]
    assert found["ANIL"] > found["random weights"] + 5
    assert min(found.values()) > 20  # One in five is chance.


def check_learning_rate_schedule(found):
    assert found["learned_validation"] < found["constant_validation"]
    assert found["learned_test"] < found["constant_test"]
    assert found["sum_error"] <= 1e-4


def check_semi_supervised(found):
    assert found["wine, LDSClassifier"] > found["wine, LabelSpreading"]
    assert found["wine, LDSClassifier"] > found["wine, LabelPropagation"]
    assert found["wine, LDSClassifier"] > found["wine, LDSClassifier, fixed graph"] - 0.03
    assert found["iris, LDSClassifier"] < found["iris, LDSClassifier, fixed graph"]
    assert found["iris, within, LDSClassifier"] < found["iris, within, LDSClassifier, fixed graph"]


def check_own_data(found):
    assert found["exported graph"] > 0.9
    assert found["exported graph"] > found["kNN graph"] - 0.02
    assert found["within"] > found["within_knn"] - 0.01


def check_darts_cell(found):
    assert found["second order"] > 0.15  # A few steps of training, for which 0.1 is chance.
    assert found["difference_error"] > 0.01
    assert found["difference_error_double"] < 1e-6


def check_dataset_distillation(found):
    assert found["loss_last"] < 0.3 * found["loss_first"]
    assert found["distilled"] > found["real, at random"] + 0.05
    assert found["all 1,000"] > found["distilled"] - 0.05


def check_learned_optimizer(found):
    assert found["loss_last"] < 0.1 * found["loss_first"]
    assert found["held-out problems, learned"] < found["held-out problems, SGD, cosine"]


def check_tune(found):
    assert found["best"] >= 0.9
    assert found["trials"] == 8
    assert found["ended early"] >= 1
    assert found["epochs"] < 8 * 2  # Those of a grid without an end that comes early.


def test_every_example_has_its_claim_and_its_row():
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert len(NAMES) >= 6
    for name in NAMES:
        assert f"check_{name}" in globals()
        assert f"({name}.py)" in table
        assert f"pictures/{name}.png" in table


@pytest.mark.parametrize("name", NAMES)
def test_example(name, tmp_path, capsys):
    if name == "tune":
        pytest.importorskip("optuna", reason="optuna is not installed; pip install '.[tune]'")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert f"python examples/{name}.py" in example.__doc__
    picture = tmp_path / "pictures" / f"{name}.png"
    found = example.main(["--out", str(picture), *SMALLER.get(name, [])])
    globals()[f"check_{name}"](found)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("name", NAMES)
def test_picture_is_committed_and_small(name):
    assert 5_000 < (EXAMPLES / "pictures" / f"{name}.png").stat().st_size < 150_000
