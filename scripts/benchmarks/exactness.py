"""Exactness of hypergradients: lds and other packages against a plain unroll of torch.optim's formulas, in float64.

    python scripts/benchmarks/exactness.py --out experiments/results/exactness.json

An 8-16-3 network is trained for 5 and for 20 steps with a log-L2 penalty for every weight as outer variables. What is
compared is the whole hypergradient, ‖found − expected‖ / ‖expected‖. The expected one unrolls the formula of
torch.optim (its w_T is checked against torch.optim's own run) in plain autograd, on the noise that the package's T
forward steps drew: every call of the inner objective draws one seed from torch's (or numpy's) global generator and
makes its dropout mask or its minibatch from that, so a step that is run again with another draw shows as an error.
At v = 0 the derivative of √v is taken for 0, which is the limit here, since ∂g/∂θ vanishes there too.

All tensors are float64, and so is torch's default dtype except under "float32 default". Packages that have Adam's ε
in another place (lds inside the root, higher and BOAT before the bias correction) are also compared with the plain
unroll of their own formula. NaN is reported as nan.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import peers
import torch
from harness import RESULTS, write
from readme import exactness, markdown, worst_error
from torch import Tensor
from tqdm import tqdm
from unrolls import (
    MissingError,
    Rule,
    Task,
    Tree,
    UnsupportedError,
    Weights,
    checkpointed,
    final_params,
    gradients_differ,
    lds_hypergradient,
    plain,
)

RULES = (
    Rule("sgd", 0.1),
    Rule("momentum", 0.1, momentum=0.9),
    Rule("nesterov", 0.1, momentum=0.9),
    Rule("adam", 0.01),
    Rule("adamw", 0.01, weight_decay=0.01),
    Rule("rmsprop", 0.01),
)
SETTINGS = (
    "plain",
    "weight decay",
    "dropout",
    "minibatches",
    "minibatches, numpy",
    "zero gradient",
    "unused parameter",
    "float32 default",
)
Method = Callable[..., Tree]
METHODS: dict[str, Method] = {
    "plain unroll": plain,
    "torch checkpoint": checkpointed,
    "torchopt": peers.torchopt,
    "torchopt, eps_root": partial(peers.torchopt, eps_root=1e-16),
    "higher": peers.higher,
    "betty": peers.betty,
    "boat": peers.boat,
    "bergson": peers.bergson,
    "hypertorch": peers.hypertorch,
    "lds": lds_hypergradient,
    "lds, KeepStates": partial(lds_hypergradient, memory="KeepStates"),
    "lds, Checkpoint": partial(lds_hypergradient, memory="Checkpoint"),
    "lds, Binomial": partial(lds_hypergradient, memory="Binomial", snapshots=3),
    "lds, Disk": partial(lds_hypergradient, memory="Disk"),
}
TRUNCATING = (
    "plain unroll",
    "torchopt",
    "boat",
    "lds",
    "lds, KeepStates",
    "lds, Checkpoint",
    "lds, Binomial",
    "lds, Disk",
)


class Seeds:
    """A seed for every call of the inner objective: drawn from a global generator and kept, or those kept before."""

    def __init__(self, draw: Callable[[], int], kept: list[int] | None = None) -> None:
        self._draw = draw
        self._replayed = None if kept is None else iter(kept)
        self._drawn: list[tuple[bytes, int]] = []

    def generator(self, params: Tree) -> torch.Generator:
        seed = self._draw() if self._replayed is None else next(self._replayed)
        real = (w.detach().numpy() for w in params.values() if not w.is_meta)
        self._drawn.append((b"".join(w.tobytes() for w in real), seed))
        return torch.Generator().manual_seed(seed)

    def forward(self, steps: int) -> list[int]:
        """Return the seeds of the forward steps: each w_t's first one, for some run a step again on their way."""
        first: dict[bytes, int] = {}
        for params, seed in self._drawn:
            first.setdefault(params, seed)
        seeds = list(first.values()) if len(first) >= steps else [seed for _, seed in self._drawn]
        return seeds[:steps]


def draw(setting: str) -> Callable[[], int]:
    if setting.endswith("numpy"):
        return lambda: int(np.random.randint(2**31))
    return lambda: int(torch.randint(2**31, ()))


def problem(setting: str, seeds: Seeds) -> Task:
    """Return the training of a small network in one setting."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    params = {"w0": 0.3 * normal(8, 16), "b0": 0.1 * normal(16), "w1": 0.3 * normal(16, 3), "b1": 0.1 * normal(3)}
    outer = {name: torch.full_like(value, -3.0) for name, value in params.items()}
    x, x_val = normal(60, 8), normal(60, 8)
    teacher = normal(8, 3)
    y, y_val = (x @ teacher).argmax(1), (x_val @ teacher).argmax(1)
    if setting == "zero gradient":  # A feature that is always zero, at a weight that is zero.
        x[:, -1] = x_val[:, -1] = params["w0"][-1] = 0
    if setting == "unused parameter":
        params = {"unused": normal(2), **params}

    def logits(params: Tree, x: Tensor, mask: Tensor | None = None) -> Tensor:
        hidden = torch.tanh(x @ params["w0"] + params["b0"])
        return (hidden if mask is None else hidden * mask) @ params["w1"] + params["b1"]

    def inner(params: Tree, outer: Tree) -> Tensor:
        noise, rows, mask = seeds.generator(params), slice(None), None
        if setting == "dropout":
            mask = 2.0 * (torch.rand(len(x), 16, generator=noise, dtype=torch.float64) < 0.5)
        elif setting.startswith("minibatches"):
            rows = torch.randperm(len(x), generator=noise)[:20]
        fit = torch.nn.functional.cross_entropy(logits(params, x[rows], mask), y[rows])
        return fit + sum((outer[name].exp() * params[name].square()).sum() for name in outer)

    def outer_objective(params: Tree, outer: Tree) -> Tensor:
        return torch.nn.functional.cross_entropy(logits(params, x_val), y_val)

    return Task(params, outer, inner, outer_objective)


def own_formula(method: str, rule: Rule) -> Rule | None:
    """Return the formula of a package where it is not torch.optim's."""
    adaptive = rule.name in ("adam", "adamw", "rmsprop")
    if method.startswith("lds") and adaptive:
        return replace(rule, eps_place="inside")
    if method in ("higher", "boat") and rule.name == "adam":
        return replace(rule, eps_place="uncorrected", at_zero=0)
    return None


def compare(method: str, rule: Rule, setting: str, steps: int, horizon: int | None) -> dict[str, Any]:
    """Return the relative error of one hypergradient, or why there is none."""
    torch.manual_seed(0)
    np.random.seed(0)
    torch.set_default_dtype(torch.float32 if setting == "float32 default" else torch.float64)
    if setting == "weight decay":
        rule = replace(rule, weight_decay=0.01)
    seeds = Seeds(draw(setting))
    options = {} if horizon is None else {"horizon": horizon}
    try:
        found = METHODS[method](problem(setting, seeds), rule, steps, **options)
    except MissingError as reason:
        return {"absent": str(reason)}
    except UnsupportedError as reason:
        return {"unsupported": str(reason)}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    result: dict[str, Any] = {}
    formulas = {"error": replace(rule, at_zero=0), "own_error": own_formula(method, rule)}
    for name, formula in formulas.items():
        if formula is not None:
            kept = Seeds(draw(setting), seeds.forward(steps))
            error = gradients_differ(found, plain(problem(setting, kept), formula, steps, **options))
            result[name] = error if math.isfinite(error) else str(error)
    return result


def reference_error(rule: Rule, setting: str, steps: int) -> float:
    """Return the relative difference of w_T between the formula that is unrolled and torch.optim."""
    if setting == "weight decay":
        rule = replace(rule, weight_decay=0.01)
    torch.manual_seed(0)
    seeds = Seeds(draw("plain"))
    task = problem(setting, seeds)
    model = Weights(task)
    optimizer = rule.torch_optimizer(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        model(task.outer).backward()
        optimizer.step()
    task = problem(setting, Seeds(draw("plain"), seeds.forward(steps)))
    expected = {name: value.detach() for name, value in model.named_parameters()}
    return gradients_differ(final_params(task, rule, steps), expected)


def specs(quick: bool) -> Iterator[tuple[str, Rule, str, int, int | None]]:
    for setting in SETTINGS:
        for rule in RULES:
            for steps in (5,) if quick else (5, 20):
                for method in METHODS:
                    if method != "torchopt, eps_root" or rule.name in ("adam", "adamw"):
                        yield method, rule, setting, steps, None
    for setting in ("plain", "dropout"):
        for rule in RULES:
            for method in TRUNCATING:
                yield method, rule, setting, 5, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 steps only")
    parser.add_argument("--out", type=Path, default=RESULTS / "exactness.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for method, rule, setting, steps, horizon in tqdm(list(specs(options.quick)), disable=None):
        row = {"method": method, "updater": rule.name, "setting": setting, "steps": steps, "horizon": horizon}
        rows.append(row | compare(method, rule, setting, steps, horizon))
    reference = max(reference_error(rule, s, t) for rule in RULES for s in SETTINGS[:3] for t in (5, 20))
    write(options.out, formulas_and_torch_optim=reference, rows=rows)
    print(full_table(rows))
    print(exactness(options.out))


def full_table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table of all errors: the larger one of the two numbers of steps."""
    table = pd.DataFrame(rows)
    table["column"] = table["setting"] + table["horizon"].map(lambda h: "" if pd.isna(h) else ", 2 of 5 steps")
    keys = ["method", "updater", "column"]
    groups = table.groupby(keys, sort=False).groups.items()
    errors = pd.Series({key: worst_error([rows[i] for i in places]) for key, places in groups}).rename_axis(keys)
    cells = errors.unstack(sort=False).fillna("").rename_axis(columns=None).reset_index()
    cells["method"] += ", " + cells.pop("updater")
    return markdown(cells.rename(columns={"method": ""}))


if __name__ == "__main__":
    main()
