"""Print resident memory and open files after every tenth outer step of structure learning.

python scripts/leaks.py --dataset cora --steps 100
"""

import argparse
import ctypes
import gc
import os
from pathlib import Path

import torch

from lds.data import load
from lds.graph import GivenGraph, KNNGraph
from lds.learner import Callback, StepRecord, StructureLearner


class EnoughError(Exception):
    """The last step that was asked for."""


class Watch(Callback):
    """Prints a line every tenth step."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def on_step(self, record: StepRecord) -> None:
        """Print, and stop after the last step."""
        if record.outer_step % 10 == 0:
            gc.collect()
            # What was freed goes back to the system: what is left is held.
            ctypes.CDLL(None).malloc_trim(0)
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident = pages * os.sysconf("SC_PAGESIZE") / (1 << 20)
            print(f"{record.outer_step:>6} {resident:>10.1f} {len(os.listdir('/proc/self/fd')):>6}", flush=True)
        if record.outer_step >= self._steps:
            raise EnoughError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cora")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load(options.dataset)
    print(f"{'step':>6} {'MB':>10} {'files':>6}")
    try:
        graph = GivenGraph() if data.edge_index.numel() else KNNGraph(10, "cosine")
        StructureLearner(graph=graph).fit(data, callbacks=(Watch(options.steps),))
    except EnoughError:
        pass


if __name__ == "__main__":
    main()
