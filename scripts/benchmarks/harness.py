"""How everything here is measured: each time in a fresh process, round after round, with the alternatives in turn.

A benchmark has a function `measure(**spec)` that returns numbers. `run` calls it in a fresh process for each spec of
each round, and adds the peak memory of that process. A round goes over all specs before the next one begins, so a
machine that gets slower does so for all of them; `medians` compares within rounds. `write` writes the result down, with
the command, the versions and the machine.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PACKAGES = ("torch", "numpy", "scipy", "torch_geometric", "torchopt", "higher", "betty-ml", "boat-torch", "bergson")
TIMEOUT = 3600
Row = dict[str, Any]


def fresh(script: str, spec: Row, *, threads: int = 1, tree: Path = ROOT) -> Row:
    """Return what `measure(**spec)` of a script returns in a fresh process, with the `lds` of a tree.

    Raises:
        RuntimeError: it failed, or took over an hour.
    """
    environment = {**os.environ, **dict.fromkeys(THREADS, str(threads)), "PYTHONPATH": str(tree)}
    command = [sys.executable, __file__, Path(script).stem, json.dumps(spec)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{spec} took more than {TIMEOUT} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(f"{spec}: {lines[-1] if lines else f'ended by signal {-done.returncode}'}")
    found: Row = json.loads(done.stdout)
    return found


def run(
    script: str,
    specs: Sequence[Row],
    rounds: int,
    *,
    threads: int = 1,
    trees: dict[str, Path] | None = None,
    known: Sequence[Row] = (),
    keep: Callable[[list[Row]], None] | None = None,
) -> list[Row]:
    """Measure all specs, `rounds` times, and return a row for each: the spec, the round, and what was measured.

    Args:
        script: the `__file__` of the benchmark.
        specs: arguments of `measure`.
        rounds: how often to measure each.
        threads: of each process.
        trees: folders with the `lds` to measure, by the names that rows give them as `tree`; this one when None.
        known: rows of an earlier run that are not measured again.
        keep: called with all rows after each measurement; with it, a spec that fails gives a row with `failed`, and one
            that is `absent` is left out of later rounds.
    """
    from tqdm import tqdm

    rows = list(known)
    planned = [spec | {"tree": tree} if trees else spec for spec in specs for tree in trees or [""]]
    with tqdm(total=rounds * len(planned), disable=None) as progress:
        for number in range(rounds):
            for spec in planned:
                progress.set_postfix_str(", ".join(map(str, spec.values())))
                absent = any("absent" in row and row["case"] == spec["case"] for row in rows)
                here = spec | {"round": number}
                if not absent and not any(here.items() <= row.items() for row in rows):
                    arguments = {name: value for name, value in spec.items() if name != "tree"}
                    try:
                        tree = trees[spec["tree"]] if trees else ROOT
                        rows.append(here | fresh(script, arguments, threads=threads, tree=tree))
                    except RuntimeError as error:
                        if keep is None:
                            raise
                        rows.append(here | {"failed": str(error)})
                    if keep is not None:
                        keep(rows)
                progress.update()
    return rows


def medians(rows: Sequence[Row], by: Sequence[str], *, pair: tuple[str, str] | None = None) -> pd.DataFrame:
    """Return the medians over rounds of all that was measured, a row for each value of the columns `by`.

    With `pair`, a column of `by` and a value there, `ratio` is the median of seconds over those of that value in the
    same round.
    """
    import pandas as pd

    table = pd.DataFrame([row for row in rows if not {"failed", "absent"} & row.keys()])
    if pair is not None:
        column, reference = pair
        on = [*(name for name in by if name != column), "round"]
        paired = table[table[column] == reference][[*on, "seconds"]]
        table = table.merge(paired, on=on, suffixes=("", "_paired"))
        table["ratio"] = table["seconds"] / table.pop("seconds_paired")
    groups = table.groupby(list(by), sort=False)
    found = groups.median(numeric_only=True).drop(columns="round")
    found.insert(0, "rounds", groups.size())
    return found.reset_index()


def timed(function: Callable[[], Any], repeats: int = 1, warm_up: int = 0) -> Row:
    """Return median wall and CPU seconds of a call, and those of the fastest one."""
    times = []
    for turn in range(warm_up + repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        if turn >= warm_up:
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
    walls, cpus = zip(*times, strict=True)
    return {"seconds": statistics.median(walls), "cpu": statistics.median(cpus), "fastest": min(walls)}


# What follows the name of a case that takes the path of torch where there is a compiled one.
TORCH = ", torch"


def take_kernel(case: str) -> str:
    """Have θ on all pairs take the path that a case names, or that of the installation; return the rest of the name."""
    if case.endswith(TORCH):
        os.environ["LDS_KERNEL"] = "torch"
    return case.removesuffix(TORCH)


def peak_mib() -> float:
    """Return the peak memory of this process."""
    # Not ru_maxrss: a process begins with that of the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0]) / 1024


def fresh_peak() -> float:
    """Return freed memory to the system; return what is in use, from which on `peak_mib` counts anew."""
    gc.collect()
    with suppress(AttributeError):  # Of glibc alone.
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mib()


def machine() -> str:
    """Return processor, number of cores, and version of torch."""
    models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    version = importlib.metadata.version("torch")
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, torch {version}"


def versions(*more: str) -> dict[str, str]:
    """Return the versions of Python, lds, and the packages that are installed."""
    from lds import __version__

    found = {"python": platform.python_version(), "lds": __version__}
    for name in (*PACKAGES, *more):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def write(path: Path, *packages: str, **report: Any) -> None:
    """Write a result, with the command, the versions and the machine; a reader sees the old file or the new one."""
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    command = shlex.join(["python", str(shown), *sys.argv[1:]])
    head = {"command": command, "machine": machine(), "versions": versions(*packages)}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(head | report, indent=1, ensure_ascii=False) + "\n")
    draft.replace(path)


def main() -> None:
    """Measure one spec here: `fresh` starts this."""
    name, spec = sys.argv[1:]
    with redirect_stdout(sys.stderr):
        found = importlib.import_module(name).measure(**json.loads(spec))
    print(json.dumps({"peak_rss_mb": peak_mib(), **found}))


if __name__ == "__main__":
    main()
