"""What makes runs comparable beyond their configurations: what a file of one's own holds, and the version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from lds._version import __version__
from lds.errors import InputError
from lds.run import BaselineConfig, TrainConfig, load_data
from lds.run._config import DataConfig
from lds.sweep._identity import folder_name
from lds.sweep._ledger import Outcome


def refuse_other_data(configs: Mapping[str, TrainConfig | BaselineConfig], outcomes: Mapping[str, Outcome]) -> None:
    """Refuse outcomes of other data than their files hold now; a file that cannot be read can add no run either.

    Raises:
        InputError: there is such an outcome.
    """
    from lds.run._data import fingerprint

    known: dict[Any, str | None] = {}
    for name, outcome in outcomes.items():
        config, result = configs[name], outcome.result or {}
        if config.data is None or "data_fingerprint" not in result:
            continue
        # By all that a fingerprint depends on: it covers the split and the edges that are kept.
        names = (*(field.name for field in fields(DataConfig)), "seed", "retain")
        part = tuple(getattr(config, field, 1.0) for field in names)
        if part not in known:
            try:
                known[part] = fingerprint(load_data(config))
            except InputError:
                known[part] = None
        if known[part] not in (None, result["data_fingerprint"]):
            files = " or ".join(filter(None, (config.data, config.edges)))
            raise InputError(
                f"all runs of a sweep must be on the same data, but {files} has changed since the run "
                f"{folder_name(outcome.config)}; bring the file back to its place, or choose another --out"
            )


def refuse_other_versions(out: Path, outcomes: Mapping[str, Outcome]) -> None:
    """Refuse outcomes of another version of the package.

    Raises:
        InputError: there is such an outcome.
    """
    for outcome in outcomes.values():
        versions = (outcome.result or {}).get("versions")
        found = versions.get("lds", __version__) if isinstance(versions, dict) else __version__
        if found != __version__:
            raise InputError(
                f"{out} holds runs of lds {found!s:.80}, but this is lds {__version__}, whose numbers may differ; add "
                "runs with that version, or choose another --out"
            )
