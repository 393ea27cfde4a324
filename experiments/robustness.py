"""Damaged graphs: edges deleted, random edges added, features noised; and graphs whose edges join classes.

    python experiments/robustness.py [--quick] [--part NAME ...]

The protocol of the GSLB and OpenGSL benchmarks, on Cora, for a plain GCN, a GCN with the labels that LDS learns from,
the same network without a graph, APPNP with these labels and self-training, and LDS. Then the same methods on texas,
wisconsin, actor and chameleon_filtered, on five of their splits.
Finished runs are not repeated, so the command can be stopped and started again, and --part names some of it: deleted,
added, noised, heterophilous. Writes runs.jsonl, table.csv, table.md and picture.png to experiments/results/robustness/.
Needs the raw files of Cora, see `lds data fetch`, and matplotlib; the heterophilous part needs --files, the folder of
the files texas.npz, … of Platonov et al., `A critical look at the evaluation of GNNs under heterophily
<https://arxiv.org/abs/2302.11640>`_ (ICLR 2023), from github.com/yandex-research/heterophilous-graphs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pieces import folder_of, parser_of, run_pieces
from tables import as_markdown, digits, provenance, write
from torch_geometric.data import Data

from lds._statistics import paired
from lds.data import load, read
from lds.graph import random_pairs
from lds.learner import FixedGraphLearner, StructureLearner
from lds.nn import APPNP
from lds.run._environment import versions
from lds.sweep import Job

PARTS = ("deleted", "added", "noised", "heterophilous")
LEVELS = {"deleted": (0.25, 0.5, 0.75), "added": (0.5, 1.0, 2.0), "noised": (0.25, 0.5, 1.0)}
HETEROPHILOUS = ("texas", "wisconsin", "actor", "chameleon_filtered")
SEEDS = range(5)
CONTROL = "gcn (train+val)"
AXES = {
    "deleted": "share of edges deleted",
    "added": "random edges added, an edge",
    "noised": "noise of features, in deviations",
}


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


METHODS: Mapping[str, FixedGraphLearner | StructureLearner] = {
    "no graph (train+val)": FixedGraphLearner(None, train_on="train+val"),
    "gcn": FixedGraphLearner(),
    CONTROL: FixedGraphLearner(train_on="train+val"),
    "appnp, self-training (train+val)": FixedGraphLearner(
        model=partial(APPNP, hidden_channels=64), train_on="train+val", networks=5, self_training=0.7
    ),
    # θ moves every 20 steps in place of 5, which takes a third of the time.
    "lds": StructureLearner(interval=20, horizon=5, patience=10),
}


def run(
    part: str, level: float | str, method: str, seed: int, max_epochs: int | None, files: Path | None = None
) -> dict[str, Any]:
    """Return what a method scores on damaged, or heterophilous, data; accuracies in percent."""
    if part == "heterophilous":
        assert files is not None
        data = read(files / f"{level}.npz", split=seed)
    else:
        data = damaged(part, float(level), seed)
    began = time.perf_counter()
    learner = METHODS[method]
    if isinstance(learner, StructureLearner):
        learner = replace(learner, max_epochs=max_epochs)
    fit = learner.fit(data, seed=seed)
    scores = {split: 100 * fit.accuracy(split) for split in ("es", "test")}
    about = {"part": part, "level": level, "method": method, "seed": seed, "versions": versions()}
    return about | scores | {"seconds": time.perf_counter() - began}


def pieces(parts: Sequence[str], *, quick: bool, files: Path | None = None) -> list[Job]:
    """Return a piece of work for each part, level or data set, method and seed; files lie in a folder."""
    found = []
    for seed in SEEDS if not quick else range(2):
        for part in parts:
            levels: Sequence[float | str] = HETEROPHILOUS if part == "heterophilous" else LEVELS[part]
            for level in levels[: 1 if quick else None]:
                for method in METHODS:
                    name = f"{part} {level}, {method}, seed {seed}"
                    found.append(Job(name, run, (part, level, method, seed, 1 if quick else None, files)))
    return found


def markdown(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the table for people: test accuracies, and what LDS adds to a GCN with the same labels, seed by seed."""
    found = pd.DataFrame(runs)
    groups = found.groupby(["part", "level", "method"], sort=False)["test"]
    spread = " ± " + digits(groups.std(), 1)
    cells = (digits(groups.mean(), 1) + spread.where(groups.count() > 1, "")).unstack("method")
    cells = cells[list(dict.fromkeys(found["method"]))]
    by_seed = found.pivot(index=["part", "level", "seed"], columns="method", values="test")
    adds = {}
    for place, scores in by_seed.groupby(["part", "level"], sort=False):
        difference = paired(list(scores["lds"]), list(scores[CONTROL])).difference
        adds[place] = f"{difference.mean:.1f} ± {difference.half_width:.1f}"
    cells["lds less gcn (train+val) (± 95 %)"] = pd.Series(adds)
    cells = cells.reset_index()
    return as_markdown(cells, right=list(cells.columns[2:]))


def draw(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the test accuracy of every method against the damage."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    found = pd.DataFrame(runs)
    parts = [part for part in LEVELS if part in set(found["part"])]
    if not parts:
        return
    figure, axes = plt.subplots(1, len(parts), figsize=(3.6 * len(parts), 3.4), sharey=True, squeeze=False)
    for axis, part in zip(axes[0], parts, strict=True):
        for method in METHODS:
            here = found[(found["part"] == part) & (found["method"] == method)]
            groups = here.groupby("level")["test"]
            levels, mean, std = list(groups.groups), groups.mean(), groups.std().fillna(0)
            line = axis.plot(levels, mean, marker="o", markersize=3, label=method)[0]
            axis.fill_between(levels, mean - std, mean + std, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.set_xlabel(AXES[part])
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("test accuracy, %")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=160)
    plt.close(figure)


def main() -> None:
    parser = parser_of(__doc__, "one level, two seeds, one outer epoch", 2)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="what to run")
    parser.add_argument("--files", type=Path, help="folder of the heterophilous data sets")
    options = parser.parse_args()
    if "heterophilous" in options.part and options.files is None:
        parser.error("the part heterophilous needs --files, the folder of texas.npz, …; or leave it out by --part")
    out = folder_of(options, "robustness")
    runs = run_pieces(
        out / "runs.jsonl", pieces(options.part, quick=options.quick, files=options.files), options.jobs, "run"
    )
    needed = "--files FOLDER" if "heterophilous" in options.part else f"--part {' '.join(options.part)}"
    came = provenance("robustness", runs, quick=options.quick, needed=needed)
    columns = ["part", "level", "method", "seed", "es", "test", "seconds"]
    write(runs, columns, markdown(runs) + came, out)
    draw(runs, out / "picture.png")


if __name__ == "__main__":
    main()
