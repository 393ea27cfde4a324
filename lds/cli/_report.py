"""`lds report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from lds.cli._parser import Parser
from lds.errors import InputError


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
    parser.add_argument("--force", action="store_true", help="replace the file of --out where it is there")
    commands.add_subcommand("report", parser)


def run(options: Namespace) -> int:
    """Write the page, print its path, return the exit code."""
    from lds.report import write_report

    folders = [Path(folder) for folder in options.folders]
    if options.out is None and len(folders) > 1:
        raise InputError(f"--out is needed for a page on {len(folders)} folders; name the file, e.g. report.html")
    out = folders[0] / "report.html" if options.out is None else Path(options.out)
    # The page in the folder is ours to write anew.
    force = options.force or options.out is None
    write_report(folders, out, node=options.node, data_root=options.data_root, force=force)
    print(f"report {out}")
    return 0
