"""The method auto: a comparison of learners on held-out folds, as a part of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lds._callbacks import Callback
from lds.errors import NumericalError
from lds.learner import Choice, Fit, FixedGraphLearner, StructureLearner
from lds.learner._alternatives import choose_alternative
from lds.run._config import TrainConfig
from lds.run._learner import make_alternatives
from lds.run._progress import ComparisonBar
from lds.run._saving import ProgressSaver

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch_geometric.data import Data


def choose_learner(
    config: TrainConfig,
    data: Data,
    saver: ProgressSaver,
    callbacks: Sequence[Callback],
    *,
    hide: bool,
) -> tuple[Choice, FixedGraphLearner | StructureLearner]:
    """Compare what there is to choose from, and return the choice and its learner.

    Args:
        config: of the run.
        data: its data.
        saver: has what was found before, saves what a learner did on a fold, and stops where it was asked to.
        callbacks: told of every fold.
        hide: show no progress.

    Raises:
        DataError: there are too few labelled nodes.
        InputError: a learner cannot be made, or what was found before is of something else.
        Interrupted: a stop was asked for.
        NumericalError: a number is NaN or infinite.
    """
    learners = make_alternatives(config, data)
    bar = ComparisonBar(len(learners), hide=hide)
    try:
        choice = choose_alternative(
            data,
            {name: _Part(name, learner, saver) for name, learner in learners.items()},
            seed=config.seed,
            callbacks=[*callbacks, bar, saver],
            resume=tuple(saver.compared),
        )
    finally:
        bar.close()
    saver.obey()
    return choice, learners[choice.name]


@dataclass(frozen=True)
class _Part(Callback):
    """A learner of the comparison, which stops where it was asked to and says what it is where it fails."""

    name: str
    learner: FixedGraphLearner | StructureLearner
    saver: ProgressSaver

    def fit(self, data: Data, *, seed: int = 0) -> Fit:
        """Train on one data set."""
        try:
            return self.learner.fit(data, seed=seed, callbacks=[self])
        except NumericalError as error:
            raise alone(self.name, error) from error

    def on_resumable(self, dump: Callable[[], dict[str, Any]]) -> None:
        """Stop if that was asked for; what is begun is begun again, and nothing of it saved."""
        self.saver.obey()


def alone(name: str, error: NumericalError) -> NumericalError:
    """Return the error of a learner that was compared, or chosen, with the way to look into it."""
    return NumericalError(f"{name} of auto failed: {error}; name it as --method to see it fail alone")
