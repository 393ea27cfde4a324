"""Damaged graphs: edges deleted, random edges added, features noised; and graphs whose edges join classes.

    python experiments/robustness.py [--quick] [--part NAME ...]

The protocol of the GSLB and OpenGSL benchmarks, on Cora, for a plain GCN, a GCN with the labels that LDS learns from,
the same network without a graph, and LDS on the given edges and 20 nearest neighbours as candidates, plain and with
rotating folds and refit. Then the same methods on texas, wisconsin, actor and chameleon_filtered in their first splits.
Finished runs are not repeated, so the command can be stopped and started again, and --part names some of it: deleted,
added, noised, heterophilous. Writes runs.jsonl, table.csv and table.md to experiments/results/robustness/. Needs the
raw files of these sets, see `lds data fetch`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tables import HERE, as_markdown, digits, provenance, write
from torch_geometric.data import Data
from tqdm import tqdm

from lds.data import load
from lds.graph import CandidatePairs, KNNGraph, random_pairs
from lds.learner import FixedGraphLearner, StructureLearner
from lds.run._environment import versions

PARTS = ("deleted", "added", "noised", "heterophilous")
LEVELS = {"deleted": (0.25, 0.5, 0.75), "added": (0.5, 1.0, 2.0), "noised": (0.25, 0.5, 1.0)}
HETEROPHILOUS = ("texas", "wisconsin", "actor", "chameleon_filtered")
SEEDS = range(5)


def damaged(part: str, level: float, seed: int) -> Data:
    """Return Cora with a share of its edges deleted, so many random edges an edge added, or its features noised.

    Noise is Gaussian, with `level` times the standard deviation of all features.
    """
    data = load("cora", retain=1 - level if part == "deleted" else 1.0, seed=seed)
    if part == "added":
        pairs = random_pairs(data.num_nodes, round(level * data.edge_index.shape[1] / 2), seed=seed)
        data.edge_index = torch.cat([data.edge_index, pairs, pairs.flip(0)], 1)
    if part == "noised":
        generator = torch.Generator().manual_seed(seed)
        data.x = data.x + level * data.x.std() * torch.randn(data.x.shape, generator=generator)
    return data


def learners(data: Data, max_epochs: int | None) -> dict[str, FixedGraphLearner | StructureLearner]:
    """Return the methods, by their names."""
    candidates = torch.cat([KNNGraph(20)(data), data.edge_index], 1)
    lds = StructureLearner(edges=partial(CandidatePairs, candidates=candidates), max_epochs=max_epochs)
    return {
        "no graph (train+val)": FixedGraphLearner(None, train_on="train+val"),
        "gcn": FixedGraphLearner(),
        "gcn (train+val)": FixedGraphLearner(train_on="train+val"),
        "lds": lds,
        "lds, rotating folds, refit 5": replace(lds, folds="rotating", refit=5),
    }


def cases(parts: list[str], *, quick: bool) -> Iterator[tuple[str, float | str, int, Callable[[], Data]]]:
    """Return part, level or data set, seed, and what makes the data."""
    for seed in SEEDS if not quick else range(2):
        for part in parts:
            if part == "heterophilous":
                for name in HETEROPHILOUS[: 1 if quick else None]:
                    yield part, name, seed, partial(load, name, seed=seed)
            else:
                for level in LEVELS[part][: 1 if quick else None]:
                    yield part, level, seed, partial(damaged, part, level, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one level, two seeds, one outer epoch")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="what to run")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results")
    options = parser.parse_args()
    out = options.out or HERE / "results" / ("robustness-quick" if options.quick else "robustness")
    out.mkdir(parents=True, exist_ok=True)
    ledger = out / "runs.jsonl"
    content = ledger.read_text() if ledger.exists() else ""
    content = content[: content.rfind("\n") + 1]  # What follows was cut off.
    ledger.write_text(content)
    runs: list[dict[str, Any]] = [json.loads(line) for line in content.splitlines()]
    done = {(run["part"], run["level"], run["method"], run["seed"]) for run in runs}
    with ledger.open("a") as file:
        for part, level, seed, make in tqdm(list(cases(options.part, quick=options.quick)), disable=None):
            data = make()
            for method, learner in learners(data, 1 if options.quick else None).items():
                if (part, level, method, seed) in done:
                    continue
                began = time.perf_counter()
                fit = learner.fit(data, seed=seed)
                run = {"part": part, "level": level, "method": method, "seed": seed, "versions": versions()}
                run |= {split: 100 * fit.accuracy(split) for split in ("es", "test")}
                run["seconds"] = time.perf_counter() - began
                runs.append(run)
                file.write(json.dumps(run) + "\n")
                file.flush()
    found = pd.DataFrame(runs)
    groups = found.groupby(["part", "level", "method"], sort=False)["test"]
    cells = (digits(groups.mean(), 1) + (" ± " + digits(groups.std(), 1)).where(groups.count() > 1, "")).unstack(
        "method"
    )
    cells = cells[list(dict.fromkeys(found["method"]))].reset_index()
    text = as_markdown(cells, right=list(cells.columns[2:]))
    columns = ["part", "level", "method", "seed", "es", "test", "seconds"]
    write(runs, columns, text + provenance("robustness", runs, quick=options.quick), out)


if __name__ == "__main__":
    main()
