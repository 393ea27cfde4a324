"""Settings by successive halving (ASHA) with Optuna: trainings that fall behind are ended early.

Each training reports its best early-stopping accuracy after every outer epoch, and Optuna ends those that are not among
the better half at the same epoch. Settings are chosen on the early-stopping nodes; test accuracy plays no part.
`GridSampler` in place of `TPESampler` makes it a grid search.

    pip install 'lds-gnn[tune]'
    python examples/tune.py --trials 10 --epochs 8
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from matplotlib.figure import Figure

import lds
from lds.data import load
from lds.graph import KNNGraph
from lds.learner import Callback, EpochRecord


class Halving(Callback):
    """Tells a trial how it goes, and ends the training where the trial is not worth going on."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial
        self.best = 0.0
        self.ended = False

    def on_epoch(self, record: EpochRecord) -> bool:
        """Report the best so far; True ends the training."""
        self.best = max(self.best, record.es_accuracy)
        self.trial.report(self.best, record.epoch)
        self.ended = self.trial.should_prune()
        return self.ended


def search(trials: int, epochs: int, dataset: str = "wine", seed: int = 0) -> optuna.Study:
    """Return the study: every trial with its settings, its early-stopping accuracy, and its test accuracy aside."""
    data = load(dataset, seed=seed)

    def objective(trial: optuna.Trial) -> float:
        learner = lds.StructureLearner(
            tau=trial.suggest_categorical("tau", [5, 10, 20]),
            outer_lr=trial.suggest_float("outer_lr", 0.1, 10.0, log=True),
            graph=KNNGraph(trial.suggest_int("k", 5, 20)),
            inner_steps=100,
            max_epochs=epochs,
        )
        halving = Halving(trial)
        fit = learner.fit(data, seed=seed, callbacks=[halving])
        if halving.ended:
            raise optuna.TrialPruned
        trial.set_user_attr("test_accuracy", fit.accuracy("test"))
        return fit.accuracy("es")

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    )
    study.optimize(objective, n_trials=trials)
    return study


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Search, and print every trial and the best."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--dataset", default="wine")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "pictures" / "tune.png")
    options = parser.parse_args(argv)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = search(options.trials, options.epochs, options.dataset)
    for trial in study.trials:
        value = "-" if trial.value is None else f"{trial.value:.3f}"
        print(f"{trial.number:>3}  {trial.state.name.lower():<9}  es accuracy {value}  {trial.params}")
    best = study.best_trial
    print(f"best: {best.params}, test accuracy {best.user_attrs['test_accuracy']:.3f}")
    draw(study, options.out)
    return {
        "best": best.value,
        "trials": len(study.trials),
        "ended early": sum(trial.state is optuna.trial.TrialState.PRUNED for trial in study.trials),
        "epochs": sum(len(trial.intermediate_values) for trial in study.trials),
        "test accuracy": best.user_attrs["test_accuracy"],
    }


def draw(study: optuna.Study, out: Path) -> None:
    """Draw how every trial went."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for trial in study.trials:
        ended = trial.state is optuna.trial.TrialState.PRUNED
        color = "tab:gray" if ended else "tab:green" if trial.number == study.best_trial.number else "tab:blue"
        values = [100 * value for value in trial.intermediate_values.values()]
        axes.plot([*trial.intermediate_values], values, ("x" if ended else "o") + "-", color=color, alpha=0.7)
    axes.set(xlabel="outer epoch", ylabel="best early-stopping accuracy (%)")
    axes.set_title("trials; gray ones were ended early, the best is green")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
