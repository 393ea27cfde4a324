"""How long imports take, in fresh processes, against that of torch_geometric.

    python scripts/benchmarks/imports.py

Rounds take all statements in turn, so that a busy machine slows all of them alike; the first round, which fills the
caches of the file system, does not count.
"""

import argparse
import statistics
import subprocess
import sys
import time

REFERENCE = "import torch_geometric"
STATEMENTS = (
    REFERENCE,
    "import lds",
    "import lds.hypergrad",
    "from lds import StructureLearner",
    "from lds import LDSClassifier",
    "from lds.cli import _train",
)


def seconds(statement):
    """The wall time of a new interpreter that does this."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="processes of each statement")
    rounds = parser.parse_args().rounds
    times = {statement: [] for statement in STATEMENTS}
    for turn in range(rounds + 1):
        for statement in STATEMENTS:
            found = seconds(statement)
            if turn:
                times[statement].append(found)
    medians = {statement: statistics.median(found) for statement, found in times.items()}
    print(f"{'median of ' + str(rounds):34}  seconds  ratio to torch_geometric")
    for statement, median in medians.items():
        print(f"{statement:34}  {median:7.2f}  {median / medians[REFERENCE]:.2f}")


if __name__ == "__main__":
    main()
