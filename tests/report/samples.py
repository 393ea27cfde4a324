"""Folders to report on, made by hand: small, and the same every time."""

import json
import math

import numpy as np
import yaml

from lds._sums import sums_of_files, with_sum, yaml_with_sum
from lds.run._reader import tie

VERSIONS = {"lds": "0.1.0", "python": "3.11.7", "torch": "2.13.0"}
LABELS = np.repeat([0, 1, 2], [59, 71, 48])  # of wine


def result(test, es=0.8, *, seconds=12.0, steps=120, **others):
    return {
        "dataset": "wine", "method": "knn-lds", "test_accuracy": test, "es_accuracy": es, "outer_epochs": 3,
        "outer_steps": steps, "expected_edges": 1250.0, "seconds": seconds, "peak_rss_mb": 400.0, "versions": VERSIONS,
    } | others  # fmt: skip


def epochs(count, *, best=2, base=0.8):
    return [
        {
            "epoch": e, "outer_step": 40 * e, "inner_loss": 0.9 / e, "es_loss": 0.4,
            "es_accuracy": base + 0.03 * math.sin(e + 30 * base),
            "expected_edges": 1200.0 + 15 * e, "improved": e in (1, best),
        }
        for e in range(1, count + 1)
    ]  # fmt: skip


def write_lines(path, rows):
    path.write_text("".join(json.dumps(with_sum(row)) + "\n" for row in rows))


def seal(path):
    """Tie the files of a run to its result, as a run does at its end."""
    result = json.loads((path / "result.json").read_text())
    own = {name: value for name, value in result.items() if name not in ("config", "sums")}
    config = yaml.safe_load((path / "config.yaml").read_text())
    (path / "result.json").write_text(json.dumps(tie(path, config, own), indent=2))


def graph(path, *, num_nodes=178, seed=0):
    """Probable edges within the classes of wine, improbable ones between them."""
    random = np.random.default_rng(seed)
    i, j = np.triu_indices(num_nodes, 1)
    same = LABELS[i % 178] == LABELS[j % 178]
    kept = random.random(i.size) < np.where(same, 0.12, 0.03)
    probability = np.where(same, random.beta(4, 1.2, i.size), random.beta(0.6, 3, i.size))[kept].clip(0.011, 1)
    pairs = np.stack([i, j])[:, kept]
    both = np.concatenate([pairs, pairs[::-1]], 1)
    np.savez_compressed(
        path, edge_index=both, edge_weight=np.tile(probability, 2).astype(np.float32), num_nodes=num_nodes
    )


def run_folder(path, *, count=6, done=True, learned=True, test=0.9189, **config):
    path.mkdir(parents=True)
    whole = {"dataset": "wine", "method": "knn-lds", "tau": 5, "k": 10, "metric": "cosine", "seed": 0} | config
    (path / "config.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    write_lines(path / "metrics.jsonl", epochs(count, base=0.8 + 0.01 * whole["seed"] + 0.002 * whole["k"]))
    if done:
        (path / "result.json").write_text(json.dumps(result(test), indent=2))
        if learned:
            graph(path / "graph.npz", seed=whole["seed"])
        seal(path)
    return path


def sweep_rows():
    rows = []
    for method, extra, shift in (("knn-gcn", {}, 0.0), ("knn-lds", {}, 0.02), ("knn-lds", {"k": 20}, 0.012)):
        for seed in (1, 2, 3, 4):
            test = 0.90 + shift + 0.004 * seed + 0.003 * math.sin(7 * seed + 100 * shift)
            steps = 0 if method == "knn-gcn" else 120
            config = {"dataset": "wine", "method": method, "seed": seed, **extra}
            rows.append({"config": config, "status": "done", "result": result(test, steps=steps, method=method)})
    error = {"type": "NumericalError", "message": "inner loss is NaN", "traceback": "Traceback:\n  line 1\n"}
    config = {"dataset": "wine", "method": "knn-lds", "outer_lr": 100.0, "seed": 1}
    return [*rows, {"config": config, "status": "failed", "error": error}]


def sweep_folder(path):
    path.mkdir(parents=True)
    write_lines(path / "results.jsonl", sweep_rows())
    for k in (10, 20):
        for seed in (1, 2, 3, 4):
            run_folder(path / "runs" / f"knn-lds-{k}-{seed}", k=k, seed=seed, count=5 + seed, learned=seed == 1)
    run_folder(path / "runs" / "going-on", k=5, seed=1, count=2, done=False)
    return path


def ablation_folder(path):
    path.mkdir(parents=True)
    horizons, seeds = (0, 1, 5, 10, 20), (1, 2, 3, 4)
    lines = ["horizon,seed,test_accuracy,es_accuracy,seconds,peak_rss_mb"]
    rows = []
    for horizon in horizons:
        for seed in seeds:
            test = 0.90 + 0.03 * (1 - math.exp(-horizon / 3)) + 0.004 * math.sin(5 * seed + horizon)
            seconds, memory = 8 + 0.6 * horizon + 0.1 * seed, 410 + 2 * horizon
            lines.append(f"{horizon},{seed},{test},{test - 0.02},{seconds},{memory}")
            config = {"dataset": "wine", "method": "knn-lds", "tau": 20, "horizon": horizon, "seed": seed}
            rows.append({"config": config, "status": "done", "result": result(test, seconds=seconds)})
    (path / "ablation.csv").write_text("\n".join(lines) + "\n")
    lines = ["depth,relative_error,cosine,costate_norm"]
    for depth in range(21):
        error = math.exp(-depth / 3) if depth < 20 else 0.0
        lines.append(f"{depth},{error},{1 - error * error / 2},{0.3 * math.exp(-depth / 6)}")
    (path / "fidelity.csv").write_text("\n".join(lines) + "\n")
    config = {"dataset": "wine", "method": "knn-lds", "retain": 1.0, "interval": 20}
    (path / "ablation.yaml").write_bytes(yaml_with_sum(config | {"horizons": [*horizons], "seeds": [*seeds]}))
    reason = "the shortest horizon whose relative error stays below 5 %"
    recommend(path, {"horizon": 10, "reason": reason})
    write_lines(path / "results.jsonl", rows)
    return path


def recommend(path, recommendation):
    sums = sums_of_files(path, ["ablation.csv", "fidelity.csv"])
    (path / "recommendation.json").write_text(json.dumps(with_sum(recommendation | {"sums": sums})))


def predictions(path):
    """Add predictions of the test nodes of wine to a run that has ended; one in ten is wrong, or by luck right."""
    random = np.random.default_rng(0)
    lines = ["node,split,label,predicted"]
    for node, label in enumerate(LABELS):
        predicted = label if random.random() < 0.9 else random.integers(3)
        lines.append(f"{node},{'test' if node % 3 else 'train'},{label},{predicted}")
    (path / "predictions.csv").write_text("\n".join(lines) + "\n")
    seal(path)
    return path
