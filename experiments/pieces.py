"""Work in pieces that are kept as they come, so that a script goes on where it was stopped."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tables import HERE
from tqdm import tqdm

from lds.sweep import Job, ProcessEngine


def parser_of(text: str | None, quick: str, jobs: int) -> argparse.ArgumentParser:
    """Return what reads the options that all these scripts have: quick, jobs and out.

    Args:
        text: help text.
        quick: what the quick version is.
        jobs: pieces at a time, if nobody says otherwise.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--jobs", type=int, default=jobs, help="pieces of work at a time, one thread each")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results")
    return parser


def folder_of(options: argparse.Namespace, name: str) -> Path:
    """Return the folder of the results of an experiment."""
    out: Path = options.out or HERE / "results" / (f"{name}-quick" if options.quick else name)
    return out


def run_pieces(path: Path, pieces: Sequence[Job], jobs: int, unit: str) -> list[dict[str, Any]]:
    """Run the pieces that the file does not hold yet; return the results of all, in their order.

    Args:
        path: file of results, a line of JSON for each piece that is done, with its name as "piece".
        pieces: their functions return plain values by name.
        jobs: pieces at a time, one thread each.
        unit: what a piece is, for the progress bar.

    Raises:
        RuntimeError: a piece failed; those that were done are kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = path.read_text() if path.exists() else ""
    content = content[: content.rfind("\n") + 1]  # What follows was cut off.
    path.write_text(content)
    done = {result["piece"]: result for result in map(json.loads, content.splitlines())}
    waiting = [piece for piece in pieces if piece.name not in done]
    with path.open("a") as file:
        for piece, reply in tqdm(ProcessEngine(jobs).run(waiting), total=len(waiting), unit=unit, disable=None):
            if reply.error is not None:
                raise RuntimeError(f"{piece.name} failed: {reply.error.message}\n{reply.error.traceback}")
            done[piece.name] = {"piece": piece.name, **reply.result}
            file.write(json.dumps(done[piece.name]) + "\n")
            file.flush()
    return [done[piece.name] for piece in pieces]
