"""The commands, for those who only ask what there is. Imports nothing."""

# What each command does, and an example; a module lds.cli._<command> has the rest.
COMMANDS = {
    "train": (
        "Train a model, and learn its graph, over one or more seeds.",
        "lds train --dataset wine --method knn-lds --seeds 1 2 3",
    ),
    "export": (
        "Write the graph that a run learned for other programs.",
        "lds export runs/wine-knn-lds-1 --format graphml",
    ),
    "report": (
        "Write one HTML page on runs, sweeps and ablations.",
        "lds report runs/wine-knn-lds-1 runs/wine-knn-lds-2 --out wine.html",
    ),
    "sweep": (
        "Run grids of settings over seeds, in parallel; killed, it goes on.",
        "lds sweep experiments/missing_edges.yaml --jobs 2",
    ),
    "ablate": (
        "Compare horizons: accuracy, time, memory, and the truncated hypergradient.",
        "lds ablate --dataset cora --retain 0.25 --horizons 0 1 5 10 20 --seeds 1 2 3",
    ),
    "data": (
        "List, fetch or verify data sets.",
        "lds data list",
    ),
}  # fmt: skip
SHELLS = ("bash", "zsh", "tcsh")
