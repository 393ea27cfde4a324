"""What an ablation is of, its outcome, and what follows from it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lds._files import make_folder, write_atomically
from lds._show import Shown
from lds._statistics import Mean, PairedDifference, mean, paired
from lds._sums import sums_of_files, with_sum
from lds.errors import InputError
from lds.run import TrainConfig
from lds.run._methods import METHOD

if TYPE_CHECKING:
    from lds.hypergrad import TruncationCurve

# The files of an ablation's folder that tell its outcome.
ROWS, FIDELITY, RECOMMENDATION = "ablation.csv", "fidelity.csv", "recommendation.json"
# Fields of a run that an ablation sets itself.
_VARIED = ("horizon", "seed", "data_root")
NONE = "-"
COSTS = ("seconds", "peak_rss_mb")


@dataclass(frozen=True)
class AblationConfig:
    """A truncation-depth ablation of structure learning on one data set.

    Args:
        train: what all runs have in common; its horizon and seed do not count.
        horizons: horizons to train with, ≥ 0.
        seeds: seeds to train each horizon with: the same splits, initial weights and deleted edges for all of them.
        fidelity_steps: inner steps T of the trajectories on which truncated hypergradients are compared with the full
            one.

    Raises:
        InputError: a list is empty or holds a value twice, a number is out of range, or the method learns no structure.

    Example:
        >>> config = AblationConfig(TrainConfig("wine", "knn-lds"), horizons=[0, 5, 20], seeds=[0, 1])
        >>> config.as_dict()["horizons"]
        [0, 5, 20]
    """

    train: TrainConfig
    horizons: Sequence[int]
    seeds: Sequence[int]
    fidelity_steps: int = 50

    def __post_init__(self) -> None:
        if not METHOD[self.train.method].learns_structure:
            learning = " or ".join(name for name, method in METHOD.items() if method.learns_structure)
            raise InputError(f"method must be {learning} to have a horizon, got {self.train.method!r}")
        check_lists(self.horizons, self.seeds)
        if self.fidelity_steps < 1:
            raise InputError(f"fidelity_steps must be at least 1, got {self.fidelity_steps}")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        common = {name: value for name, value in self.train.as_dict().items() if name not in _VARIED}
        return common | {
            "horizons": list(self.horizons),
            "seeds": list(self.seeds),
            "fidelity_steps": self.fidelity_steps,
        }


def check_lists(horizons: Sequence[int], seeds: Sequence[int]) -> None:
    """Refuse lists that are empty or hold a value twice, and horizons below 0.

    Raises:
        InputError: they do.
    """
    for name, values in (("horizons", horizons), ("seeds", seeds)):
        if not values or len(set(values)) < len(values):
            raise InputError(f"{name} must be one or more different integers, got {list(values)}")
    if min(horizons) < 0:
        raise InputError(f"horizons must be >= 0, got {min(horizons)}")


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        horizon: steps that the sweep went back over.
        seed: the seed.
        score: the score that is shown; for structure learning the accuracy on the test nodes, 0 to 1.
        selection: the score by which a horizon is chosen; for structure learning the accuracy on the early-stopping
            nodes. None where `score` is for both.
        seconds: wall time.
        peak_rss_mb: largest resident memory of the run's process, MiB.

    Example:
        >>> row = Row(horizon=5, seed=0, score=0.9, selection=None, seconds=1.5, peak_rss_mb=300.0)
        >>> row.chosen_by
        0.9
    """

    horizon: int
    seed: int
    score: float
    selection: float | None
    seconds: float
    peak_rss_mb: float

    @property
    def chosen_by(self) -> float:
        """The score by which a horizon is chosen: `selection`, or `score` where that is for both."""
        return self.score if self.selection is None else self.selection

    @property
    def test_accuracy(self) -> float:
        """The score, by the name that it has in result.json."""
        return self.score

    @property
    def es_accuracy(self) -> float:
        """The score by which a horizon is chosen, by the name that it has in result.json."""
        return self.chosen_by


@dataclass(frozen=True)
class Recommendation:
    """A horizon, and why.

    Example:
        >>> rows = (Row(0, 0, 0.7, None, 1.0, 300.0), Row(5, 0, 0.9, None, 1.0, 300.0))
        >>> isinstance(Ablation(rows).recommendation(), Recommendation)
        True
    """

    horizon: int
    reason: str


@dataclass(frozen=True, repr=False)
class Ablation(Shown):
    """Runs at several horizons, and the truncation curve.

    Scores keep the unit that they came in, in the table, the files and a report: an accuracy is a share, 0 to 1.

    Attributes:
        rows: the runs, by horizon and seed.
        curve: relative error, cosine and costate norm by depth, averaged over trajectories; None if not measured.
        left_out: the trajectories that the curve leaves out, for they failed or their run did: a line each, with the
            reason.
        score: what the score is called.
        lower_is_better: whether the least score is the best, as for a loss.

    Raises:
        InputError: the score has no name, or that of another column.

    Example:
        >>> rows = [Row(h, s, 1 / (1 + h) + s / 100, None, 1.0, 300.0) for h in (0, 5) for s in (0, 1)]
        >>> ablation = Ablation(tuple(rows), score="validation loss", lower_is_better=True)
        >>> ablation.recommendation().horizon
        5
    """

    rows: tuple[Row, ...]
    curve: TruncationCurve | None = None
    left_out: tuple[str, ...] = ()
    score: str = "accuracy"
    lower_is_better: bool = False

    def __post_init__(self) -> None:
        check_score(self.score)

    @property
    def horizons(self) -> list[int]:
        """The horizons, in ascending order."""
        return sorted({row.horizon for row in self.rows})

    @property
    def names(self) -> tuple[str, ...]:
        """What the scores are called: that shown, and that by which a horizon is chosen where it is another one."""
        return score_names(self.score, " ", single=self._single)

    def mean(self, horizon: int, name: str) -> Mean:
        """Return mean, standard deviation and 95 % interval over seeds of an attribute of the rows."""
        return mean([getattr(row, name) for row in self.rows if row.horizon == horizon])

    def difference(self, horizon: int, reference: int, name: str = "score") -> PairedDifference:
        """Return the paired difference of two horizons over the seeds that both have.

        Raises:
            InputError: they have no seed in common.
        """
        a, b = ({row.seed: getattr(row, name) for row in self.rows if row.horizon == h} for h in (horizon, reference))
        seeds = sorted(a.keys() & b.keys())
        if not seeds:
            raise InputError(f"horizons {horizon} and {reference} must have a seed in common to be compared, got none")
        return paired([a[seed] for seed in seeds], [b[seed] for seed in seeds])

    def recommendation(self) -> Recommendation:
        """Return the shortest horizon within one standard error of the best mean of the score that choices are made by.

        For structure learning that is the early-stopping accuracy; test accuracy plays no part. The standard error is
        that of the paired difference to the best. With one seed there is none, and the best horizon is taken.

        Raises:
            InputError: there are no runs.
        """
        if not self.rows:
            raise InputError("a recommendation needs at least one run that is done, got none")
        best = max(self.horizons, key=lambda h: (self._sign * self.mean(h, "chosen_by").mean, -h))
        chosen = next(h for h in self.horizons if h == best or self._close(h, best))
        return Recommendation(chosen, self._reason(chosen, best))

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows of the table of horizons, as texts, for the terminal and for pages alike.

        ± is the standard deviation over seeds, brackets hold the 95 % interval of the mean. Differences are to the
        longest horizon, paired by seed.
        """
        if not self.rows:
            return [], []
        longest = self.horizons[-1]
        names = self.names
        # A header cell is what the column holds, and how it is written.
        header = ["horizon\n", "seeds\n", *(f"{name}\nmean ± std" for name in names)]
        header += [f"less horizon {longest}\nmean [95 % interval]", "p\npaired t", "time\nseconds", "memory\nMiB"]
        header += ["error of G\nrelative", "cosine\n"]
        show = number_format([getattr(row, name) for row in self.rows for name in ("score", "chosen_by")])
        rows = []
        for h in self.horizons:
            means = [self.mean(h, name) for name in ("score", "chosen_by")[: len(names)]]
            rows.append(
                [
                    str(h),
                    str(means[0].count),
                    *(_with_std(value, show) for value in means),
                    *self._less(h, longest, show),
                    f"{self.mean(h, 'seconds').mean:.1f}",
                    f"{self.mean(h, 'peak_rss_mb').mean:.0f}",
                    *map(_plain, self._fidelity(h)),
                ]
            )
        return header, rows

    def table(self) -> str:
        """Return the table that the command line prints; see `cells`."""
        if not self.rows:
            return f"no run has ended well: there is no {self.score} to show"
        header, rows = self.cells()
        lines = [*([cell.split("\n")[part] for cell in header] for part in (0, 1)), *rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.rjust, line, widths)).rstrip() for line in lines)

    def write(self, folder: Path | str) -> None:
        """Write ablation.csv, fidelity.csv and recommendation.json; without a curve, or runs, the last two are removed.

        The recommendation comes last, with the sums of the others: where it is missing, they may not belong together.

        Raises:
            InputError: the folder cannot be made.
            StorageError: a file cannot be written.
        """
        folder = Path(folder)
        make_folder(folder)
        scores = score_names(self.score, "_", single=self._single)
        columns_of = ["horizon", "seed", *("score", "chosen_by")[: len(scores)], *COSTS]
        header = ["horizon", "seed", *scores, *COSTS]
        contents = {ROWS: _csv(header, [[getattr(row, name) for name in columns_of] for row in self.rows])}
        if self.curve is not None:
            columns = zip(self.curve.relative_error, self.curve.cosine, self.curve.costate_norm, strict=True)
            contents[FIDELITY] = _csv(
                ["depth", "relative_error", "cosine", "costate_norm"],
                [[depth, *values] for depth, values in enumerate(columns)],
            )
        # Of an earlier time, they would contradict the others.
        for name in (RECOMMENDATION, FIDELITY):
            if name not in contents:
                (folder / name).unlink(missing_ok=True)
        for name, content in contents.items():
            write_atomically(folder / name, content.encode())
        if self.rows:
            recommendation: dict[str, Any] = asdict(self.recommendation())
            recommendation |= {"score": self.score, "lower_is_better": self.lower_is_better}
            recommendation["sums"] = sums_of_files(folder, (ROWS, FIDELITY))
            text = json.dumps(with_sum(recommendation), indent=2, ensure_ascii=False)
            write_atomically(folder / RECOMMENDATION, (text + "\n").encode())

    @property
    def _single(self) -> bool:
        return bool(self.rows) and all(row.selection is None for row in self.rows)

    @property
    def _sign(self) -> int:
        return -1 if self.lower_is_better else 1

    def _close(self, horizon: int, best: int) -> bool:
        shortfall = self.difference(best, horizon, "chosen_by").difference
        error = shortfall.std / math.sqrt(shortfall.count)
        return shortfall.count > 1 and self._sign * shortfall.mean <= error

    def _fidelity(self, horizon: int) -> tuple[float, float]:
        if self.curve is None or horizon >= len(self.curve.relative_error):
            return math.nan, math.nan
        return self.curve.relative_error[horizon], self.curve.cosine[horizon]

    def _less(self, horizon: int, longest: int, show: Callable[[float], str]) -> list[str]:
        if horizon == longest:
            return ["baseline", ""]
        try:
            found = self.difference(horizon, longest)
        except InputError:
            return [NONE, NONE]
        value = found.difference
        text = _signed(value.mean, show)
        if value.count > 1:
            ends = (value.mean - value.half_width, value.mean + value.half_width)
            text += " [{}, {}]".format(*(_signed(end, show) for end in ends))
        return [text, _p_value(found.p_value)]

    def _reason(self, chosen: int, best: int) -> str:
        means = {h: self.mean(h, "chosen_by") for h in (chosen, best)}
        show = number_format([row.chosen_by for row in self.rows])
        name, seeds = self.names[-1], means[chosen].count
        least = "lowest" if self.lower_is_better else "best"
        if chosen == best:
            text = f"it has the {least} mean {name}, {show(means[best].mean)} over {_count(seeds, 'seed')}"
            if seeds == 1:
                text += ", which with one seed may be luck"
        else:
            text = (
                f"its mean {name}, {show(means[chosen].mean)} over {_count(seeds, 'seed')}, is within one standard "
                f"error of the {least}, {show(means[best].mean)} at horizon {best}, "
                "and it is the shortest for which that holds; "
                f"a run takes {self.mean(chosen, 'seconds').mean:.0f} s, not {self.mean(best, 'seconds').mean:.0f} s"
            )
        error, cosine = self._fidelity(chosen)
        if error == error:
            text += f". Its hypergradient differs from the full one by {100 * error:.0f} %"
            if cosine == cosine:
                text += f" (cosine {cosine:.2f})"
        return text + "."


def check_score(name: str) -> None:
    """Refuse a score without a name, or with the name of another column.

    Raises:
        InputError: it has.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise InputError(f"score must be the name of the score in one line, got {name!r}")
    if name in ("horizon", "seed", *COSTS):
        raise InputError(f"score must be another name than those of the other columns, got {name!r}")


def score_names(score: str, between: str, *, single: bool) -> tuple[str, ...]:
    """Return what scores are called: of one for all, its name; of two, that on test data and that for the choice."""
    return (score,) if single else tuple(f"{part}{between}{score}" for part in ("test", "es"))


def number_format(values: Sequence[float]) -> Callable[[float], str]:
    """Return how to write numbers of the size of these: with as many decimals as give the largest three digits."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=1.0) or 1.0
    if not 1e-3 <= largest < 1e6:
        return lambda value: f"{value:.3g}"
    decimals = max(0, (2 if largest < 1 else 3) - math.floor(math.log10(largest)))
    return lambda value: f"{value:.{decimals}f}"


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    return buffer.getvalue()


def _with_std(value: Mean, show: Callable[[float], str]) -> str:
    return show(value.mean) + ("" if value.count == 1 else f" ± {show(value.std)}")


def _signed(value: float, show: Callable[[float], str]) -> str:
    text = show(abs(value))
    return text if float(text) == 0 else f"{'-' if value < 0 else '+'}{text}"


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else _plain(p)


def _plain(value: float) -> str:
    return NONE if value != value else f"{value:.3f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
