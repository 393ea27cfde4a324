"""Readers of sweeps, reports, ablations and trajectories on disk."""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml

from lds._sums import yaml_with_sum
from lds.ablate import AblationConfig, ablate
from lds.hypergrad import Disk, Reverse, TruncationCurve, hypergradient
from lds.run import TrainConfig
from lds.run._reader import read_graph
from lds.sweep import Job, Reply, Spec, read_results, select, summary
from lds.sweep._ledger import Ledger
from lds.sweep._summary import results_csv
from lds.updaters import Adam
from tests.fuzz.base import Contents, Trap, saved_bytes, tensor_bomb, yaml_bombs
from tests.fuzz.runs import SPEC
from tests.oracles import regression, same_bits
from tests.report.samples import recommend, run_folder, sweep_rows, write_lines

# Sweeps and reports.


def make_sweep(folder: Path) -> None:
    rows = sweep_rows()
    for row in rows:
        row.setdefault("result", None)
        row.setdefault("error", None)
    write_lines(folder / "results.jsonl", rows)
    (folder / "sweep.yaml").write_text(Spec.make(yaml.safe_load(SPEC)).as_yaml())


def read_sweep(folder: Path) -> Any:
    outcomes = read_results(folder)
    for setting in summary(outcomes):
        if setting.results:
            setting.mean("test_accuracy")
            setting.mean("es_accuracy")
    select(outcomes)
    with Ledger(folder / "results.jsonl") as ledger:
        table = results_csv(Spec.of_folder(folder / "sweep.yaml").configs, ledger.outcomes)
    return [table, [vars(outcome) for outcome in outcomes]]


_LINE = {"config": {"dataset": "wine", "method": "logreg", "seed": 0}, "status": "done", "error": None,
         "result": {"test_accuracy": 0.9, "es_accuracy": 0.8, "es_loss": 0.3}}  # fmt: skip


def hostile_sweep(folder: Path) -> Contents:
    config = _LINE["config"]
    changes: list[dict[str, Any]] = [
        {"config": []}, {"config": None}, {"config": "method seed dataset"}, {"config": {**config, "seed": "x"}},
        {"config": {**config, "seed": None}}, {"config": {**config, "seed": [1]}}, {"config": {**config, "seed": 1.5}},
        {"config": {**config, "dataset": None}}, {"config": {**config, "method": 3}}, {"status": []}, {"status": "x"},
        {"status": "failed"},
        {"result": []}, {"result": {}}, {"result": {"test_accuracy": "x", "es_accuracy": None}},
        {"result": {"test_accuracy": [1]}},
        {"result": {**_LINE["result"], "es_loss": "x"}}, {"status": "failed", "error": {}},
        {"status": "failed", "error": {"type": 3}},
        {"result": {**_LINE["result"], "test_accuracy": 10**400}},
        {"result": {**_LINE["result"], "es_loss": float("nan")}},
        {"result": {**_LINE["result"], "test_accuracy": float("nan")}},
        {"result": {**_LINE["result"], "es_accuracy": True}},
        {"config": {**config, "seed": 10**400}}, {"result": {**_LINE["result"], "versions": 3}},
        {"config": {**config, "C": {"a": 1}}},
    ]  # fmt: skip
    lines = [json.dumps({**_LINE, **change}).encode() + b"\n" for change in changes]
    lines += [
        b"[" * 100_000 + b"\n",
        b"1" * 5000 + b"\n",
        b'"\\ud800"\n',
        b"\xff\n",
        b"null\n",
        b"{}\n",
        b"\n\n",
        b"\x00\n",
        b"3",
    ]
    lines.append(json.dumps(_LINE).replace("wine", "\\ud800").encode() + b"\n")
    lines.append(json.dumps(_LINE).replace('"seed": 0', '"seed": ' + "1" * 5000).encode() + b"\n")
    whole = (folder / "results.jsonl").read_bytes()
    return [("results.jsonl", c) for c in [*lines, *(whole + line for line in lines)]] + [
        ("sweep.yaml", c) for c in yaml_bombs("name") if b"*a" in c or b"python" in c
    ]


def make_report(folder: Path) -> None:
    run_folder(folder / "run", count=3)
    write_lines(folder / "results.jsonl", sweep_rows())
    for path in (folder / "run").iterdir():
        path.rename(folder / path.name)
    (folder / "run").rmdir()
    (folder / "ablation.csv").write_text(
        "horizon,seed,test_accuracy,es_accuracy,seconds,peak_rss_mb\n0,1,0.9,0.8,3.5,400\n"
    )
    (folder / "fidelity.csv").write_text("depth,relative_error,cosine,costate_norm\n0,0.5,0.9,1.5\n1,0.1,,1e-3\n")
    recommend(folder, {"horizon": 5, "reason": "it is within 0.5 % of the best"})
    config = {"dataset": "wine", "method": "knn-lds", "horizons": [0, 5], "seeds": [1], "fidelity_steps": 50}
    (folder / "ablation.yaml").write_bytes(yaml_with_sum(config))


@cache
def _draw_once() -> None:
    from matplotlib import pyplot

    # Keeps the font that it draws with open.
    pyplot.figure().text(0, 0, "x")
    pyplot.gcf().canvas.draw()


def read_report(folder: Path) -> Any:
    """The folder as a sweep, as a run and as an ablation."""
    kinds = {
        "run": ("config.yaml", "metrics.jsonl", "result.json", "graph.npz"),
        "sweep": ("results.jsonl",),
        "ablation": ("ablation.csv", "fidelity.csv", "recommendation.json", "ablation.yaml"),
    }
    from lds.report._sections import Options, read_folder, runs_of, section

    # Figures take a second: one case in sixty is drawn.
    drawn = sum(zlib.crc32((folder / name).read_bytes()) for names in kinds.values() for name in names) % 60 == 0
    _draw_once()
    values = []
    for kind, names in kinds.items():
        (folder / kind).mkdir()
        for name in names:
            (folder / kind / name).write_bytes((folder / name).read_bytes())
        found = read_folder(folder / kind)
        for run in runs_of(found):
            _ = run.key, run.best, run.figure("test_accuracy")
        saved = read_graph(folder)
        assert saved is not None
        told = {name: value for name, value in vars(found).items() if name != "path"}
        values += [told, saved.pairs.tolist(), saved.probability.tolist()]
        if drawn:
            section(found, "f1", Options(None, None))
    return values


# An ablation that goes on.

_ABLATION = AblationConfig(TrainConfig("wine", "knn-lds", k=3, hidden=2), [0, 2], [1, 2], 3)


class _Curves:
    """An engine that computes nothing."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Reply]]:
        for job in jobs:
            yield job, Reply(TruncationCurve([1.0, 0.5, 0.1, 0.0], [math.nan, 0.5, 0.9, 1.0], [3.0, 2.0, 1.0, 0.5]))


def goes_on_ablating(folder: Path) -> Any:
    """`lds ablate` but for the runs: the configuration and the curves are read."""
    with (
        mock.patch("lds.ablate._measure.run_sweep", return_value=[]),
        mock.patch("lds.ablate._measure.load_data"),
    ):
        result, _ = ablate(_ABLATION, folder, _Curves(), progress=False)
    result.table()
    return vars(result.curve)


def hostile_ablation(folder: Path) -> Contents:
    good = json.loads((folder / "fidelity" / "seed-1-initial.json").read_bytes())
    changes: list[Any] = [
        {"cosine": None}, {"cosine": []}, {"cosine": "1234"}, {"cosine": [1, 1, 1, 1]}, {"cosine": ["x"] * 4},
        {"cosine": {}}, {"cosine": [[1.0]] * 4}, {"other": 1}, {"costate_norm": [1e308] * 4},
        {"costate_norm": [math.inf] * 4}, {"costate_norm": [-math.inf] * 4}, {"relative_error": [math.nan] * 4},
    ]  # fmt: skip
    jsons = [json.dumps(good | change).encode() for change in changes]
    jsons += [b"", b"[]", b"3", b"null", b"{}", b"[" * 200_000, b"1" * 5000, b"\xff", b'{"\\ud800": 1}']
    return [("ablation.yaml", content) for content in yaml_bombs("dataset")] + [
        (f"fidelity/seed-{seed}-initial.json", content) for seed in (1, 2) for content in jsons
    ]


# A trajectory on disk.


class _InterruptedError(Exception):
    """The sweep was interrupted."""


class _Interrupting:
    def __init__(self, at: int | None = None) -> None:
        self.at, self.runs, self.updater = at, 0, Adam(lambda outer: outer["lr"])
        self.init = self.updater.init

    def step(self, state: Any, outer: Any, inner: Any) -> Any:
        self.runs += 1
        if self.runs == self.at:
            raise _InterruptedError
        return self.updater.step(state, outer, inner)


def _differentiate(folder: Path, at: int | None = None) -> Any:
    method = Reverse(5, memory=Disk(folder / "t", 2))
    return hypergradient(*regression(dropout=0.5), updater=_Interrupting(at), steps=8, method=method, seed=3)


def make_disk(folder: Path) -> None:
    with suppress(_InterruptedError):
        _differentiate(folder, 8 + 4 + 4)
    for name in ("states.bin", "trajectory.json", "sweep.pt"):
        (folder / "t" / name).rename(folder / name)
    (folder / "t").rmdir()
    (folder / "good.pt").write_bytes((folder / "sweep.pt").read_bytes())


def read_disk(folder: Path) -> None:
    (folder / "t").mkdir()
    for name in ("states.bin", "trajectory.json", "sweep.pt"):
        (folder / name).rename(folder / "t" / name)
    saved = (folder / "t" / "sweep.pt").read_bytes()
    found = _differentiate(folder)
    global _expected
    if _expected is None:
        _expected = _differentiate(folder / "whole")
    if _members(io.BytesIO(saved)) != _members(folder / "good.pt"):
        return  # Other numbers with a right checksum: that is forgery, and no damage.
    for part in ("grad", "state"):
        assert same_bits(getattr(found, part), getattr(_expected, part)), f"another {part}, in silence"
    for part in ("inner_losses", "costate_norms", "contributions", "replay_error"):
        mine, other = getattr(found.diagnostics, part), getattr(_expected.diagnostics, part)
        assert mine == other, f"another {part}, in silence"


def _members(path: Path | io.BytesIO) -> list[bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [archive.read(member) for member in archive.infolist()]
    except Exception:  # torch reads some archives that Python does not.
        return []


_expected: Any = None


def hostile_disk(folder: Path) -> Contents:
    progress = torch.load(folder / "sweep.pt", weights_only=True)
    row = 8 + 4
    changes = [
        {name: bad}
        for name in progress
        for bad in (None, "x", [], -1, 10**20, torch.zeros(3), torch.zeros(()), [torch.zeros(3)])
    ]
    values = [Trap(), {}, [], 3, *({**progress, **change} for change in changes)]
    values += [{k: v for k, v in progress.items() if k != name} for name in progress]
    states = (folder / "states.bin").read_bytes()
    jsons = [b"", b"[]", b"3", b"[" * 200_000, b"1" * 5000, b"\xff", b"{}"]
    return (
        [("sweep.pt", content) for content in [*map(saved_bytes, values), pickle.dumps(Trap()), b"",
        tensor_bomb()]]
        + [("states.bin", content) for content in (b"", states[:row], states[: len(states) // 2], states + states,
        bytes(len(states)), b"\xff" * len(states))]
        + [("trajectory.json", content) for content in jsons]
    )  # fmt: skip
