"""`lds data list`, `lds data fetch` and `lds data verify`."""

from __future__ import annotations

import sys
from typing import Any

from jsonargparse import Namespace

from lds.cli._parser import Parser


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = Parser("data", "list|fetch|verify")
    # Before its own actions: jsonargparse takes levels from the top down.
    commands.add_subcommand("data", parser)
    actions = parser.add_subcommands()
    action = Parser(
        description="Print all data sets, and which are here.",
        usage="lds data list [options]",
        epilog="example: lds data list",
    )
    action.add_argument("--data-root", type=str, default=None, help="folder of the data sets")
    actions.add_subcommand("list", action)
    for name, text in (
        ("fetch", "Download a data set and check it."),
        ("verify", "Check the raw files of a data set."),
    ):
        action = Parser(
            description=text, usage=f"lds data {name} NAME [options]", epilog=f"example: lds data {name} cora"
        )
        action.add_argument("name", type=str, help="name of the data set")
        action.add_argument("--data-root", type=str, default=None, help="folder of the data sets")
        actions.add_subcommand(name, action)


def run(options: Namespace) -> int:
    """List, fetch or verify; return the exit code."""
    from lds.data import fetch, listing, verify

    if options.subcommand == "list":
        for entry in listing(options.list.data_root):
            sizes = (
                f"{entry.nodes:>6} nodes {entry.edges:>7} edges {entry.features:>5} features {entry.classes:>2} classes"
            )
            homophily = "-" if entry.homophily is None else f"{entry.homophily:.2f}"
            splits = f"{entry.splits:>2} splits" if entry.splits != 1 else " 1 split "
            here = "here" if entry.present else "not here"
            print(
                f"{entry.name:<14} {sizes}  homophily {homophily:<4} {splits}  {here:<8}  {entry.origin}; "
                f"{entry.licence}"
            )
        return 0
    chosen = options[options.subcommand]
    outcome = (fetch if options.subcommand == "fetch" else verify)(chosen.name, chosen.data_root)
    print(outcome.message, file=sys.stdout if outcome.ok else sys.stderr)
    return 0 if outcome.ok else 2
