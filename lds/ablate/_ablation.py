"""What an ablation is of, its outcome, and what follows from it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
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
    """

    train: TrainConfig
    horizons: Sequence[int]
    seeds: Sequence[int]
    fidelity_steps: int = 50

    def __post_init__(self) -> None:
        if not METHOD[self.train.method].learns_structure:
            learning = " or ".join(name for name, method in METHOD.items() if method.learns_structure)
            raise InputError(f"method must be {learning} to have a horizon, got {self.train.method!r}")
        for name, least in (("horizons", 0), ("seeds", None)):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InputError(f"{name} must be one or more different integers, got {list(values)}")
            if least is not None and min(values) < least:
                raise InputError(f"{name} must be >= {least}, got {min(values)}")
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


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        horizon: steps that the sweep went back over.
        seed: the seed.
        test_accuracy: accuracy on the test nodes, or another score of which more is better.
        es_accuracy: the same on the nodes, or the data, that choices are made by.
        seconds: wall time.
        peak_rss_mb: largest resident memory of the run's process, MiB.
    """

    horizon: int
    seed: int
    test_accuracy: float
    es_accuracy: float
    seconds: float
    peak_rss_mb: float


@dataclass(frozen=True)
class Recommendation:
    """A horizon, and why."""

    horizon: int
    reason: str


@dataclass(frozen=True, repr=False)
class Ablation(Shown):
    """Runs at several horizons, and the truncation curve.

    Attributes:
        rows: the runs, by horizon and seed.
        curve: relative error, cosine and costate norm by depth, averaged over trajectories; None if not measured.
        left_out: the trajectories that the curve leaves out, for they failed or their run did: a line each, with the
            reason.
    """

    rows: tuple[Row, ...]
    curve: TruncationCurve | None = None
    left_out: tuple[str, ...] = ()

    @property
    def horizons(self) -> list[int]:
        """The horizons, in ascending order."""
        return sorted({row.horizon for row in self.rows})

    def mean(self, horizon: int, name: str) -> Mean:
        """Return mean, standard deviation and 95 % interval over seeds of a column."""
        return mean([getattr(row, name) for row in self.rows if row.horizon == horizon])

    def difference(self, horizon: int, reference: int, name: str = "test_accuracy") -> PairedDifference:
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
        """Return the shortest horizon within one standard error of the best mean early-stopping accuracy.

        The standard error is that of the paired difference to the best; test accuracy plays no part. With one seed
        there is none, and the best horizon is taken.

        Raises:
            InputError: there are no runs.
        """
        if not self.rows:
            raise InputError("a recommendation needs at least one run that is done, got none")
        best = max(self.horizons, key=lambda h: (self.mean(h, "es_accuracy").mean, -h))
        chosen = next(h for h in self.horizons if h == best or self._close(h, best))
        return Recommendation(chosen, self._reason(chosen, best))

    def table(self) -> str:
        """Return the table that the command line prints; differences are to the longest horizon, paired by seed."""
        if not self.rows:
            return "no run has ended well: there is no accuracy to show"
        longest = self.horizons[-1]
        less = f"less horizon {longest} (± 95 %)"
        lines = [f"horizon  test accuracy, %  {less}  es accuracy, %   seconds  peak MiB  error of G  cosine"]
        for h in self.horizons:
            test, es = (_percent(self.mean(h, name)) for name in ("test_accuracy", "es_accuracy"))
            seconds, peak = self.mean(h, "seconds").mean, self.mean(h, "peak_rss_mb").mean
            error, cosine = self._fidelity(h)
            lines.append(
                f"{h:>7}  {test:>16}  {self._less(h, longest):>{len(less)}}  {es:>14}  {seconds:>8.1f}  {peak:>8.0f}  "
                f"{_plain(error):>10}  {_plain(cosine):>6}"
            )
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Write ablation.csv, fidelity.csv and recommendation.json; without a curve, or runs, the last two are removed.

        The recommendation comes last, with the sums of the others: where it is missing, they may not belong together.

        Raises:
            InputError: the folder cannot be made.
            StorageError: a file cannot be written.
        """
        make_folder(folder)
        names = [field.name for field in fields(Row)]
        contents = {ROWS: _csv(names, [[getattr(row, name) for name in names] for row in self.rows])}
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
            recommendation["sums"] = sums_of_files(folder, (ROWS, FIDELITY))
            text = json.dumps(with_sum(recommendation), indent=2, ensure_ascii=False)
            write_atomically(folder / RECOMMENDATION, (text + "\n").encode())

    def _close(self, horizon: int, best: int) -> bool:
        shortfall = self.difference(best, horizon, "es_accuracy").difference
        return shortfall.count > 1 and shortfall.mean <= shortfall.std / math.sqrt(shortfall.count)

    def _fidelity(self, horizon: int) -> tuple[float, float]:
        if self.curve is None or horizon >= len(self.curve.relative_error):
            return math.nan, math.nan
        return self.curve.relative_error[horizon], self.curve.cosine[horizon]

    def _less(self, horizon: int, longest: int) -> str:
        if horizon == longest:
            return "baseline"
        try:
            return _percent(self.difference(horizon, longest).difference)
        except InputError:
            return "-"

    def _reason(self, chosen: int, best: int) -> str:
        es = 100 * self.mean(chosen, "es_accuracy").mean
        seeds = self.mean(chosen, "es_accuracy").count
        if chosen == best:
            text = f"it has the best mean early-stopping accuracy, {es:.1f} % over {_count(seeds, 'seed')}"
            if seeds == 1:
                text += ", which with one seed may be luck"
        else:
            text = (
                f"its mean early-stopping accuracy, {es:.1f} % over {_count(seeds, 'seed')}, is within one standard "
                f"error of the best, {100 * self.mean(best, 'es_accuracy').mean:.1f} % at horizon {best}, "
                "and it is the shortest for which that holds; "
                f"a run takes {self.mean(chosen, 'seconds').mean:.0f} s, not {self.mean(best, 'seconds').mean:.0f} s"
            )
        error, cosine = self._fidelity(chosen)
        if error == error:
            text += f". Its hypergradient differs from the full one by {100 * error:.0f} %"
            if cosine == cosine:
                text += f" (cosine {cosine:.2f})"
        return text + "."


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    return buffer.getvalue()


def _percent(value: Mean) -> str:
    spread = "" if value.count == 1 else f" ± {100 * value.half_width:.1f}"
    return f"{100 * value.mean:.1f}{spread}"


def _plain(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
