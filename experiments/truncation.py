"""What a shorter horizon costs and saves: LDS on Cora with a quarter of its edges, horizons 0, 1, 5, 10 and 20.

    python experiments/truncation.py [--quick] [--jobs 2]

Runs `lds ablate` as truncation.yaml says; finished runs are not repeated. Writes ablation.csv, fidelity.csv and
report.html to experiments/results/truncation/. Needs the raw files of Cora, see `lds data fetch`.
"""

import argparse
import sys
from pathlib import Path

from lds.cli import main

HERE = Path(__file__).resolve().parent
QUICK = ["--seeds", "0", "--max-epochs", "1", "--fidelity-steps", "20"]


def arguments(*, quick: bool, jobs: int, out: Path | None = None) -> list[str]:
    """Return the command line of `lds`."""
    out = out or HERE / "results" / ("truncation-quick" if quick else "truncation")
    command = ["ablate", "--config", str(HERE / "truncation.yaml"), "--jobs", str(jobs), "--out", str(out)]
    return command + (QUICK if quick else [])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and one outer epoch at most")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results")
    options = parser.parse_args()
    sys.exit(main(arguments(quick=options.quick, jobs=options.jobs, out=options.out)))
