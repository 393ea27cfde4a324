"""Work in pieces that are kept as they come, so that a script goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lds.sweep import Job, ProcessEngine


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
