"""How long imports take, in fresh processes, against that of torch_geometric.

    python scripts/benchmarks/imports.py

The ratio is that within a round. A round ahead of those that count fills the caches of the file system.
"""

from __future__ import annotations

import argparse

from harness import Row, medians, run, timed

REFERENCE = "import torch_geometric"
STATEMENTS = (
    REFERENCE,
    "import lds",
    "import lds.hypergrad",
    "from lds import StructureLearner",
    "from lds import LDSClassifier",
    "from lds.cli import _train",
)


def measure(statement: str) -> Row:
    return timed(lambda: exec(statement, {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="processes of each statement")
    rounds = parser.parse_args().rounds
    rows = run(__file__, [{"statement": statement} for statement in STATEMENTS], rounds + 1)
    table = medians([r for r in rows if r["round"]], ["statement"], pair=("statement", REFERENCE))
    print(table[["statement", "rounds", "seconds", "ratio"]].to_string(index=False, float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
