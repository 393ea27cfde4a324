"""`lds ablate` that is killed and started again ends as one that is left alone."""

import csv
import os
import random
import signal
import time

from tests.sweep.processes import Command, linux

pytestmark = linux
OPTIONS = ["ablate", "--dataset", "wine", "--method", "knn-lds", "--max-epochs", "1", "--samples", "2", "--k", "3"]
OPTIONS += ["--hidden", "2", "--interval", "20", "--fidelity-steps", "4", "--progress", "false"]
OPTIONS += ["--horizons", "0", "5", "--seeds", "1", "2"]
MEASURED = ("seconds", "peak_rss_mb")


def tables(folder):
    """The tables without what the clock and the system say."""
    with (folder / "ablation.csv").open(newline="") as file:
        rows = [{name: x for name, x in row.items() if name not in MEASURED} for row in csv.DictReader(file)]
    return rows, (folder / "fidelity.csv").read_bytes()


def test_killed_again_and_again(tmp_path):
    """LDS_KILLS=10 for the long drill."""
    kills = int(os.environ.get("LDS_KILLS", "2"))
    alone = Command(*OPTIONS, "--out", tmp_path / "alone")
    assert alone.finish()[0] == 0
    moments, killed = random.Random(3), 0
    folder = tmp_path / "killed"
    for kill in range(kills):
        command = Command(*OPTIONS, "--out", folder)
        # In turn: among the runs, and among the trajectories.
        sign = folder / ("ablation.csv" if kill % 2 else "sweep/results.jsonl")
        command.wait_for(lambda sign=sign, command=command: sign.exists() or command.process.poll() is not None)
        time.sleep(moments.uniform(0, 0.5))
        command.process.send_signal(signal.SIGKILL)
        killed += command.finish()[0] == -signal.SIGKILL
        assert command.all_gone()
    assert killed
    code, _, error = Command(*OPTIONS, "--out", folder).finish()
    assert (code, error) == (0, "")
    assert tables(folder) == tables(tmp_path / "alone")
