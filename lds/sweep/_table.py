"""The flat table of a sweep: a line a run, in the order of its description."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from lds.run import BaselineConfig, TrainConfig
from lds.sweep._identity import identity, key
from lds.sweep._ledger import Outcome


def results_csv(configs: Sequence[TrainConfig | BaselineConfig], outcomes: Mapping[str, Outcome]) -> str:
    """Return the outcomes of the runs that have one as CSV: fields that some run sets, status, results, error."""
    rows: list[dict[str, Any]] = []
    # Dictionaries for their order: that of the fields, then that of the results.
    settings: dict[str, None] = dict.fromkeys(("dataset", "method"))
    results: dict[str, None] = {}
    for config in configs:
        run = identity(config)
        settings.update(dict.fromkeys(run))
        outcome = outcomes.get(key(run))
        if outcome is None:
            continue
        result = {name: value for name, value in (outcome.result or {}).items() if not isinstance(value, dict | list)}
        results.update(dict.fromkeys(result))
        error = outcome.error or {}
        message = f"{error['type']}: {error['message']}" if error else None
        rows.append({**result, **config.as_dict(), "status": outcome.status, "error": message})
    del settings["seed"]
    columns = [*settings, "seed", "status", *(name for name in results if name not in {*settings, "seed"}), "error"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
