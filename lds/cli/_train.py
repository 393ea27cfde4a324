"""`lds train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from lds.cli._parser import Parser
from lds.run import TrainConfig, train


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = Parser(description="Train one model and write a run folder.")
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_class_arguments(TrainConfig, as_group=False)
    parser.add_argument("--out", type=str, required=True, help="folder of the run; must be new or empty")
    parser.add_argument("--progress", type=bool, default=True, help="show a progress bar")
    commands.add_subcommand("train", parser)


def run(options: Namespace) -> int:
    """Train, print the test accuracy, return the exit code."""
    values: dict[str, Any] = options.as_dict()
    values.pop("config")
    out, progress = Path(values.pop("out")), values.pop("progress")
    result = train(TrainConfig(**values), out, progress=progress)
    print(f"test accuracy {result['test_accuracy']:.4f} after {result['outer_epochs']} outer epochs; run folder {out}")
    return 0
