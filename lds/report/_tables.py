"""Tables over many runs: accuracy by setting, costs, failures, versions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lds._read import number_of
from lds._statistics import mean, paired
from lds.ablate import Ablation
from lds.errors import DataError
from lds.report._numbers import (
    NONE,
    count,
    interval,
    mebibytes,
    p_value,
    percent,
    percent_mean,
    points,
    seconds,
    sentence,
    value,
)
from lds.report._page import Block, Printout, Table, Text
from lds.run._reader import Run, unusual
from lds.sweep._grid_folder import FailedRun

READING = (
    "Mean ± standard deviation over n seeds; the interval is the 95 % interval of the mean by Student's t. The "
    "difference, in percentage points with its 95 % interval, and p of the two-sided paired t test are those to the "
    "baseline over the seeds that both have. No p is corrected for the number of comparisons."
)
_HEADER = (
    "setting",
    "n",
    "test accuracy, % (mean ± std)",
    "95 % interval",
    "ES accuracy, % (mean ± std)",
    "difference, points",
    "95 % interval",
    "p",
    "pairs",
)

_COMPARED = (
    "Labelled nodes, each counted once, from the simplest learner on; test nodes play no part. Loss is the mean "
    "cross-entropy, less that of the learner with the lowest on the same nodes. A learned structure that did not lead "
    "after two folds or more was not trained on the others."
)

BySeed = Mapping[int, float]


def accuracies(runs: Sequence[Run], name: str = "test_accuracy") -> dict[str, dict[str, dict[int, float]]]:
    """Return an accuracy of runs: data set -> setting -> seed -> accuracy."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for run in runs:
        of_it = found.setdefault(run.dataset, {}).setdefault(run.setting, {})
        if (number := run.figure(name)) is not None:
            of_it[run.seed] = number
    return found


def accuracy_tables(runs: Sequence[Run]) -> list[Table]:
    """Return a table a data set: test accuracy by setting, each next to the first."""
    es = accuracies(runs, "es_accuracy")
    tables = [
        Table(f"Accuracy on {dataset}", _HEADER, accuracy_rows(tests, es[dataset], next(iter(tests))))
        for dataset, tests in accuracies(runs).items()
    ]
    # How to read them, once.
    return [*tables[:-1], *(replace(table, note=READING) for table in tables[-1:])]


def accuracy_rows(tests: Mapping[str, BySeed], es: Mapping[str, BySeed], baseline: str) -> list[list[str]]:
    """Return a row per setting, from accuracies by seed."""
    rows = []
    for setting, values in tests.items():
        whole = mean(list(values.values()))
        stop = percent_mean(mean(list(es[setting].values()))) if es[setting] else NONE
        row = [setting, str(whole.count), percent_mean(whole), interval(whole), stop]
        rows.append(row + (["baseline", "", "", ""] if setting == baseline else _paired(values, tests[baseline])))
    return rows


def ablation_table(ablation: Ablation) -> Table:
    """Return the table of horizons that the command line prints, too."""
    header, rows = ablation.cells()
    direction = "the lower, the better" if ablation.lower_is_better else "the higher, the better"
    note = (
        f"{sentence(ablation.score)}: {direction}; as in ablation.csv. ± is the standard deviation over seeds. "
        "The difference to the longest horizon is paired by seed, with its 95 % interval by Student's t in brackets "
        "and p of the two-sided paired t test. No p is corrected for the number of comparisons."
    )
    names = [name + (f" ({how})" if how else "") for name, how in (cell.split("\n") for cell in header)]
    return Table(f"{sentence(ablation.score)} by horizon", names, rows, note)


def choice_blocks(run: Run) -> list[Block]:
    """Return what auto has chosen, why, and the scores of all alternatives; nothing of other runs.

    Raises:
        DataError: the result says so in another form.
    """
    result, where = run.result or {}, str(run.path)
    if "chosen" not in result:
        return []
    scores = result.get("scores")
    if not isinstance(scores, Mapping) or not all(isinstance(score, Mapping) for score in scores.values()):
        raise DataError(
            f"{where} needs the scores of what was compared in its result, but holds {scores!r:.80}; run again"
        )
    rows = [
        [
            str(name),
            count(number_of(score, "nodes", where)),
            percent(number_of(score, "accuracy", where)),
            *(f"{number_of(score, part, where):.3f}" for part in ("loss", "excess", "error")),
            "chosen" if name == result["chosen"] else "",
        ]
        for name, score in scores.items()
    ]
    header = ("learner", "nodes", "accuracy", "loss", "loss less the lowest", "standard error", "")
    return [Text(f"{result.get('reason')}."), Table("On held-out folds", header, rows, _COMPARED)]


def run_table(runs: Sequence[Run], *, folded: bool) -> Table:
    """Return a row per run."""
    rows = [
        [
            run.setting + (f": {run.result['chosen']}" if run.result and "chosen" in run.result else ""),
            run.dataset,
            str(run.seed),
            percent(run.figure("test_accuracy")),
            percent(run.figure("es_accuracy")),
            count(run.figure("outer_epochs")),
            seconds(run.figure("seconds")),
            mebibytes(run.figure("peak_rss_mb")),
        ]
        for run in runs
    ]
    header = ("setting", "data set", "seed", "test accuracy", "ES accuracy", "outer epochs", "time", "peak memory")
    return Table("All runs", header, rows, folded=folded)


def cost_table(runs: Sequence[Run]) -> Table:
    """Return time and memory by setting."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.setting, run.dataset), []).append(run)
    rows = []
    for (setting, dataset), of_it in groups.items():
        times, steps, memory = (_numbers(of_it, name) for name in ("seconds", "outer_steps", "peak_rss_mb"))
        # Only runs that took outer steps: others have no time of one.
        stepping = [run for run in of_it if run.figure("outer_steps") and run.figure("seconds") is not None]
        total = math.fsum(_numbers(stepping, "seconds"))
        per_step = seconds(total / math.fsum(_numbers(stepping, "outer_steps"))) if stepping else NONE
        rows.append(
            [
                setting,
                dataset,
                str(len(of_it)),
                seconds(math.fsum(times) / len(times) if times else None),
                seconds(math.fsum(times) if times else None),
                count(math.fsum(steps) / len(steps) if steps else None),
                per_step,
                mebibytes(max(memory, default=None)),
            ]
        )
    header = (
        "setting",
        "data set",
        "runs",
        "time of a run",
        "time in all",
        "outer steps",
        "time of a step",
        "peak memory",
    )
    note = "Wall times of the training, as means but for “in all”; memory is the most that a process held."
    return Table("Time and memory", header, rows, note)


def failures(failed: Sequence[FailedRun]) -> list[Block]:
    """Return what failed and why, a printout a run."""
    if not failed:
        return [Text("No run has failed.")]
    blocks: list[Block] = [Text(f"{len(failed)} {'run has' if len(failed) == 1 else 'runs have'} failed.")]
    for run, failure in ((one.run, one.failure) for one in failed):
        what = f"{run.setting} on {run.dataset}, seed {run.seed}: {failure.type}: {failure.message}"
        blocks.append(Printout(what, failure.traceback or "There is no traceback: the process ended without a word."))
    return blocks


def version_table(runs: Sequence[Run]) -> Table | Text:
    """Return the versions that the runs were made with."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, version in ((run.result or {}).get("versions") or {}).items():
            found.setdefault(str(name), {})[str(version)] = None
    if not found:
        return Text("No run that has ended names its versions.")
    rows = [[name, ", ".join(versions)] for name, versions in found.items()]
    return Table("Packages that the runs were made with", ("package", "version"), rows)


def config_tables(config: Mapping[str, object]) -> list[Table]:
    """Return the values that are not the defaults, and all of them."""
    own = [[name, value(thing)] for name, thing in unusual(config).items()]
    every = [[name, value(thing)] for name, thing in config.items()]
    return [
        Table("Values that are not the defaults", ("field", "value"), own),
        Table("All values", ("field", "value"), every, folded=True),
    ]


def _numbers(runs: Sequence[Run], name: str) -> list[float]:
    return [number for run in runs if (number := run.figure(name)) is not None]


def _paired(values: BySeed, baseline: BySeed) -> list[str]:
    seeds = [seed for seed in values if seed in baseline]
    if not seeds:
        return [NONE, NONE, NONE, "0"]
    result = paired([values[seed] for seed in seeds], [baseline[seed] for seed in seeds])
    difference = result.difference
    return [points(difference.mean), interval(difference, signed=True), p_value(result.p_value), str(difference.count)]


def differences(runs: Mapping[str, Run]) -> list[Table]:
    """Return what the configurations of runs differ in, a column per run; no table where they are alike."""
    values = {called: dict(run.config) for called, run in runs.items()}
    fields = dict.fromkeys(field for config in values.values() for field in config if field != "data_root")
    rows = [
        [field, *cells]
        for field in fields
        if len(set(cells := [value(config.get(field)) for config in values.values()])) > 1
    ]
    return [Table("What the configurations differ in", ("field", *values), rows)] if rows else []
