"""An ablation folder: accuracy by horizon, and how true the truncated hypergradient is by depth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lds.report._parse import read_csv, read_json, read_yaml
from lds.report._sweep import Sweep, read_sweep

RUNS = ("horizon", "seed", "test_accuracy", "es_accuracy", "seconds", "peak_rss_mb")
FIDELITY = ("depth", "relative_error", "cosine", "costate_norm")


@dataclass(frozen=True)
class Ablation:
    """An ablation; what is not there yet is empty or None.

    Attributes:
        path: its folder.
        config: dataset, method, horizons, seeds and so on.
        runs: rows of ablation.csv.
        fidelity: rows of fidelity.csv.
        recommendation: the horizon recommended, and the reason.
        sweep: its runs.
    """

    path: Path
    config: Mapping[str, Any]
    runs: tuple[Mapping[str, float], ...]
    fidelity: tuple[Mapping[str, float], ...]
    recommendation: Mapping[str, Any] | None
    sweep: Sweep | None


def read_ablation(path: Path) -> Ablation:
    """Read an ablation folder.

    Raises:
        DataError: a file is malformed.
    """

    def there(name: str) -> bool:
        return (path / name).exists()

    return Ablation(
        path,
        config=read_yaml(path / "ablation.yaml") if there("ablation.yaml") else {},
        runs=tuple(read_csv(path / "ablation.csv", RUNS)) if there("ablation.csv") else (),
        fidelity=tuple(read_csv(path / "fidelity.csv", FIDELITY)) if there("fidelity.csv") else (),
        recommendation=read_json(path / "recommendation.json") if there("recommendation.json") else None,
        sweep=next((read_sweep(folder) for folder in (path / "sweep", path) if _is_sweep(folder)), None),
    )


def _is_sweep(path: Path) -> bool:
    return (path / "results.jsonl").exists()
