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
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import RESULTS, Row, run, write

CASES = ("opengsl grcn", "opengsl idgl", "lds")
PACKAGES = ("opengsl", "dgl", "pyro-ppl")
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


def measure(case: str, grcn_epochs: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        if case == "lds":
            return lds(Path(folder))
        method = case.split()[1]
        return opengsl(method, {"grcn": grcn_epochs, "idgl": IDGL_EPOCHS}[method], Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--grcn-epochs", type=int, default=GRCN_EPOCHS, help="300 are all that its settings ask for")
    parser.add_argument("--out", type=Path, default=RESULTS / "learners.json")
    options = parser.parse_args()
    import pandas as pd

    os.environ["PYTHONWARNINGS"] = "ignore"
    specs = [{"case": case, "grcn_epochs": options.grcn_epochs} for case in options.cases]
    old = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    found = {row["case"]: row for row in [*old, *run(__file__, specs, rounds=1)]}
    rows = [found[case] for case in CASES if case in found]
    table = pd.DataFrame(rows)
    table["a step"] = table["cpu"] / table["steps"]
    print(table[["case", "steps", "cpu", "a step", "peak_rss_mb"]].to_string(index=False, float_format="{:.2f}".format))
    write(options.out, *PACKAGES, threads=1, rows=rows)


if __name__ == "__main__":
    main()
