"""Every reader of files, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml
from torch_geometric.data import Data

from lds.data import read
from lds.run import replay_failure, resume
from lds.run._reader import read_config
from tests.fuzz.base import Target, npz_bytes, saved_bytes, yaml_bombs
from tests.fuzz.own import (
    PARTS,
    good_arrays,
    good_parts,
    hostile_csv,
    hostile_npz,
    hostile_planetoid,
    hostile_pt,
    make_csv,
    make_planetoid,
    read_planetoid,
)
from tests.fuzz.records import (
    goes_on_ablating,
    hostile_ablation,
    hostile_disk,
    hostile_sweep,
    make_disk,
    make_report,
    make_sweep,
    read_disk,
    read_report,
    read_sweep,
)
from tests.fuzz.runs import (
    COMMAND,
    SPEC,
    goes_on,
    hostile_finished,
    hostile_progress,
    make_finished,
    make_interrupted,
    read_command,
    read_finished,
    read_spec,
)


def _own(name: str) -> Callable[[Path], Data]:
    return lambda folder: read(folder / name)


def _write(name: str, content: Callable[[], bytes]) -> Callable[[Path], int]:
    return lambda folder: (folder / name).write_bytes(content())


_RAW = tuple(f"ind.pubmed.{part}" for part in PARTS)
TARGETS = {
    target.name: target
    for target in (
        Target("planetoid", (*_RAW, "SHA256SUMS"), make_planetoid, lambda f: read_planetoid(f, trusted=False),
        hostile_planetoid),
        Target("planetoid-trusted", _RAW, make_planetoid, lambda f: read_planetoid(f, trusted=True),
        hostile_planetoid),
        Target("own-pt", ("data.pt",), _write("data.pt", lambda: saved_bytes(Data(**good_parts()))), _own("data.pt"),
        hostile_pt),
        Target("own-npz", ("data.npz",), _write("data.npz", lambda: npz_bytes(**good_arrays())), _own("data.npz"),
        hostile_npz),
        Target("own-csv", ("data.csv", "edges.csv"), make_csv, lambda f: read(f / "data.csv", edges=f / "edges.csv"),
        hostile_csv),
        Target("spec", ("spec.yaml",), _write("spec.yaml", SPEC.encode), read_spec,
        lambda _: [("spec.yaml", c) for c in yaml_bombs("name")]),
        Target("config", ("config.yaml",), _write("config.yaml", lambda: yaml.safe_dump(COMMAND.as_dict()).encode()),
               read_config, lambda _: [("config.yaml", c) for c in yaml_bombs("dataset")]),
        Target("command-line", ("config.yaml",),
        _write("config.yaml", lambda: b"dataset: wine\nmethod: knn-lds\ntau: 3\nretain: 0.5\nseed: 2\n"),
               read_command, lambda _: [("config.yaml", c) for c in yaml_bombs("dataset")]),
        Target("progress", ("progress.pt",), make_interrupted, lambda f: goes_on(lambda: resume(f, progress=False)),
               lambda f: hostile_progress(f, "progress.pt"), guarded="blind"),
        Target("failure", ("failure.pt",), make_interrupted, lambda f: goes_on(lambda: replay_failure(f)),
        lambda f: hostile_progress(f, "failure.pt"), guarded="blind"),
        Target("finished", ("result.json", "graph.npz", "checkpoint.pt", "config.yaml", "node_names.json",
        "metrics.jsonl"), make_finished, read_finished, hostile_finished, guarded="all"),
        Target("sweep", ("results.jsonl", "sweep.yaml"), make_sweep, read_sweep, hostile_sweep, guarded="lines"),
        Target("report", ("config.yaml", "metrics.jsonl", "result.json", "graph.npz", "results.jsonl", "ablation.csv",
        "fidelity.csv",
                          "recommendation.json", "ablation.yaml"), make_report, read_report, guarded="lines"),
        Target("ablation", ("ablation.yaml", "fidelity/seed-1-initial.json", "fidelity/seed-2-initial.json"),
        goes_on_ablating, goes_on_ablating, hostile_ablation, guarded="all"),
        Target("disk", ("states.bin", "trajectory.json", "sweep.pt"), make_disk, read_disk, hostile_disk),
    )
}  # fmt: skip
