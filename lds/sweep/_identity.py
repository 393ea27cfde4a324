"""What makes a run the same run: the fields of its configuration that differ from their defaults.

A field that a later version adds, with a default, leaves finished runs valid.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from lds.run import BaselineConfig, TrainConfig

_ALWAYS = ("method", "seed")


def identity(config: TrainConfig | BaselineConfig) -> dict[str, Any]:
    """Return the fields that differ from their defaults, and method and seed; where data sets lie is none."""
    return {
        field.name: getattr(config, field.name)
        for field in fields(config)
        if field.name != "data_root" and (field.name in _ALWAYS or getattr(config, field.name) != field.default)
    }


def key(run: Mapping[str, Any]) -> str:
    """Return the same text for the same run."""
    return json.dumps(run, sort_keys=True, separators=(",", ":"))


def folder_name(run: Mapping[str, Any]) -> str:
    """Return a short name that tells data set and method and is another for every run."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", f"{run.get('dataset') or Path(run['data']).name}-{run['method']}")
    return f"{readable}-{hashlib.sha256(key(run).encode()).hexdigest()[:10]}"
