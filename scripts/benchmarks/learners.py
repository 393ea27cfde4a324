"""Structure learners of OpenGSL on Cora beside ours: CPU time and peak memory of training, one seed.

    pip install --no-deps opengsl==0.0.55 dgl==1.1.3
    pip install pyro-ppl==1.9.1 ruamel.yaml numba pandas requests psutil networkx
    python scripts/benchmarks/learners.py              # five minutes; writes experiments/results/learners.json
    python scripts/benchmarks/learners.py --cases lds  # measures these anew, keeps the others
    python scripts/benchmarks/learners.py --cases "opengsl grcn" --grcn-epochs 300    # to its end: half an hour or more

Every case runs in a fresh process on one thread, cut short: GRCN after 10 epochs and IDGL after two, with the package's
own settings for Cora, lds after three outer epochs. OpenGSL wants a GPU and a torch of 2022, so four things are set
from outside, and none of its code is changed:

- the device, which it fixes as "cuda", is the CPU;
- `norm` of a model is None where the settings say `flag: false`, which this version takes for true;
- the settings are read here: its own reader needs nni and a function that ruamel.yaml no longer has;
- an empty module stands in for torch_sparse, which only NodeFormer and CoGSL use and which would have to be compiled.

Two packages are not what pip would pick: pyro-ppl 1.8.0 wants torch 1, and dgl 2.1.0 does not import with torch 2.13.
Needs the Cora files, see `lds data fetch cora`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

CASES = ("opengsl grcn", "opengsl idgl", "lds")
PACKAGES = ("opengsl", "dgl", "pyro-ppl", "torch_geometric", "lds-gnn")
GRCN_EPOCHS, IDGL_EPOCHS, OUTER_EPOCHS = 10, 2, 3


def opengsl(method: str, epochs: int, folder: Path) -> dict[str, Any]:
    """Train one method of OpenGSL with the package's settings for Cora, seed 0, for some epochs."""
    import torch
    import torch_geometric  # noqa: F401  # Looks for torch_sparse, too: ahead of the stand-in.
    from ruamel.yaml import YAML

    from lds.data.registry import data_root

    stand_in = ModuleType("torch_sparse")
    stand_in.SparseTensor = stand_in.matmul = None
    sys.modules["torch_sparse"] = stand_in
    import opengsl as package
    from opengsl.utils.utils import set_seed

    for owner in (package.data.Dataset, package.method.Solver):
        owner.device = property(lambda _: torch.device("cpu"), lambda _, value: None)
    settings = Path(package.__file__).parent / "config" / method / f"{method}_cora.yaml"
    conf = argparse.Namespace(**YAML(typ="safe").load(settings))
    if conf.model["norm"] and not conf.model["norm"]["flag"]:
        conf.model["norm"] = None
    length = "n_epochs" if "n_epochs" in conf.training else "max_epochs"
    of = conf.training[length]
    conf.training[length] = epochs

    shutil.copytree(data_root() / "planetoid" / "Cora" / "raw", folder / "Cora" / "raw")
    data = package.data.Dataset("cora", feat_norm=conf.dataset["feat_norm"], path=str(folder))
    set_seed(0)
    began, cpu = time.perf_counter(), time.process_time()
    result, _ = getattr(package.method, f"{method.upper()}Solver")(conf, data).run_exp(split=0, debug=True)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    found = {"steps": epochs, "of": of, "seconds": seconds, "cpu": cpu}
    return {**found, "test_accuracy": float(result["test"]), "val_accuracy": float(result["valid"])}


def lds(folder: Path) -> dict[str, Any]:
    """Train ours from the command line with its defaults, seed 0."""
    from lds.cli import main

    command = ["train", "--dataset", "cora", "--method", "lds", "--max-epochs", str(OUTER_EPOCHS), "--seed", "0"]
    began, cpu = time.perf_counter(), time.process_time()
    if main([*command, "--out", str(folder / "run")]):
        raise RuntimeError(f"lds {' '.join(command)} failed")
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    result = json.loads((folder / "run" / "result.json").read_text())
    found = {"steps": result["outer_steps"], "outer_epochs": result["outer_epochs"], "seconds": seconds, "cpu": cpu}
    return {**found, "test_accuracy": result["test_accuracy"], "val_accuracy": result["val_accuracy"]}


def measure(case: str, grcn_epochs: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        if case == "lds":
            found = lds(Path(folder))
        else:
            method = case.split()[1]
            found = opengsl(method, {"grcn": grcn_epochs, "idgl": IDGL_EPOCHS}[method], Path(folder))
    return {"case": case, **found, "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--grcn-epochs", type=int, default=GRCN_EPOCHS, help="300 are all that its settings ask for")
    parser.add_argument("--out", type=Path, default=Path("experiments/results/learners.json"))
    parser.add_argument("--measure", metavar="CASE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.grcn_epochs)))
        return

    old = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    rows = {row["case"]: row for row in old}
    for case in options.cases:
        command = [sys.executable, "-W", "ignore", __file__, "--measure", case]
        command += ["--grcn-epochs", str(options.grcn_epochs)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        rows[case] = json.loads(done.stdout)
        cpu, step, peak = rows[case]["cpu"], rows[case]["cpu"] / rows[case]["steps"], rows[case]["peak_rss_mb"]
        print(f"{case:<12} {cpu:7.1f} s  {step:7.2f} s a step  {peak:6.0f} MiB", flush=True)
    from cases import machine

    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    report = {"machine": machine(), "threads": 1, "packages": packages, "rows": [rows[c] for c in CASES if c in rows]}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
