"""The folder of an ablation: claimed for one configuration, and read back."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lds._files import make_folder, read_file, refuse_links, write_atomically
from lds._read import check_figure, parse_yaml, read_csv, read_json, read_text, read_yaml, reason
from lds._sums import check_files, check_sum, check_yaml_sum, warn_unverified, yaml_with_sum
from lds.ablate._ablation import (
    COSTS,
    FIDELITY,
    RECOMMENDATION,
    ROWS,
    Ablation,
    AblationConfig,
    Row,
    check_score,
    score_names,
)
from lds.errors import DataError, InputError
from lds.sweep._grid_folder import GridFolder, read_grid
from lds.sweep._ledger import LEDGER

if TYPE_CHECKING:
    from lds.hypergrad import TruncationCurve

_AGAIN = "put it back, or run the same lds ablate again"
CONFIG = "ablation.yaml"
RUNS = "sweep"
CURVES = "fidelity"


@dataclass(frozen=True)
class AblationFolder:
    """What the folder of an ablation holds; what is not there yet is empty or None.

    Attributes:
        path: the folder.
        config: data set, method, horizons, seeds and so on.
        outcome: the runs and the truncation curve.
        recommendation: the horizon recommended, and the reason.
        grid: its runs as a grid.
    """

    path: Path
    config: Mapping[str, Any]
    outcome: Ablation
    recommendation: Mapping[str, Any] | None
    grid: GridFolder | None


def read_ablation(path: Path | str) -> AblationFolder:
    """Read the folder of an ablation, also of one that still goes on.

    Raises:
        DataError: a file is malformed.
    """
    path = Path(path)

    def there(name: str) -> bool:
        return (path / name).exists()

    rows, score = _rows(path / ROWS) if there(ROWS) else ((), "accuracy")
    curve = _curve(path / FIDELITY) if there(FIDELITY) else None
    grids = [folder for folder in (refuse_links(path, RUNS), path) if (folder / LEDGER).exists()]
    config = read_yaml(path / CONFIG) if there(CONFIG) else {}
    if config and not check_yaml_sum(path / CONFIG, config, _AGAIN) and rows:
        warn_unverified(path / CONFIG)
    recommendation = read_json(path / RECOMMENDATION) if there(RECOMMENDATION) else None
    tied = bool(rows) and _is_tied(path, recommendation)
    grid = read_grid(grids[0]) if grids else None
    if tied and grid is not None:
        _check_rows(path / ROWS, rows, grid)
    lower = recommendation is not None and recommendation.get("lower_is_better") is True
    outcome = Ablation(rows, curve, score=score, lower_is_better=lower)
    return AblationFolder(path, config, outcome, recommendation, grid)


def _is_tied(path: Path, recommendation: Mapping[str, Any] | None) -> bool:
    """Refuse tables that have changed since the recommendation was written; tell whether it has their sums."""
    if recommendation is None or not check_sum(recommendation, str(path / RECOMMENDATION), _AGAIN):
        warn_unverified(path)  # Or `lds ablate` is just at work, or was cut off.
        return False
    if not isinstance(sums := recommendation.get("sums"), dict):
        raise DataError(f"{path / RECOMMENDATION} must hold the sums of the tables, but has none; {_AGAIN}")
    check_files(path, sums, (ROWS, FIDELITY), needed=(ROWS, FIDELITY))
    return True


def _check_rows(path: Path, rows: Sequence[Row], grid: GridFolder) -> None:
    """Refuse a table of other runs than those of the ledger."""
    runs = {(run.config.get("horizon"), run.seed): run for run in grid.done}
    for row in rows:
        run = runs.get((row.horizon, row.seed))
        if run is None or run.figure("test_accuracy") != row.score:
            raise DataError(
                f"{path} must be of the runs in {grid.path / LEDGER}, but that of horizon {row.horizon} and seed "
                f"{row.seed} is another one there; {_AGAIN}"
            )


def _rows(path: Path) -> tuple[tuple[Row, ...], str]:
    """Return the runs, and what their score is called."""
    header = next(csv.reader(read_text(path).splitlines()[:1]), [])
    others = [name for name in header if name not in ("horizon", "seed", *COSTS)]
    score = (
        others[0] if len(others) == 1 else next((name[5:] for name in others if name.startswith("test_")), "accuracy")
    )
    try:
        check_score(score)
    except InputError as error:
        raise DataError(f"{path}:1: {error}; {_AGAIN}") from error
    names = score_names(score, "_", single=len(others) == 1)
    runs = []
    for row in read_csv(path, ["horizon", "seed", *names, *COSTS]):
        for name in ("horizon", "seed"):
            check_figure(row[name], name, str(path), counted=True)
        if not (row["horizon"].is_integer() and row["seed"].is_integer()):
            raise DataError(
                f"{path} needs integers as horizon and seed, but holds {row['horizon']}, {row['seed']}; run again"
            )
        selection = row[names[1]] if len(names) > 1 else None
        runs.append(Row(int(row["horizon"]), int(row["seed"]), row[names[0]], selection, *(row[n] for n in COSTS)))
    return tuple(runs), score


def _curve(path: Path) -> TruncationCurve | None:
    from lds.hypergrad import TruncationCurve

    columns = [field.name for field in fields(TruncationCurve)]
    rows = sorted(read_csv(path, ["depth", *columns]), key=lambda row: row["depth"])
    if [row["depth"] for row in rows] != list(range(len(rows))):
        raise DataError(f"{path} needs a row for each depth from 0 on, but lacks one or has one twice; run again")
    return TruncationCurve(*([row[name] for row in rows] for name in columns)) if rows else None


def claim(config: AblationConfig, out: Path) -> None:
    """Write the configuration, unless the folder holds another one."""
    path = out / CONFIG
    if path.exists():
        found = _read_config(path)
        mine = config.as_dict()
        grown = ("horizons", "seeds", "fidelity_steps")
        if not isinstance(found, dict) or any(found.get(name) != mine[name] for name in mine if name not in grown):
            raise InputError(f"{out} holds an ablation of another configuration; choose another --out")
    elif out.is_dir() and any(file.name != f".{CONFIG}.tmp" for file in out.iterdir()):  # So a first file is cut off.
        raise InputError(
            f"{out} must be new, empty or the folder of an ablation, but holds files; choose another --out"
        )
    make_folder(out)
    write_atomically(path, yaml_with_sum(config.as_dict()))


def _read_config(path: Path) -> Any:
    try:
        return parse_yaml(read_file(path).decode("utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the file and its rights") from error
    except (UnicodeDecodeError, DataError) as error:
        raise DataError(f"{path} must be YAML, but {reason(error)}; choose another --out") from error
