"""A sweep folder: many runs, of which some may have failed or be going on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lds.errors import DataError
from lds.report._parse import Row, read_jsonl
from lds.report._run import LEARNING, Run, check_config, check_result, read_run


@dataclass(frozen=True)
class Failed:
    """A run that failed.

    Attributes:
        run: its configuration.
        type: name of the exception.
        message: its message.
        traceback: the lines that Python would have printed.
    """

    run: Run
    type: str
    message: str
    traceback: str


@dataclass(frozen=True)
class Sweep:
    """A sweep.

    Attributes:
        path: its folder.
        done: the runs that have ended well, one a configuration; those that learn no structure come first.
        failed: those that have not.
        folders: the run folders that are left.
        in_progress: run folders of runs that have not ended.
        torn: whether the last line of results.jsonl was being written.
    """

    path: Path
    done: tuple[Run, ...]
    failed: tuple[Failed, ...]
    folders: tuple[Run, ...]
    in_progress: tuple[Run, ...]
    torn: bool


def read_sweep(path: Path) -> Sweep:
    """Read results.jsonl, of which a later line of the same configuration replaces an earlier one, and runs/.

    Raises:
        DataError: a file is malformed.
    """
    lines = read_jsonl(path / "results.jsonl")
    ends: dict[tuple[str, str, int], Run | Failed] = {}
    for row in lines.rows:
        end = _end(row)
        ends[(end.run if isinstance(end, Failed) else end).key] = end
    runs = path / "runs"
    found = sorted(runs.iterdir()) if runs.is_dir() else []
    folders = tuple(read_run(folder) for folder in found if (folder / "config.yaml").exists())
    return Sweep(
        path,
        done=tuple(sorted((end for end in ends.values() if isinstance(end, Run)), key=_order)),
        failed=tuple(end for end in ends.values() if isinstance(end, Failed)),
        folders=folders,
        in_progress=tuple(run for run in folders if run.result is None and run.key not in ends),
        torn=lines.torn,
    )


def _order(run: Run) -> tuple[str, bool, list[str | int], int]:
    """Order runs as their lines, written as they ended, do not: by setting and seed, horizon 5 ahead of horizon 10."""
    parts = re.split(r"(\d+)", run.setting)
    return (run.dataset, run.method in LEARNING, [int(p) if p.isdecimal() else p for p in parts], run.seed)


def _end(row: Row) -> Run | Failed:
    config = check_config(row.values.get("config"), row.where)
    status = row.values.get("status")
    if status == "done":
        return Run(config, check_result(row.values.get("result"), row.where))
    if status != "failed":
        raise DataError(f'{row.where} needs "done" or "failed" as status, but holds {status!r}')
    error: Any = row.values.get("error")
    if not isinstance(error, dict):
        raise DataError(f"{row.where} needs type, message and traceback as error, but holds {error!r:.80}")
    texts = (str(error.get(name) or "") for name in ("type", "message", "traceback"))
    return Failed(Run(config), *texts)
