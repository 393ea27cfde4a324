"""Train kNN-GCN and kNN-LDS on data sets inside scikit-learn, and print them side by side.

python scripts/demo.py
python scripts/demo.py --datasets wine breast_cancer --methods knn-gcn frozen knn-lds --seeds 0 1 2 3 4
"""

import argparse
import statistics
from pathlib import Path

import torch

from lds.run import METHODS, TrainConfig, train_once

NAMES = {"knn-gcn": "kNN-GCN", "knn-lds": "kNN-LDS", "frozen": "frozen θ"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["breast_cancer"])
    parser.add_argument("--methods", nargs="+", default=["knn-gcn", "knn-lds"], choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    options = parser.parse_args()
    # The tensors are small: a second thread takes longer to wake than it saves, and far longer on a busy machine.
    torch.set_num_threads(1)

    rows = []
    for dataset in options.datasets:
        for method in options.methods:
            configs = [TrainConfig(dataset=dataset, method=method, seed=seed) for seed in options.seeds]
            results = [train_once(c, options.out / f"{dataset}-{method}-seed{c.seed}") for c in configs]
            rows.append((dataset, method, results))
    print(f"\n{'data set':<14} {'method':<9} {'test accuracy':>15} {'early stopping':>15} {'edges':>8} {'seconds':>8}")
    for dataset, method, results in rows:
        print(
            f"{dataset:<14} {NAMES.get(method, method):<9} {summary(results, 'test_accuracy'):>15} "
            f"{summary(results, 'es_accuracy'):>15} {mean(results, 'expected_edges'):>8.0f} "
            f"{mean(results, 'seconds'):>8.1f}"
        )
    print(f"\nAccuracies in percent, mean ± standard deviation over seeds. Run folders: {options.out}/")


def mean(results: list[dict[str, float]], key: str) -> float:
    return statistics.fmean(result[key] for result in results)


def summary(results: list[dict[str, float]], key: str) -> str:
    values = [100 * result[key] for result in results]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
