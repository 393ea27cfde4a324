"""Readers of configurations, and of the files of runs."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml

from lds._files import write_atomically
from lds.cli import main
from lds.learner import Callback, extract
from lds.run import EXPORT_FORMATS, TrainConfig, read_node_names, read_structure, resume, train
from lds.run._folder import RunFolder
from lds.run._reader import read_graph, read_run
from lds.run._saving import read_progress
from lds.sweep import Spec
from tests.fuzz.base import Contents, Trap, huge_npz, npz_bytes, saved_bytes, tensor_bomb, yaml_bombs
from tests.report.samples import seal

# Configurations.

SPEC = """\
name: small
description: two methods
runs:
  - {dataset: wine, method: knn-lds, k: [3, 4], retain: 1.0, hidden: 4, seed: [0, 1]}
  - {dataset: iris, method: logreg, C: [1.0e-3, 1.0], seed: 0}
quick:
  - {data: own.csv, label: class, scale: row, train_size: 10, method: knn-gcn, seed: 0}
"""


def read_spec(folder: Path) -> None:
    spec = Spec.read(folder / "spec.yaml")
    Spec.make(yaml.safe_load(spec.as_yaml()))


COMMAND = TrainConfig("wine", "knn-lds", interval=2, max_epochs=1, samples=2, k=3, hidden=2, seed=2)


def read_command(folder: Path, name: str = "config.yaml") -> None:
    """The options of `lds train --config`, up to the training."""
    result = {"test_accuracy": 0.0, "outer_epochs": 0}
    with mock.patch("lds.cli._train.train", return_value=result), mock.patch("lds.cli._train._print_result"):
        code = main(["train", "--config", str(folder / name), "--out", str(folder / "out")])
    if code:
        raise SystemExit(code)


# Runs.


class _ReachedError(Exception):
    """The run has gone on."""


def _stop(*_: Any) -> None:
    raise _ReachedError


def goes_on(call: Callable[[], Any]) -> Any:
    """Let a run go on for one outer step, or one epoch; return what it goes on from."""
    on_step, on_epoch = (mock.patch.object(RunFolder, name, _stop) for name in ("on_step", "on_epoch"))
    found: list[Any] = []

    def spy(*args: Any) -> Any:
        found.append(read_progress(*args))
        return found[-1]

    with on_step, on_epoch, mock.patch("lds.run._saving.read_progress", spy), suppress(_ReachedError):
        call()
    return plain(found)


def plain(values: Any) -> Any:
    """Plain values in place of tensors."""
    if isinstance(values, torch.Tensor):
        # Those of a hostile file may be of any kind.
        dense = values.layout == torch.strided and not (values.is_meta or values.is_nested or values.is_quantized)
        return [str(values.dtype), list(values.shape), values.flatten().tolist() if dense else str(values.layout)]
    if isinstance(values, dict):
        return {str(name): plain(value) for name, value in values.items()}
    return [plain(value) for value in values] if isinstance(values, list | tuple) else values


def make_interrupted(folder: Path) -> None:
    """A run that was cut off after some steps of its second epoch, and a failure of it."""
    from lds.run._data import fingerprint, load_data
    from lds.run._saving import pack

    config = TrainConfig("wine", "knn-lds", tau=2, max_epochs=2, samples=2, k=3, hidden=2, seed=2)
    data, dumps = load_data(config), []
    from lds.run._learner import make_learner

    class Saver(Callback):
        def on_resumable(self, dump: Callable[[], dict[str, Any]]) -> None:
            dumps.append(dump())
            if len(dumps) > 1 and dumps[-2]["history"] and dumps[-1]["state"] is not None:
                raise _ReachedError

    with suppress(_ReachedError):
        make_learner(config, data).fit(data, seed=config.seed, callbacks=[Saver()])
    (folder / "config.yaml").write_text(yaml.safe_dump(config.as_dict()))
    (folder / "metrics.jsonl").write_text(json.dumps(dumps[-1]["history"][0]) + "\n")
    write_atomically(folder / "progress.pt", pack(config.as_dict(), fingerprint(data), 1.0, dumps[-1]))
    failure = {"outer_step": dumps[-1]["outer_step"] + 1, "resume": dumps[-1]}
    write_atomically(folder / "failure.pt", pack(config.as_dict(), fingerprint(data), 0.0, failure))


def hostile_progress(folder: Path, name: str) -> Contents:
    saved = torch.load(folder / name, weights_only=True)
    head, progress = dict(saved), dict(saved["progress"])
    inner = progress["resume"] if name == "failure.pt" else progress

    def changed(**values: Any) -> dict[str, Any]:
        new = {**inner, **values}
        return head | {"progress": {**progress, "resume": new} if name == "failure.pt" else new}

    values: list[Any] = [
        Trap(), head | {"progress": Trap()}, head | {"progress": 5}, head | {"progress": {}}, head | {"progress": []},
        head | {"progress": None}, head | {"seconds": "x"}, head | {"seconds": None}, head | {"seconds": [1]},
        head | {"progress": {"outer_step": "x", "resume": inner}}, head | {"progress": {"outer_step": 1, "resume": 3}},
        head | {"progress": {"outer_step": 1, "resume": []}}, head | {"progress": {"outer_step": 1}}, {1: 2}, set(),
        "x",
        changed(theta=torch.zeros(3)), changed(theta="x"), changed(theta=torch.full_like(inner["theta"], float("nan"))),
        changed(theta=inner["theta"] * 7), changed(theta=inner["theta"].to("meta")), changed(history=3),
        changed(history=[3]),
        changed(history=[{}]), changed(history=[{**inner["history"][0], "epoch": torch.zeros(2)}]),
        changed(outer_step="x"),
        changed(history=[{**inner["history"][0], "es_accuracy": "x"}]), changed(history={}), changed(outer_step=-7),
        changed(stale=None), changed(stale="x"), changed(inner_loss="x"), changed(least=None), changed(failures=[]),
        changed(best={}), changed(best=3), changed(best={**inner["best"], "es_accuracy": "x"}), changed(best=None),
        changed(best={**inner["best"], "theta": torch.zeros(1)}),
        changed(best={**inner["best"], "logits": torch.zeros(1)}),
        changed(best={**inner["best"], "params": {}}), changed(state={}), changed(state=4), changed(outer_step=10**30),
        changed(state={**inner["state"], "step": "x"}), changed(state={**inner["state"], "step": -3}),
        changed(state={**inner["state"], "step": 2**63}), changed(state={**inner["state"], "leaves": []}),
        changed(state={**inner["state"], "leaves": ["x"] * len(inner["state"]["leaves"])}), changed(stale=float("nan")),
        changed(state={**inner["state"], "leaves": [torch.zeros(2)] * len(inner["state"]["leaves"])}),
        changed(state={**inner["state"], "leaves": [7] * len(inner["state"]["leaves"])}),
        changed(state={**inner["state"], "leaves": [x.double() if isinstance(x,
        torch.Tensor) else x for x in inner["state"]["leaves"]]}),
    ]  # fmt: skip
    raw = [pickle.dumps(Trap()), b"", tensor_bomb()]
    return [(name, content) for content in [*map(saved_bytes, values), *raw]]


def make_finished(folder: Path) -> None:
    train(COMMAND, folder / "run", progress=False)
    for path in (folder / "run").iterdir():
        path.rename(folder / path.name)
    (folder / "run").rmdir()
    (folder / "node_names.json").write_text(json.dumps([f"wine {i}" for i in range(178)]) + "\n")
    seal(folder)


def read_finished(folder: Path) -> Any:
    result = resume(folder, progress=False)
    _ = f"test accuracy {result['test_accuracy']:.4f} after {result['outer_epochs']} outer epochs"
    graph = extract(read_structure(folder), 0.5)
    if (names := read_node_names(folder, graph.num_nodes)) is not None:
        graph.node_names = names
    for write in EXPORT_FORMATS.values():
        write(graph)
    saved = read_graph(folder)
    assert saved is not None
    pairs = [saved.pairs.tolist(), saved.probability.tolist()]
    return [result, graph.edge_index.tolist(), graph.edge_weight.tolist(), names, pairs, read_run(folder).epochs]


def hostile_finished(folder: Path) -> Contents:
    texts = (
        b"",
        b"[]",
        b"3",
        b"{}",
        b"[" * 200_000,
        b"\xff",
        b"1" * 5000,
        b'{"test_accuracy": "x", "outer_epochs": 1}',
        b"null",
    )
    with np.load(folder / "graph.npz") as arrays:
        graph = dict(arrays)
    theta = torch.load(folder / "checkpoint.pt", weights_only=True)["theta"]
    graphs = [npz_bytes(**graph | change) for change in (
        {"num_nodes": 10**6}, {"num_nodes": 10**12}, {"num_nodes": -1}, {"num_nodes": 0}, {"num_nodes": 2**63},
        {"num_nodes": 1e300},
        {"num_nodes": [1, 2]}, {"num_nodes": "178"}, {"edge_index": graph["edge_index"] * 10**15},
        {"edge_index": [1, 2]},
        {"edge_index": graph["edge_index"].astype(str)}, {"edge_weight": graph["edge_weight"].astype(complex)},
        {"edge_weight": graph["edge_weight"] * np.nan}, {"num_nodes": np.nan},
        {"num_nodes": np.datetime64("2001-01-01")},
    )] + [content for _, content in huge_npz(graph, "edge_index")]  # fmt: skip
    checkpoints: list[Any] = [
        Trap(), {"theta": Trap()}, {}, [], 3, {"theta": 3}, {"theta": theta[:-1]}, {"theta": theta.to("meta")},
        {"theta": theta * torch.nan},
        {"theta": theta + 7}, {"theta": theta.long()}, {"theta": theta.to(torch.complex64)},
        {"theta": theta.to_sparse()},
        {"theta": torch.zeros(1).expand(10**12)}, {"theta": theta.bool()}, {"theta": theta.half()},
        {"theta": theta[None]},
        {"theta": torch.zeros(())},
    ]  # fmt: skip
    named = [f"wine {i}" for i in range(177)]
    names: list[Any] = [
        named, [*named, "wine 0"], [*named, 177], [*named, None], [*named, []], [*named, ""], [*named, "\ud800"],
        [*named, "\0"], [*named, "\ufffe"], [*named, "<&>\"',;\u2028"], [*named, "x" * 100_000], {"wine": named},
    ]  # fmt: skip
    return (
        [("result.json", text) for text in texts]
        + [("graph.npz", content) for content in graphs]
        + [("checkpoint.pt", content) for content in [*map(saved_bytes, checkpoints), pickle.dumps(Trap()), b""]]
        + [("config.yaml", content) for content in yaml_bombs("dataset")]
        + [("node_names.json", content) for content in [*(json.dumps(x).encode() for x in names), *texts]]
    )
