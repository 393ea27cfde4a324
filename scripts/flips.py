"""Flip single bits of the files of a run, a sweep and an ablation, and look whether anything differs in silence.

python scripts/flips.py --flips 200 --seed 0

Each flip is one bit of one file, drawn with the seed. What reads the file must refuse it, or give the same values.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.run.flips import FOLDERS, flip_all, make


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=200, help="flips of each file")
    parser.add_argument("--seed", type=int, default=0, help="seed of the flips")
    options = parser.parse_args()
    torch.set_num_threads(1)
    silent = 0
    with TemporaryDirectory() as name:
        make(Path(name))
        for folder in FOLDERS:
            for file, counts in flip_all(Path(name), folder, options.flips, options.seed):
                silent += counts["silent"]
                print(f"{folder}/{file}: " + ", ".join(f"{what} {count}" for what, count in counts.items()), flush=True)
    return 1 if silent else 0


if __name__ == "__main__":
    raise SystemExit(main())
