"""`lds export`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import Namespace

from lds.cli._parser import Parser
from lds.errors import InputError, LDSError
from lds.run._reader import read_fitted

if TYPE_CHECKING:
    from torch import Tensor


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = Parser(
        "export",
        "RUN",
        description="Write the graph that a run learned, with probabilities as weights: the most probable edges, as "
        "many as θ expects, or edges above a threshold, the strongest edges of each node, or a sample of weight 1. All "
        "of θ counts, also what graph.npz leaves out. Nodes have the names that the data gave them, or are numbered "
        "from 0, in the order of its lines.",
    )
    parser.add_argument("folder", type=str, metavar="RUN", help="folder of a run that has ended")
    parser.add_argument("--out", type=str, default=None, help="the file; RUN/learned_graph.FORMAT when not given")
    parser.add_argument("--format", type=Literal["pt", "npz", "graphml", "csv"], default="pt", help="kind of the file")
    parser.add_argument("--threshold", type=float, default=None, help="keep edges with a probability above it")
    parser.add_argument("--top-k", type=int, default=None, help="keep the k most probable edges of each node")
    parser.add_argument("--sample", action="store_true", help="draw a graph A ~ Bernoulli(θ)")
    parser.add_argument("--seed", type=int, default=None, help="seed of the sample; 0 when not given")
    parser.add_argument(
        "--data-root", type=str, default=None, help="folder of the data sets, to tell new edges from initial ones"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    commands.add_subcommand("export", parser)


def run(options: Namespace) -> int:
    """Write the file, print its path, return the exit code."""
    from lds.learner import extract
    from lds.run import export_graph, read_node_names, read_structure
    from lds.run._export import refuse_taken

    if options.seed is not None and not options.sample:
        raise InputError(f"--seed belongs to --sample, but --seed {options.seed} came without it; add or drop one")
    sample = (options.seed or 0) if options.sample else None
    folder = Path(options.folder)
    out = folder / f"learned_graph.{options.format}" if options.out is None else Path(options.out)
    refuse_taken(out, force=options.force)  # Before anything is read.
    graph = extract(read_structure(folder), options.threshold, top_k=options.top_k, sample=sample)
    if (names := read_node_names(folder, graph.num_nodes)) is not None:
        graph.node_names = names
    export_graph(graph, out, options.format, force=options.force)
    print(f"{_count(graph.edge_index, graph.num_nodes, folder, options.data_root)}; file {out}")
    return 0


def _count(edge_index: Tensor, num_nodes: int, folder: Path, data_root: str | None) -> str:
    """Return how many edges there are, and how many of them are new."""
    import torch

    from lds.run import load_data
    from lds.run._learner import initial_pairs

    pairs = edge_index[:, edge_index[0] < edge_index[1]]
    text = f"{pairs.shape[1]:,} edges of {num_nodes:,} nodes"
    config = read_fitted(folder)
    config = config if data_root is None else replace(config, data_root=data_root)
    try:
        initial = initial_pairs(config, load_data(config))
    except LDSError as error:  # The graph itself needs no data.
        return f"{text} (which are new is not known: {error})"
    kept = int(torch.isin(*(ends[0] * num_nodes + ends[1] for ends in (pairs, initial))).sum())
    return f"{text}: {kept:,} of the initial {initial.shape[1]:,}, {pairs.shape[1] - kept:,} new"
