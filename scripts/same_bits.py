"""Compare the bits of this tree with those of another commit: hypergradients of a fixed set of problems, and two runs.

python scripts/same_bits.py HEAD~1
python scripts/same_bits.py v0.1 --only Disk

Each tree computes in a process of its own, by public names only, on one thread. A line a problem says whether its bits
are equal; the exit code is 1 where one differs. The other commit is checked out into a temporary folder.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

Parts = dict[str, Any]
Case = tuple[str, Callable[[Path], Parts]]

STEPS = 8


def cases() -> Iterator[Case]:
    """Return the name of each problem, and a function that solves it and returns what to compare, part by part."""
    yield from reverse_cases()
    yield from other_method_cases()
    yield from sweep_cases()
    yield from outer_variable_cases()
    yield from run_cases()


def reverse_cases() -> Iterator[Case]:
    """Reverse mode: updaters × memory policies × horizons × noise × how the trajectory begins × adaptive truncation."""
    import lds.hypergrad as h

    problem = Network()
    policies = {
        "KeepGraphs()": lambda updater, folder: None,
        "KeepGraphs(0)": lambda updater, folder: h.KeepGraphs(budget=0),
        "KeepGraphs(half)": lambda updater, folder: h.KeepGraphs(budget=problem.budget_for_half(updater)),
        "KeepStates()": lambda updater, folder: h.KeepStates(),
        "Checkpoint()": lambda updater, folder: h.Checkpoint(),
        "Checkpoint(3)": lambda updater, folder: h.Checkpoint(every=3),
        "Binomial(3)": lambda updater, folder: h.Binomial(snapshots=3),
        "Offload()": lambda updater, folder: h.Offload(),
        "Disk()": lambda updater, folder: h.Disk(folder),
    }
    grid = product(problem.updaters, policies, (None, 0, 1, 5), ("replay", "resample"), STARTS, (None, 2.0))
    for name, policy, horizon, noise, start, tol in grid:
        if start == "after" and policy == "Disk()":
            continue  # A trajectory on disk is not gone on from.
        label = f"Reverse, {name}, {policy}, horizon {horizon}, {noise}, {start}, tol {tol}"

        def solve(folder, updater=problem.updaters[name], make=policies[policy], h_=horizon, n=noise, s=start, t=tol):
            method = h.Reverse(horizon=h_, tol=t, memory=make(updater, folder), noise=n)
            return STARTS[s](problem, updater, method)

        yield label, solve


def from_params(problem: Any, updater: Any, method: Any) -> Parts:
    """Begin at w_0."""
    return result_parts(problem.hypergradient(updater, method))


def from_state(problem: Any, updater: Any, method: Any) -> Parts:
    """Begin at the final state of another trajectory."""
    state = problem.record(updater, horizon=0).final_state
    return result_parts(problem.hypergradient(updater, method, state=state))


def from_trajectory(problem: Any, updater: Any, method: Any) -> Parts:
    """Go on from another trajectory, whose steps are swept too, at the θ that they had."""
    first = problem.record(updater, steps=3, horizon=method.horizon, memory=method.memory)
    later = problem.moved()
    trajectory = later.record(updater, horizon=method.horizon, memory=method.memory, after=first)
    return result_parts(method.differentiate(trajectory, later.outer_objective))


STARTS = {"params": from_params, "state": from_state, "after": from_trajectory}


def other_method_cases() -> Iterator[Case]:
    """Forward mode, implicit differentiation by each solver, central differences."""
    import lds.hypergrad as h

    network, ridge = Network(), Ridge()
    for name in network.updaters:
        yield f"Forward, {name}", solver(network, name, h.Forward())
        yield f"FiniteDifference, {name}", solver(network, name, h.FiniteDifference())
    for solve_by in ("cg", "neumann", "fixed_point", "dense"):
        for name, steps in (("SGD", 300), ("SGD momentum", 300), ("SGD", 20)):
            yield f"Implicit, {solve_by}, {name}, {steps} steps", solver(ridge, name, h.Implicit(solve_by), steps)


def sweep_cases() -> Iterator[Case]:
    """What `sweep` yields at each depth, and the truncation curve."""
    import lds.hypergrad as h

    problem = Network()
    policies = {"KeepGraphs()": None, "KeepGraphs(0)": h.KeepGraphs(budget=0), "Checkpoint(3)": h.Checkpoint(every=3)}
    for name, policy, noise in product(problem.updaters, policies, ("replay", "resample")):

        def trajectory(updater=problem.updaters[name], memory=policies[policy]):
            return problem.record(updater, memory=memory)

        def swept(folder, trajectory=trajectory, noise=noise):
            return {
                f"t = {t}": (costate, grad)
                for t, costate, grad in h.sweep(trajectory(), problem.outer_objective, noise=noise)
            }

        def curve(folder, trajectory=trajectory, noise=noise):
            return vars(h.truncation_curve(trajectory(), problem.outer_objective, noise=noise))

        yield f"sweep, {name}, {policy}, {noise}", swept
        yield f"truncation_curve, {name}, {policy}, {noise}", curve


def outer_variable_cases() -> Iterator[Case]:
    """A derived outer variable, complex params, and nothing differentiable but the updater's learning rate."""
    import lds.hypergrad as h

    for problem in (DerivedRidge(), ComplexRidge()):
        for name, method in (
            ("Reverse()", h.Reverse()),
            ("Reverse(memory=Checkpoint())", h.Reverse(memory=h.Checkpoint())),
            ("Reverse(horizon=3)", h.Reverse(horizon=3)),
            ("Forward()", h.Forward()),
        ):
            for updater in problem.updaters:
                yield f"{type(problem).__name__}, {name}, {updater}", solver(problem, updater, method)


def run_cases() -> Iterator[Case]:
    """Runs of `lds train`: the learned graph, the tensors of the checkpoint, the accuracies."""
    for options in ("", "--noise resample --learn-inner-lr true --horizon 8"):
        command = f"--dataset wine --method knn-lds --max-epochs 2 --seed 0 {options}".strip()
        yield f"lds train {command}", lambda folder, command=command: run_parts(command.split(), folder / "run")


def run_parts(arguments: list[str], out: Path) -> Parts:
    """Train, and return what the run folder holds, but for seconds, versions and memory."""
    import numpy as np
    import torch

    from lds.cli import main

    code = main(["train", *arguments, "--out", str(out)])
    if code:
        return {"exit code": code}
    result = json.loads((out / "result.json").read_text())
    history = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    with np.load(out / "graph.npz") as archive:
        graph = {name: archive[name].tolist() for name in archive.files}
    return {
        "graph": graph,
        "checkpoint": torch.load(out / "checkpoint.pt", weights_only=True),
        "result": {k: v for k, v in result.items() if k not in ("seconds", "peak_rss_mb", "versions", "threads")},
        "metrics": [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in history],
    }


def solver(problem: Any, updater: str, method: Any, steps: int = STEPS) -> Callable[[Path], Parts]:
    """Return a function that solves a problem by a method."""
    return lambda folder: result_parts(problem.hypergradient(problem.updaters[updater], method, steps=steps))


def result_parts(result: Any) -> Parts:
    """Return all that `hypergradient` says."""
    diagnostics = {k: v for k, v in vars(result.diagnostics).items() if not k.startswith("_")}
    diagnostics["inner_gradient_norm"] = result.diagnostics.inner_gradient_norm
    return {"grad": result.grad, "state": result.state, "outer_loss": result.outer_loss, **diagnostics}


class Bilevel:
    """A bilevel problem: params, outer, updaters, inner and outer objective."""

    params: Any
    outer: Any
    updaters: dict[str, Any]

    def inner(self, params: Any, outer: Any) -> Any:
        raise NotImplementedError

    def outer_objective(self, params: Any, outer: Any) -> Any:
        raise NotImplementedError

    def hypergradient(self, updater: Any, method: Any, steps: int = STEPS, **options: Any) -> Any:
        from lds.hypergrad import hypergradient

        return hypergradient(
            self.inner,
            self.outer_objective,
            self.params,
            self.outer,
            updater=updater,
            steps=steps,
            method=method,
            seed=3,
            **options,
        )

    def record(self, updater: Any, steps: int = STEPS, **options: Any) -> Any:
        from lds.hypergrad import record

        return record(self.inner, self.params, self.outer, updater=updater, steps=steps, seed=3, **options)


class Network(Bilevel):
    """A small network with dropout; learned are weights of the samples, the penalty of each layer, and the rate."""

    def __init__(self) -> None:
        import torch

        from lds.updaters import SGD, Adam, AdamW

        draw = torch.Generator().manual_seed(0)
        self.x, self.y = torch.randn(12, 5, generator=draw), torch.randn(12, 2, generator=draw)
        self.params = {
            "first": torch.randn(5, 4, generator=draw) / 2,
            "second": [torch.randn(4, 2, generator=draw) / 2, torch.zeros(2)],
        }
        self.outer = {
            "samples": torch.linspace(0.5, 1.5, 6),
            "log_l2": [torch.tensor(-2.0), torch.full((1, 2), -1.0)],
            "lr": torch.tensor(0.05),
        }

        def lr(outer: Any) -> Any:
            return outer["lr"]

        self.updaters = {
            "SGD": SGD(lr),
            "SGD momentum": SGD(lr, momentum=0.9),
            "Adam": Adam(lr),
            "AdamW": AdamW(lr, weight_decay=0.01),
        }

    def _errors(self, params: Any, rows: slice, p: float) -> Any:
        import torch

        hidden = torch.nn.functional.dropout(torch.tanh(self.x[rows] @ params["first"]), p)
        return (hidden @ params["second"][0] + params["second"][1] - self.y[rows]).square().sum(1)

    def inner(self, params: Any, outer: Any) -> Any:
        loss = (outer["samples"] * self._errors(params, slice(0, 6), 0.5)).mean()
        small, large = outer["log_l2"]
        penalty = small.exp() * params["first"].square().sum()
        return loss + penalty + (large.exp() * params["second"][0].square()).sum()

    def outer_objective(self, params: Any, outer: Any) -> Any:
        return self._errors(params, slice(6, 12), 0.2).mean() + 0.01 * outer["log_l2"][0]

    def moved(self) -> "Network":
        """Return the problem after an outer step."""
        import optree

        other = Network()
        other.outer = optree.tree_map(lambda x: x * 0.9, self.outer)
        return other

    def budget_for_half(self, updater: Any) -> int:
        """Return the bytes of all states, and of the graphs of half of the steps."""
        import optree
        import torch

        from lds.updaters import State

        sizes: dict[int, int] = {}

        def note(x: Any) -> Any:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            kept.append(x)
            return x

        kept: list[Any] = []
        params = optree.tree_map(lambda x: x.clone().requires_grad_(), self.params)
        state = State(params, updater.init(params))
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            updater.step(state, self.outer, self.inner)
        state_bytes = sum(x.nbytes for x in optree.tree_leaves(state) if isinstance(x, torch.Tensor))
        return STEPS * state_bytes + STEPS // 2 * sum(sizes.values())


class Ridge(Bilevel):
    """Ridge regression, a penalty for each weight."""

    dtype = "float32"

    def __init__(self) -> None:
        import torch

        from lds.updaters import SGD, Adam

        draw = torch.Generator().manual_seed(1)
        dtype = getattr(torch, self.dtype)
        self.x = torch.randn(30, 6, generator=draw, dtype=dtype)
        self.y = torch.randn(30, generator=draw, dtype=dtype)
        self.params = torch.zeros(6, dtype=dtype)
        self.outer = {"l2": torch.linspace(0.1, 0.6, 6)}
        self.updaters = {"SGD": SGD(0.1), "SGD momentum": SGD(0.05, momentum=0.5)}
        if not dtype.is_complex:
            self.updaters["Adam"] = Adam(0.1)

    def inner(self, params: Any, outer: Any) -> Any:
        return (self.x[:20] @ params - self.y[:20]).abs().square().mean() + (outer["l2"] * params.abs().square()).sum()

    def outer_objective(self, params: Any, outer: Any) -> Any:
        return (self.x[20:] @ params - self.y[20:]).abs().square().mean()


class DerivedRidge(Ridge):
    """The same, with penalties that are computed once from their logarithms."""

    def __init__(self) -> None:
        import torch

        from lds.hypergrad import Derived

        super().__init__()
        self.outer = {"l2": Derived(torch.exp, torch.linspace(-3.0, 0.0, 6))}


class ComplexRidge(Ridge):
    """The same with complex params."""

    dtype = "complex64"


def digest(value: Any) -> str:
    """Return a text that tells values apart by their bits."""
    import optree
    import torch

    leaves, _ = optree.tree_flatten(value)
    hashed = hashlib.sha256()
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            dense = leaf.detach().cpu().contiguous()
            hashed.update(f"{dense.dtype}{tuple(dense.shape)}".encode())
            hashed.update(dense.flatten().view(torch.uint8).numpy().tobytes())
        else:
            hashed.update(f"{type(leaf).__name__}{leaf!r}".encode())
    return hashed.hexdigest()


def solve_all(only: str) -> dict[str, dict[str, str]]:
    """Solve the problems with the `lds` that is imported; return the digests of their parts."""
    import torch
    from tqdm import tqdm

    torch.set_num_threads(1)
    found = {}
    chosen = [(name, solve) for name, solve in cases() if only in name]
    for name, solve in tqdm(chosen, desc=os.environ["LDS_TREE"], disable=None):
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                parts = solve(Path(folder))
            except Exception as error:  # What is refused must be refused likewise.
                parts = {"error": f"{type(error).__name__}: {error}".replace(folder, "")}
                print(f"{name}: {parts['error']}", file=sys.stderr)
        parts["warnings"] = [str(w.message) for w in caught if w.category.__module__ == "lds.errors"]
        found[name] = {part: digest(value) for part, value in parts.items()}
    return found


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Check another commit out into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], check=True)


def start(tree: Path, label: str, out: Path, only: str) -> "subprocess.Popen[bytes]":
    """Solve the problems with a tree, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "LDS_TREE": label}
    command = [sys.executable, str(Path(__file__).resolve()), "--write", str(out), "--only", only, label]
    return subprocess.Popen(command, env=environment, cwd=out.parent, stdout=sys.stderr)


def compare(here: dict[str, dict[str, str]], there: dict[str, dict[str, str]]) -> int:
    """Print which problems have the same bits; return how many have not."""
    different = 0
    for name in {**here, **there}:
        ours, others = here.get(name, {}), there.get(name, {})
        parts = sorted(part for part in {**ours, **others} if ours.get(part) != others.get(part))
        different += bool(parts)
        print(f"{'differs' if parts else 'equal':<8} {name}{': ' if parts else ''}{', '.join(parts)}")
    print(f"{different} of {len({**here, **there})} problems differ")
    return different


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="the commit to compare with")
    parser.add_argument("--only", default="", help="problems whose name holds this text")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write is not None:
        import lds

        tree = Path(os.environ["PYTHONPATH"]).resolve()
        assert tree in Path(lds.__file__).resolve().parents, f"{lds.__file__} is not of {tree}"
        options.write.write_text(json.dumps(solve_all(options.only)))
        return 0
    top = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True)
    with checked_out(options.revision) as other, tempfile.TemporaryDirectory() as folder:
        trees = {"this tree": Path(top.stdout.strip()), options.revision: other}
        files = [Path(folder) / f"{i}.json" for i in range(len(trees))]
        running = [
            start(tree, label, file, options.only) for (label, tree), file in zip(trees.items(), files, strict=True)
        ]
        codes = [process.wait() for process in running]
        if any(codes):
            return 2
        here, there = (json.loads(file.read_text()) for file in files)
    return 1 if compare(here, there) else 0


if __name__ == "__main__":
    sys.exit(main())
