"""What was tried beside plain learners on Cora with a quarter of its edges, and is kept only where it helps.

    python experiments/tried.py [--quick] [--plain NAME ...] [--seeds 5] [--jobs 2]

Three plain learners, each with variants: APPNP on the kept edges with the labels that LDS learns from; LDS; and LDS on
candidates, the given edges and 20 nearest neighbours of each node. A variant is kept where, over five seeds, its
early-stopping accuracy is higher than that of its plain learner by more than a standard error of the paired difference.
Variants that were dropped from the package for it stay in the table: dropped.jsonl has what commit 0310882 measured.
Finished runs are not repeated, so the command can be stopped and started again; --plain names the learners to run, and
the table has all runs that there are. Writes runs.jsonl, table.csv and table.md to experiments/results/tried/. Needs
the raw files of Cora, see `lds data fetch`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from pieces import folder_of, parser_of, run_pieces
from tables import HERE, Row, as_markdown, digits, frame, plus_minus, provenance, write
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GAE, GCNConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.nn.models import CorrectAndSmooth
from torch_geometric.utils import to_undirected

from lds._statistics import mean, paired
from lds.data import load
from lds.graph import CandidatePairs, KNNGraph, LearnedPairs
from lds.learner import Denoising, FixedGraphLearner, StructureLearner
from lds.nn import APPNP
from lds.run._environment import versions
from lds.sweep import Job

RETAIN = 0.25
SEEDS = 5
COLUMNS = (
    *("plain", "variant", "seeds", "es", "test", "es_difference", "es_half_width", "kept"),
    *("test_difference", "test_half_width"),
)
ROUNDING = 1e-9  # Of accuracies, of which the difference may be a standard error.
PREDICTED = 5  # Edges of a node by a link predictor.
NEAREST = 10

APPNP_ON_EDGES = FixedGraphLearner(model=partial(APPNP, hidden_channels=64), train_on="train+val")
# θ moves every 20 steps in place of 5, which takes a third of the time.
LDS = StructureLearner(interval=20, horizon=5, patience=8)


def plainly(data: Data, learner: FixedGraphLearner | StructureLearner, seed: int) -> Tensor:
    """Return the logits of a learner."""
    return learner.fit(data, seed=seed).logits


def propagated(data: Data, learner: FixedGraphLearner | StructureLearner, seed: int) -> Tensor:
    """Return logits after label propagation over the graph that the learner has used, or learned.

    Huang et al., `Combining Label Propagation and Simple Models Out-performs Graph Neural Networks
    <https://arxiv.org/abs/2010.13993>`_ (ICLR 2021), the second of its two steps: predictions, and known labels in
    their place, are spread.
    """
    fit = learner.fit(data, seed=seed)
    graph = fit.graph()
    mask = data.train_mask | data.val_mask
    post = CorrectAndSmooth(num_correction_layers=0, correction_alpha=0.0, num_smoothing_layers=20, smoothing_alpha=0.5)
    edges = gcn_norm(graph.edge_index, graph.edge_weight, data.num_nodes, add_self_loops=False)
    spread: Tensor = post.smooth(fit.predict_proba(), data.y[mask], mask, *edges)
    return spread.clamp_min(1e-9).log()


def with_edges(
    further: Callable[[Data], Tensor], data: Data, learner: FixedGraphLearner | StructureLearner, seed: int
) -> Tensor:
    """Return the logits of a learner on the given edges and further ones."""
    found = torch.cat([data.edge_index, further(data)], 1)
    return replace(learner, graph=lambda _: found).fit(data, seed=seed).logits


class Encoder(nn.Module):
    """Two graph convolutions, as in variational graph autoencoders."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first, self.second = GCNConv(features, 64), GCNConv(64, 32)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return a vector for each node."""
        h = nn.functional.dropout(self.first(x, edge_index).relu(), 0.5, self.training)
        vectors: Tensor = self.second(h, edge_index)
        return vectors


def link_predicted(data: Data) -> Tensor:
    """Return the edges, `PREDICTED` a node, that a graph autoencoder finds most probable beyond the given ones.

    It learns to tell edges that it does not see, a third of the given ones in each step, from random pairs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GAE(Encoder(data.x.shape[1]))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        pairs = data.edge_index[:, data.edge_index[0] < data.edge_index[1]]
        for _ in range(200):
            seen = torch.rand(pairs.shape[1]) < 2 / 3
            optimizer.zero_grad()
            z = model.encode(data.x, to_undirected(pairs[:, seen]))
            loss = model.recon_loss(z, pairs[:, ~seen])
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        z = model.encode(data.x, data.edge_index)
        scores = z @ z.T
    scores[tuple(data.edge_index)] = -torch.inf
    scores.fill_diagonal_(-torch.inf)
    best = scores.topk(PREDICTED).indices
    return torch.stack([torch.arange(len(best)).repeat_interleave(PREDICTED), best.flatten()])


def on_candidates(score: Literal["logit", "metric"] | None, data: Data, learner: StructureLearner, seed: int) -> Tensor:
    """Return the logits of LDS on candidates, θ being a function of other variables where there is a score."""
    candidates = torch.cat([KNNGraph(20, "tfidf")(data), data.edge_index], 1)
    edges: Any = partial(CandidatePairs, candidates=candidates)
    if score is not None:
        edges = partial(LearnedPairs, candidates=candidates, x=data.x, seed=seed, score=score)
        learner = replace(learner, outer_lr=0.05)
    return replace(learner, edges=edges).fit(data, seed=seed).logits


# By plain learner and variant: what is run; the first variant is the plain learner itself.
Variants = Mapping[str, Mapping[str, tuple[Callable[..., Tensor], FixedGraphLearner | StructureLearner]]]
VARIANTS: Variants = {
    "APPNP (train+val)": {
        "plain": (plainly, APPNP_ON_EDGES),
        "label propagation over the graph": (propagated, APPNP_ON_EDGES),
        f"{NEAREST} nearest neighbours as edges": (partial(with_edges, KNNGraph(NEAREST, "tfidf")), APPNP_ON_EDGES),
        f"{PREDICTED} edges a node by a link predictor": (partial(with_edges, link_predicted), APPNP_ON_EDGES),
    },
    "LDS": {
        "plain": (plainly, LDS),
        "label propagation over the learned graph": (propagated, LDS),
        "denoising 0.1": (plainly, replace(LDS, outer_term=Denoising(0.1))),
        "denoising 1": (plainly, replace(LDS, outer_term=Denoising(1.0))),
    },
    "LDS on candidates": {
        "plain": (partial(on_candidates, None), LDS),
        "logits, Adam": (partial(on_candidates, "logit"), LDS),
        "a learned metric, Adam": (partial(on_candidates, "metric"), LDS),
    },
}
# Measured by commit 0310882, which was the last to have them.
DROPPED: Mapping[str, Sequence[str]] = {
    "LDS on candidates": (
        *("Adam on θ", "low rank, Adam", "an MLP, Adam"),
        *("pull 0.001", "sparsity 0.0001", "smoothness 0.0001"),
    )
}


def run(plain: str, variant: str, seed: int, max_epochs: int | None) -> dict[str, Any]:
    """Return what one variant scores, in percent."""
    data = load("cora", retain=RETAIN, seed=seed)
    function, learner = VARIANTS[plain][variant]
    if isinstance(learner, StructureLearner):
        learner = replace(learner, max_epochs=max_epochs)
    began = time.perf_counter()
    right = (function(data, learner, seed).argmax(1) == data.y).double()
    scores = {split: 100 * float(right[data[f"{split}_mask"]].mean()) for split in ("es", "test")}
    about = {"plain": plain, "variant": variant, "seed": seed, "versions": versions()}
    return about | scores | {"seconds": time.perf_counter() - began}


def make_rows(runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return a row for each variant, compared with its plain learner seed by seed."""
    rows = []
    for plain, variants in VARIANTS.items():
        base = {one["seed"]: one for one in runs if (one["plain"], one["variant"]) == (plain, "plain")}
        for variant in (*variants, *DROPPED.get(plain, ())):
            ours = [one for one in runs if (one["plain"], one["variant"]) == (plain, variant)]
            if not ours:
                continue
            row: Row = {"plain": plain, "variant": variant, "seeds": len(ours)}
            for split in ("es", "test"):
                row[split] = mean([one[split] for one in ours]).mean
                if variant == "plain":
                    continue
                plainly = [base[one["seed"]][split] for one in ours]
                difference = paired([one[split] for one in ours], plainly).difference
                row |= {f"{split}_difference": difference.mean, f"{split}_half_width": difference.half_width}
                if split == "es" and len(ours) >= SEEDS:
                    error = difference.std / len(ours) ** 0.5
                    row["kept"] = "yes" if difference.mean > error * (1 + ROUNDING) else "no"
            rows.append(row)
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """Return the table for people."""
    found = frame(rows, COLUMNS)
    shown = found[["plain", "variant", "seeds"]].assign(
        **{
            "early stopping, %": digits(found["es"], 1),
            "less plain (± 95 %)": plus_minus(found, "es_difference", "es_half_width"),
            "kept": found["kept"],
            "test, %": digits(found["test"], 1),
            "test less plain (± 95 %)": plus_minus(found, "test_difference", "test_half_width"),
        }
    )
    return as_markdown(shown)


def main() -> None:
    parser = parser_of(__doc__, "two seeds, one outer epoch", 2)
    parser.add_argument(
        "--plain", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="the plain learners to vary"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds of each variant, at least five")
    options = parser.parse_args()
    if options.seeds < SEEDS:
        parser.error(f"--seeds must be at least {SEEDS}, which the rule needs, but {options.seeds} came")
    out = folder_of(options, "tried")
    max_epochs = 1 if options.quick else None
    pieces = [
        Job(f"{plain}, {variant}, seed {seed}", run, (plain, variant, seed, max_epochs))
        for plain in options.plain
        for variant in VARIANTS[plain]
        for seed in range(2 if options.quick else options.seeds)
    ]
    path = out / "runs.jsonl"
    run_pieces(path, pieces, options.jobs, "run")
    # Those of other learners, and of more seeds, among them.
    files = [path] if options.quick else [path, HERE / "results" / "tried" / "dropped.jsonl"]
    runs = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    rows = make_rows(runs)
    write(rows, COLUMNS, markdown(rows) + provenance("tried", runs, quick=options.quick), out)


if __name__ == "__main__":
    main()
