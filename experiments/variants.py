"""Variants of kNN-LDS that no option of a run names, built of the public parts of the library.

All start from the kNN graph that does best as it is: metric tfidf, k = 30. `beyond.py` runs them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from tqdm import tqdm

from lds.data import load
from lds.graph import AllPairs, FactorPairs, KNNGraph, SampledGraph
from lds.learner import Callback, EpochRecord, Fit, StructureLearner
from lds.nn import GCN
from lds.run._environment import versions
from lds.sweep import Job, Outcome, ProcessEngine
from lds.sweep._ledger import Ledger

METHOD = "knn-lds, tfidf, k 30"
KEPT_THETA = 10
Accuracies = dict[str, float]


def with_halves_swapped(learner: StructureLearner, data: Data, seed: int) -> list[tuple[dict[str, Any], Accuracies]]:
    """Learn with the validation and early-stopping halves as they are, and swapped.

    The first fit alone is the plain learner. θ averaged over its last epochs gets a network of its own. The logits of
    both fits averaged are cross-fitting: every validation node is in the outer loss of one of them.
    """
    thetas = LastThetas(KEPT_THETA)
    fit = learner.fit(data, seed=seed, callbacks=[thetas])
    found: list[tuple[dict[str, Any], Accuracies]] = [({}, accuracies(fit))]

    def averaged(num_nodes: int, edge_index: Tensor, *, dtype: torch.dtype) -> AllPairs:
        structure = AllPairs(num_nodes, edge_index, dtype=dtype)
        structure.restore_(thetas.mean())
        return structure

    again = replace(learner, edges=averaged, learn_structure=False, max_epochs=1).fit(data, seed=seed)
    found.append(({"θ": f"averaged over the last {KEPT_THETA} epochs"}, accuracies(again)))

    swapped = data.clone()
    swapped.val_mask, swapped.es_mask = data.es_mask, data.val_mask
    other = learner.fit(swapped, seed=seed)
    both = replace(fit, logits=fit.logits + other.logits)
    # Early stopping knows each fit by the half that it has held out; their average it cannot judge.
    es = (fit.accuracy("es") + other.accuracy("es")) / 2
    return [*found, ({"validation": "cross-fitted"}, accuracies(both) | {"es_accuracy": es})]


def uncertain(learner: StructureLearner, data: Data, seed: int) -> list[tuple[dict[str, Any], Accuracies]]:
    """Learn from probabilities that are neither 0 nor 1."""
    edge, other = 0.8, 0.001

    def edges(num_nodes: int, edge_index: Tensor, *, dtype: torch.dtype) -> AllPairs:
        structure = AllPairs(num_nodes, edge_index, dtype=dtype)
        everywhere = AllPairs(num_nodes, torch.triu_indices(num_nodes, num_nodes, 1), dtype=dtype).state()
        structure.restore_(other * everywhere + (edge - other) * structure.state())
        return structure

    fit = replace(learner, edges=edges).fit(data, seed=seed)
    return [({"θ₀": f"{edge} on edges, {other} elsewhere"}, accuracies(fit))]


def two_graphs(learner: StructureLearner, data: Data, seed: int) -> list[tuple[dict[str, Any], Accuracies]]:
    """Learn with the logits of two graphs averaged in every inner step."""
    fit = replace(learner, edges=Pair, model=MeanOverGraphs).fit(data, seed=seed)
    return [({"graphs an inner step": 2}, accuracies(fit))]


class LastThetas(Callback):
    """Keeps θ as it was after each of the last epochs."""

    def __init__(self, count: int) -> None:
        self._count, self._ended, self._thetas = count, False, list[Tensor]()

    def on_epoch(self, record: EpochRecord) -> None:
        """Remember that an epoch has ended."""
        self._ended = True

    def on_resumable(self, dump: Callable[[], dict[str, Any]]) -> None:
        """Keep θ, the first time after it."""
        if self._ended:
            self._ended = False
            self._thetas = [*self._thetas, dump()["theta"]][-self._count :]

    def mean(self) -> Tensor:
        """Return the average."""
        return torch.stack(self._thetas).mean(0)


class Pair(AllPairs):
    """A structure of which two graphs are drawn at a time."""

    def draw(self) -> tuple[SampledGraph, ...]:  # type: ignore[override]
        """Return two graphs."""
        return super().draw(), super().draw()

    def trace(self, draw: tuple[SampledGraph, ...]) -> Tracers:  # type: ignore[override]
        """Return a tracer around both."""
        return Tracers([super(Pair, self).trace(graph) for graph in draw])

    def accumulator(self) -> Accumulator:  # type: ignore[override]
        """Return an accumulator that takes the cotangents of both."""
        return Accumulator(super().accumulator())


class Tracers:
    """Tracers of several graphs as one."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts
        self.value = tuple(part.value for part in parts)

    def inputs(self) -> list[Any]:
        """Return the products of all."""
        return [edge for part in self.parts for edge in part.inputs()]


class Accumulator:
    """The sum over several graphs, which share one θ."""

    def __init__(self, sum_: Any) -> None:
        self._sum = sum_

    def add(self, tracer: Tracers, cotangents: Sequence[Tensor | None]) -> None:
        """Add what belongs to each."""
        start = 0
        for part in tracer.parts:
            stop = start + len(part.inputs())
            self._sum.add(part, cotangents[start:stop])
            start = stop

    def value(self) -> FactorPairs:
        """Return the sum so far."""
        value: FactorPairs = self._sum.value()
        return value


class MeanOverGraphs(nn.Module):
    """A GCN whose logits are averaged over several graphs."""

    accepts_sparse = True

    def __init__(self, in_channels: int, out_channels: int, **options: Any) -> None:
        super().__init__()
        self.gcn = GCN(in_channels, out_channels, **options)

    def forward(self, x: Any, graphs: Sequence[SampledGraph]) -> Tensor:
        """Return the mean logits, shape [N, C]."""
        return torch.stack([self.gcn(x, graph) for graph in graphs]).mean(0)


def accuracies(fit: Fit) -> Accuracies:
    return {f"{split}_accuracy": fit.accuracy(split) for split in ("es", "test")}


VARIANTS = {function.__name__: function for function in (with_halves_swapped, uncertain, two_graphs)}


def run(dataset: str, name: str, seed: int, max_epochs: int | None) -> list[dict[str, Any]]:
    """Run the variants of one function; return an outcome for each, as plain values."""
    began = time.perf_counter()
    learner = StructureLearner(graph=KNNGraph(30, "tfidf"), max_epochs=max_epochs)
    found = VARIANTS[name](learner, load(dataset, seed=seed), seed)
    of_all = {"seed": seed, "seconds": time.perf_counter() - began, "versions": versions()}
    fixed = {"dataset": dataset, "method": METHOD, "seed": seed}
    return [{"config": fixed | change, "status": "done", "result": scores | of_all} for change, scores in found]


def run_variants(path: Path, seeds: Sequence[int], jobs: int, *, max_epochs: int | None = None) -> list[Outcome]:
    """Run what the ledger at `path` has not yet, and return all outcomes, those of the plain learner first.

    Raises:
        RuntimeError: a run failed.
    """
    todo = [(name, seed) for seed in seeds for name in VARIANTS]
    with Ledger(path) as ledger:
        done = {(o.result or {}).get("run") for o in ledger.outcomes.values()}
        waiting = [
            Job(f"{name}, seed {seed}", run, ("cora", name, seed, max_epochs))
            for name, seed in todo
            if f"{name}, seed {seed}" not in done
        ]
        replies = ProcessEngine(jobs).run(waiting)
        for job, reply in tqdm(replies, "variants", len(waiting), unit="run", disable=None):
            if reply.error is not None:
                raise RuntimeError(f"{job.name} failed: {reply.error.message}\n{reply.error.traceback}")
            for values in reply.result:
                values["result"]["run"] = job.name
                ledger.append(Outcome(**values))
        return sorted(ledger.outcomes.values(), key=lambda outcome: len(outcome.config))
