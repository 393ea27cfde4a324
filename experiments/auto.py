"""The choice on held-out folds, `--method auto`, beside every fixed choice, on 20 splits of the small sets.

    python experiments/auto.py [--quick] [--jobs 1]

On each split, all that `lds.learner.alternatives` lists is trained, and one of them is chosen on held-out folds of the
labelled nodes, as `lds train --method auto` does: its test accuracy is that of what it has chosen. Finished splits are
not repeated, so the command can be stopped and started again. Writes runs.jsonl, table.csv and table.md to
experiments/results/auto/.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from pieces import folder_of, parser_of, run_pieces
from tables import Row, as_markdown, digits, frame, plus_minus, provenance, write

from lds._statistics import mean, paired
from lds.learner._alternatives import choose_alternative
from lds.run import TrainConfig, load_data
from lds.run._environment import versions
from lds.run._learner import make_alternatives
from lds.sweep import Job

# Raw pixels, and their Euclidean distance, make the best kNN graph of digits.
DATASETS: Mapping[str, Mapping[str, Any]] = {
    "iris": {},
    "wine": {},
    "breast_cancer": {},
    "digits": {"scale": "none", "metric": "minkowski"},
}
SPLITS = 20
# So that all of it takes half an hour: kNN-LDS, too, is compared at so many.
OUTER_EPOCHS = 2
AUTO = "auto"
COLUMNS = (
    *("dataset", "method", "splits", "mean", "std", "half_width", "loss", "chosen"),
    *("auto_less", "auto_less_error", "verdict"),
)


def run(dataset: str, seed: int) -> dict[str, Any]:
    """Train all alternatives on one split and choose among them; return plain values, accuracies in [0, 1]."""
    began = time.process_time()
    config = TrainConfig(dataset, AUTO, max_epochs=OUTER_EPOCHS, seed=seed, **DATASETS[dataset])
    data = load_data(config)
    learners = make_alternatives(config, data)
    test = {name: learner.fit(data, seed=seed).accuracy("test") for name, learner in learners.items()}
    choice = choose_alternative(data, learners, seed=seed)
    return {
        "dataset": dataset,
        "seed": seed,
        "test": test,
        "chosen": choice.name,
        "reason": choice.reason,
        "scores": {name: dict(vars(score)) for name, score in choice.scores.items()},
        "cpu_seconds": time.process_time() - began,
        "versions": versions(),
    }


def make_rows(runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return a row for every fixed choice on a data set and one for auto, accuracies in percent.

    `auto_less` is auto less the fixed choice, paired over the splits, with its standard error. In the row of auto it is
    that to the fixed choice with the highest mean, which nobody knows beforehand, and the verdict says whether auto is
    worse than that by more than a standard error.
    """
    rows: list[Row] = []
    for dataset in dict.fromkeys(run["dataset"] for run in runs):
        here = [run for run in runs if run["dataset"] == dataset]
        test = {name: [100 * run["test"][name] for run in here] for name in here[0]["test"]}
        auto = [100 * run["test"][run["chosen"]] for run in here]
        chosen = Counter(run["chosen"] for run in here)
        best = max(test, key=lambda name: mean(test[name]).mean)
        for name, accuracies in test.items():
            losses = [run["scores"][name]["loss"] for run in here]
            row = _row(dataset, name, accuracies, auto) | {"loss": mean(losses).mean, "chosen": chosen[name]}
            rows.append(row)
        row = _row(dataset, AUTO, auto, auto) | _less(auto, test[best])
        worse = row["auto_less"] < -row["auto_less_error"]
        row["verdict"] = f"{'worse' if worse else 'not worse'} than {best}"
        rows.append(row)
    return rows


def _row(dataset: str, name: str, accuracies: Sequence[float], auto: Sequence[float]) -> Row:
    found = mean(accuracies)
    row: Row = {"dataset": dataset, "method": name, "splits": found.count}
    row |= {"mean": found.mean, "std": found.std, "half_width": found.half_width}
    return row if name == AUTO else row | _less(auto, accuracies)


def _less(auto: Sequence[float], other: Sequence[float]) -> Row:
    difference = paired(auto, other).difference
    # A difference that is always the same has no error to speak of.
    error = 0.0 if math.isnan(difference.std) else difference.std / math.sqrt(difference.count)
    return {"auto_less": difference.mean, "auto_less_error": error}


def markdown(rows: Sequence[Row]) -> str:
    """Return the table for people."""
    found = frame(rows, COLUMNS)
    shown = pd.DataFrame(
        {
            "data set": found["dataset"],
            **{name: found[name] for name in ("method", "splits")},
            "test accuracy, % (± 95 %)": plus_minus(found, "mean", "half_width"),
            "loss on held-out folds": digits(found["loss"], 3),
            "chosen by auto": found["chosen"],
            "auto less it (± standard error)": plus_minus(found, "auto_less", "auto_less_error"),
            "auto is, by more than a standard error,": found["verdict"],
        }
    )
    note = "The loss of knn-lds is that on the folds that it took part in, which are no more once it is behind."
    return f"{as_markdown(shown)}\n{note}\n"


def main() -> None:
    options = parser_of(__doc__, "two splits of iris and wine", 1).parse_args()
    out = folder_of(options, "auto")
    names = list(DATASETS)[: 2 if options.quick else None]
    splits = range(2 if options.quick else SPLITS)
    pieces = [Job(f"{name}, split {seed}", run, (name, seed)) for name in names for seed in splits]
    runs = run_pieces(out / "runs.jsonl", pieces, options.jobs, "split")
    rows = make_rows(runs)
    write(rows, COLUMNS, markdown(rows) + provenance("auto", runs, quick=options.quick), out)


if __name__ == "__main__":
    main()
