"""`lds report`."""

from __future__ import annotations

import sys
from typing import Any

from jsonargparse import Namespace

from lds.cli._parser import Parser


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = Parser(
        "report", "FOLDER …", description="Write one HTML page on runs, sweeps and ablations; it needs no network."
    )
    parser.add_argument("folders", nargs="+", type=str, metavar="FOLDER", help="a run, a sweep or an ablation")
    parser.add_argument("--out", type=str, default=None, help="the page; FOLDER/report.html for a single folder")
    parser.add_argument(
        "--node",
        type=str,
        default=None,
        help="node, by number or name, whose learned neighbourhood to show; chosen when not given",
    )
    parser.add_argument("--data-root", type=str, default=None, help="folder of the data sets")
    parser.add_argument(
        "--figures", type=str, default=None, help="folder that gets every figure as pdf, svg and png, too"
    )
    parser.add_argument(
        "--table",
        type=str,
        default=None,
        choices=["latex", "csv", "md"],
        help="print the scores as a table instead; a page is written only if --out names it",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace the files of --out and --figures where they are there"
    )
    commands.add_subcommand("report", parser)


def run(options: Namespace) -> int:
    """Write the page, print its path, return the exit code."""
    from lds.report import score_table, write_report

    if options.table is not None:
        print(score_table(options.folders, options.table), end="")
        if options.out is None and options.figures is None:
            return 0
    page = write_report(
        options.folders,
        options.out,
        node=options.node,
        data_root=options.data_root,
        figures=options.figures,
        force=options.force,
    )
    # A table on the standard output stays one.
    print(f"report {page}", file=sys.stdout if options.table is None else sys.stderr)
    return 0
