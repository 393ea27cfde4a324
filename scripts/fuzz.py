"""Damage every kind of file that lds reads, and look at what comes out: a documented error, or a defect.

python scripts/fuzz.py --cases 2000 --seed 1
python scripts/fuzz.py --targets own-npz disk --first 0 --cases 300
"""

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.fuzz.runner import run
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--cases", type=int, default=2000, help="cases of each target")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0, help="seed of the damage")
    parser.add_argument("--json", action="store_true", help="print a line of JSON a target")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = 0
    for name in options.targets:
        report = run(TARGETS[name], range(options.first, options.first + options.cases), options.seed)
        found += len(report.defects)
        if options.json:
            print(json.dumps({"target": name, **vars(report)}), flush=True)
            continue
        counts = ", ".join(f"{outcome} {count}" for outcome, count in report.outcomes.most_common())
        total = report.outcomes.total()
        print(f"{name}: {total} cases, {report.seconds:.0f} s, {len(report.defects)} defects; {counts}", flush=True)
        for defect in report.defects:
            print(f"  {defect}", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
