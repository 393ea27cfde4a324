"""The command line: `lds train` and `lds data`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from lds._version import __version__
from lds.errors import LDSError
from lds.run import TrainConfig, train


class _Parser(ArgumentParser):
    """A parser whose options have dashes and whose errors are one line."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        return super().add_argument(*(a.replace("_", "-") if a.startswith("--") else a for a in args), **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        print(f"lds: error: {' '.join(str(message).split())}", file=sys.stderr)
        raise SystemExit(2)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for bad input, 130 after an interrupt."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        if options.subcommand is None:
            parser.print_help()
            return 0
        command = {"train": _train, "data": _data}[options.subcommand]
        return command(options[options.subcommand])
    except LDSError as error:
        print(f"lds: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lds: interrupted", file=sys.stderr)
        return 130


def _parser() -> _Parser:
    parser = _Parser(prog="lds", description="Learn the graph structure of a graph network by hypergradients.")
    parser.add_argument("--version", action="version", version=f"lds {__version__}")
    commands = parser.add_subcommands(required=False)

    training = _Parser(description="Train one model and write a run folder.")
    training.add_argument("--config", action="config", help="YAML file with any of the options below")
    training.add_class_arguments(TrainConfig, as_group=False)
    training.add_argument("--out", type=str, required=True, help="folder of the run; must be new or empty")
    training.add_argument("--progress", type=bool, default=True, help="show a progress bar")
    commands.add_subcommand("train", training)

    data = _Parser(description="List, fetch or verify data sets.")
    commands.add_subcommand("data", data)
    actions = data.add_subcommands()
    action = _Parser(description="Print all data sets, and which are here.")
    action.add_argument("--data-root", type=str, default=None, help="folder of the data sets")
    actions.add_subcommand("list", action)
    for name, text in (
        ("fetch", "Download a data set and check it."),
        ("verify", "Check the raw files of a data set."),
    ):
        action = _Parser(description=text)
        action.add_argument("name", type=str, help="name of the data set")
        action.add_argument("--data-root", type=str, default=None, help="folder of the data sets")
        actions.add_subcommand(name, action)
    return parser


def _train(options: Namespace) -> int:
    values: dict[str, Any] = options.as_dict()
    values.pop("config")
    out, progress = Path(values.pop("out")), values.pop("progress")
    result = train(TrainConfig(**values), out, progress=progress)
    print(f"test accuracy {result['test_accuracy']:.4f} after {result['outer_epochs']} outer epochs; run folder {out}")
    return 0


def _data(options: Namespace) -> int:
    from lds.data import fetch, listing, verify

    if options.subcommand == "list":
        for entry in listing(options.list.data_root):
            sizes = (
                f"{entry.nodes:>6} nodes {entry.edges:>6} edges {entry.features:>5} features {entry.classes} classes"
            )
            print(f"{entry.name:<14} {sizes}  {'here' if entry.present else 'not here':<8}  {entry.origin}")
        return 0
    chosen = options[options.subcommand]
    outcome = (fetch if options.subcommand == "fetch" else verify)(chosen.name, chosen.data_root)
    print(outcome.message, file=sys.stdout if outcome.ok else sys.stderr)
    return 0 if outcome.ok else 2
