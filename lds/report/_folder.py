"""What a folder is: a run, a sweep or an ablation."""

from __future__ import annotations

from pathlib import Path

from lds.errors import InputError
from lds.report._ablation import Ablation, read_ablation
from lds.report._run import Run, read_run
from lds.report._sweep import Sweep, read_sweep


def read_folder(path: Path) -> Run | Sweep | Ablation:
    """Read a folder as what its files say that it is.

    Raises:
        InputError: there is no such folder, or its files say nothing.
        DataError: a file is malformed.
    """
    if not path.is_dir():
        came = "a file" if path.exists() else "nothing"
        raise InputError(f"{path} must be a folder of a run, a sweep or an ablation, but {came} is there")
    if (path / "ablation.csv").exists() or (path / "ablation.yaml").exists():
        return read_ablation(path)
    if (path / "results.jsonl").exists():
        return read_sweep(path)
    if (path / "config.yaml").exists():
        return read_run(path)
    raise InputError(
        f"{path} must hold a run (config.yaml), a sweep (results.jsonl) or an ablation (ablation.csv), "
        "but holds none of these; name the folder that was given as --out"
    )
