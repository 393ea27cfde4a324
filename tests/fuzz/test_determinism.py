"""The same seed gives the same bits, in however many processes the runs of a sweep go."""

import json

import pytest
import torch

from lds.sweep import ProcessEngine, Spec, run_sweep

SPEC = {
    "name": "bits",
    "runs": [
        {"dataset": "wine", "method": ["knn-lds", "knn-gcn"], "k": 3, "hidden": 2, "samples": 2, "tau": 20,
         "max_epochs": 1, "seed": [0, 1]},
        {"dataset": "wine", "method": "random-forest", "n_estimators": 5, "seed": [0, 1]},
    ],
}  # fmt: skip
MEASURED = ("seconds", "peak_rss_mb")


def tensors(folder):
    """Every tensor of every checkpoint, and the bytes of every graph and of all predictions."""
    found = {}
    for path in sorted(folder.glob("runs/*/*")):
        name = str(path.relative_to(folder))
        if path.name == "checkpoint.pt":
            saved = torch.load(path, weights_only=True)
            parts = {"theta": saved["theta"], "logits": saved["logits"], **saved["params"]}
            found |= {f"{name}:{part}": (x.dtype, x.shape, x.numpy().tobytes()) for part, x in parts.items()}
        elif path.name in ("predictions.npy", "metrics.jsonl", "config.yaml"):
            found[name] = path.read_bytes()
    return found


def results(outcomes):
    return [{name: value for name, value in o.result.items() if name not in MEASURED} for o in outcomes]


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    spec = Spec.make(SPEC)
    folders = [tmp_path_factory.mktemp(f"jobs-{jobs}") for jobs in (1, 2)]
    return [
        (run_sweep(spec, f, ProcessEngine(jobs), progress=False), f) for f, jobs in zip(folders, (1, 2), strict=True)
    ]


def test_one_process_and_two_give_the_same_bits(sweeps):
    (one, first), (two, second) = sweeps
    assert [o.status for o in one] == ["done"] * 6
    assert json.dumps(results(one)) == json.dumps(results(two))
    assert [o.config for o in one] == [o.config for o in two]
    bits = tensors(first)
    assert len([name for name in bits if name.endswith(":theta")]) == 4
    assert bits == tensors(second)


def test_another_seed_gives_others(sweeps):
    """What is compared tells runs apart."""
    thetas = [bits for name, bits in tensors(sweeps[0][1]).items() if name.endswith(":logits")]
    assert len(set(thetas)) == len(thetas) == 4
