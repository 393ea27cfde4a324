"""LDS, kNN-LDS and their baselines on Cora and CiteSeer.

    python experiments/citation.py --out runs/citation --table experiments/results/citation.csv

Finished runs are read, not repeated, so the command can be stopped and started again; the table is written anew after
every run. Needs the raw files of both data sets, see `lds data fetch`.
"""

import argparse
import csv
from itertools import product
from pathlib import Path
from typing import Any

from lds.run import TrainConfig, train_once

COLUMNS = ("test_accuracy", "es_accuracy", "outer_epochs", "outer_steps", "expected_edges", "seconds", "peak_rss_mb")
SETTINGS = ("dataset", "method", "retain", "k", "seed")


def configurations() -> list[TrainConfig]:
    """All runs, the ones that most depends on first."""
    seeds = range(5)
    runs: list[dict[str, Any]] = []
    for dataset in ("cora", "citeseer"):
        runs += [{"dataset": dataset, "method": m, "seed": s} for m, s in product(("gcn", "lds"), seeds)]
        runs += [{"dataset": dataset, "method": m, "k": k} for m, k in product(("knn-gcn", "knn-lds"), (10, 20))]
        if dataset == "cora":
            runs += [
                {"dataset": dataset, "method": m, "retain": r} for r, m in product((0.25, 0.5, 0.75), ("gcn", "lds"))
            ]
    return [TrainConfig(**run) for run in runs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/citation"))
    parser.add_argument("--table", type=Path, default=Path("experiments/results/citation.csv"))
    options = parser.parse_args()
    rows = []
    for config in configurations():
        name = "-".join(f"{getattr(config, setting)}" for setting in SETTINGS)
        result = train_once(config, options.out / name)
        rows.append([getattr(config, setting) for setting in SETTINGS] + [result[column] for column in COLUMNS])
        options.table.parent.mkdir(parents=True, exist_ok=True)
        with options.table.open("w", newline="") as file:
            csv.writer(file).writerows([(*SETTINGS, *COLUMNS), *rows])
        print(", ".join(map(str, rows[-1])))


if __name__ == "__main__":
    main()
