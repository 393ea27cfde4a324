"""Rules of choice, compared on held-out folds alone: how much accuracy each gives away.

    python experiments/auto_rules.py [--quick]

On splits that no other experiment uses, the networks without a learned structure are judged on held-out folds, drawn
twice. A rule chooses on the folds of one split; what that is worth is the accuracy of the chosen one on the held-out
folds of all other splits, less that of the best: its regret. Test nodes play no part. Finished splits are not
repeated. Writes rules.jsonl, rules.csv and rules.md to experiments/results/auto/.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from auto import AUTO, DATASETS, SPLITS
from numpy.typing import NDArray
from pieces import folder_of, parser_of, run_pieces
from tables import as_markdown

from lds.learner import Callback, FixedGraphLearner, FoldRecord, choose
from lds.run import TrainConfig, load_data
from lds.run._learner import make_alternatives
from lds.sweep import Job

FIRST_SPLIT = 100
FOLDS, REPEATS = 5, 2
ORDERS: Mapping[str, tuple[str, ...]] = {
    "fewer labels first": ("ffnn", "ffnn (train+val)", "knn-gcn", "knn-gcn (train+val)"),
    "more labels first": ("ffnn (train+val)", "ffnn", "knn-gcn (train+val)", "knn-gcn"),
}
# Standard errors within which a simpler one is taken.
TOLERANCES = (0.0, 0.5, 1.0)
Line = dict[str, Any]


class _Lines(Callback):
    """Keeps what a learner does on a fold."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def on_fold(self, record: FoldRecord) -> None:
        """Keep it, with as many digits as a rule may need."""
        losses = [round(loss, 5) for loss in record.losses]
        line = {"learner": record.learner, "fold": record.fold, "nodes": record.nodes, "losses": losses}
        self.lines.append({**line, "right": [int(hit) for hit in record.right]})


def judge(dataset: str, seed: int) -> Line:
    """Return what each learner does on each fold of a split."""
    config = TrainConfig(dataset, AUTO, seed=seed, **DATASETS[dataset])
    data = load_data(config)
    fixed = {n: found for n, found in make_alternatives(config, data).items() if isinstance(found, FixedGraphLearner)}
    kept = _Lines()
    choose(data, fixed, folds=FOLDS, repeats=REPEATS, seed=seed, callbacks=[kept])
    return {"dataset": dataset, "seed": seed, "folds": kept.lines}


def means(lines: Sequence[Line], repeats: int) -> tuple[dict[str, NDArray[np.float64]], dict[str, float]]:
    """Return, of one split, the loss of every node over the first repeats, and the accuracy over all, by learner."""
    losses: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    right: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        right[line["learner"]] += line["right"]
        if line["fold"] <= repeats * FOLDS:
            for node, loss in zip(line["nodes"], line["losses"], strict=True):
                losses[line["learner"]][node].append(loss)
    by_node = {name: np.array([np.mean(found[node]) for node in sorted(found)]) for name, found in losses.items()}
    return by_node, {name: float(np.mean(hits)) for name, hits in right.items()}


def pick(losses: Mapping[str, NDArray[np.float64]], order: Sequence[str], tolerance: float) -> str:
    """Return the first in order whose loss is within so many standard errors of the lowest."""
    best = min(order, key=lambda name: float(losses[name].mean()))
    for name in order:
        difference = losses[name] - losses[best]
        if difference.mean() <= tolerance * difference.std(ddof=1) / len(difference) ** 0.5:
            return name
    raise AssertionError("the best is within any tolerance")


def regrets(splits: Sequence[Line]) -> Iterator[Line]:
    """Return a row for every rule: its mean regret on each data set, in points."""
    folds: dict[str, dict[int, list[Line]]] = defaultdict(dict)
    for split in splits:
        folds[split["dataset"]][split["seed"]] = split["folds"]
    for (order, names), tolerance, repeats in product(ORDERS.items(), TOLERANCES, range(1, REPEATS + 1)):
        row: Line = {"order": order, "standard errors": tolerance, "repeats": repeats}
        for dataset, of_seed in folds.items():
            found = {seed: means(part, repeats) for seed, part in of_seed.items()}
            given = []
            for seed, (losses, _) in found.items():
                elsewhere = {
                    name: np.mean([right[name] for other, (_, right) in found.items() if other != seed])
                    for name in names
                }
                given.append(max(elsewhere.values()) - elsewhere[pick(losses, names, tolerance)])
            row[dataset] = 100 * float(np.mean(given))
        row["mean"] = float(np.mean([row[dataset] for dataset in folds]))
        yield row


def main() -> None:
    options = parser_of(__doc__, "two splits of iris and wine", 1).parse_args()
    out = folder_of(options, "auto")
    names = list(DATASETS)[: 2 if options.quick else None]
    seeds = range(FIRST_SPLIT, FIRST_SPLIT + (2 if options.quick else SPLITS // 2))
    pieces = [Job(f"{name}, split {seed}", judge, (name, seed)) for name in names for seed in seeds]
    splits = run_pieces(out / "rules.jsonl", pieces, options.jobs, "split")
    rows = pd.DataFrame(regrets(splits))
    rows.to_csv(out / "rules.csv", index=False, lineterminator="\n")
    shown = rows.map(lambda cell: f"{cell:.2f}" if isinstance(cell, float) else cell)
    text = as_markdown(shown, right=list(shown.columns[3:]))
    text += f"\n`python experiments/auto_rules.py{' --quick' * options.quick}`, splits {seeds[0]} to {seeds[-1]}.\n"
    (out / "rules.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
