"""What an outer step of MAML costs by `unroll`, beside higher and a plain unroll; and one step ahead, as in DARTS.

    pip install higher==0.2.1
    python scripts/benchmarks/maml.py

Three tasks of ten images of digits, an inner SGD of a small convolutional net (as in higher's own example: three
blocks of convolution, BatchNorm, ReLU and pooling), and `.backward()` into the initial weights. Every case in a fresh
process on one thread, in turn; medians of CPU seconds, which other work disturbs less. Memory is the peak
over what was in use before. The gradients are compared in float64. With 1 step, it is an MLP on 64 samples with a
learned weight for each of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import RESULTS, Row, fresh_peak, medians, peak_mib, run, timed, write

METHODS = ("plain unroll", "higher", "lds", "lds, Checkpoint()")
LR = 0.1


def net() -> Any:
    from torch import nn

    def block(channels: int) -> list[nn.Module]:
        return [
            nn.Conv2d(channels, 64, 3, padding=1),
            nn.BatchNorm2d(64, momentum=1.0, affine=True),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, 2),
        ]

    return nn.Sequential(*block(1), *block(64), *block(64), nn.Flatten(), nn.Linear(64, 5))


def tasks(dtype: Any) -> list[tuple[Any, ...]]:
    """Return for each of three tasks 5-way digits to learn from, and others to test on."""
    import torch
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = torch.tensor(found.images / 16, dtype=dtype)[:, None], torch.tensor(found.target)
    shown = []
    for task in range(3):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(task))
        ways = [order[labels[order] == way][:4] for way in range(task, task + 5)]
        train, test = (torch.cat([w[part] for w in ways]) for part in (slice(2), slice(2, 4)))
        shown.append((images[train], labels[train] - task, images[test], labels[test] - task))
    return shown


def step_of(method: str, steps: int, dtype: Any) -> Callable[[], Any]:
    """Return a function that takes one outer step's gradient, and returns it."""
    import torch
    from torch.nn.functional import cross_entropy

    from lds.hypergrad import Checkpoint, Reverse, functional, unroll
    from lds.updaters import SGD

    torch.manual_seed(0)
    module = net().to(dtype)
    shown = tasks(dtype)
    weights = dict(module.named_parameters())
    _, call = functional(module)

    def by_plain_unroll() -> None:
        for x, y, x_test, y_test in shown:
            w = weights
            for _ in range(steps):
                grads = torch.autograd.grad(cross_entropy(call(w, x), y), list(w.values()), create_graph=True)
                w = {name: p - LR * g for (name, p), g in zip(w.items(), grads, strict=True)}
            cross_entropy(call(w, x_test), y_test).backward()

    def by_higher() -> None:
        import higher

        optimizer = torch.optim.SGD(module.parameters(), lr=LR)
        for x, y, x_test, y_test in shown:
            with higher.innerloop_ctx(module, optimizer, copy_initial_weights=False) as (copy, inner_optimizer):
                for _ in range(steps):
                    inner_optimizer.step(cross_entropy(copy(x), y))
                cross_entropy(copy(x_test), y_test).backward()

    def by_lds() -> None:
        policy = Reverse(memory=Checkpoint()) if method.endswith("Checkpoint()") else Reverse()
        for x, y, x_test, y_test in shown:
            w = unroll(
                lambda p, o, x=x, y=y: cross_entropy(call(p, x), y), weights, {}, updater=SGD(LR), steps=steps,
                method=policy,
            )  # fmt: skip
            cross_entropy(call(w, x_test), y_test).backward()

    take = {"plain unroll": by_plain_unroll, "higher": by_higher}.get(method, by_lds)

    def step() -> Any:
        module.zero_grad()
        take()
        return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])

    return step


def one_step_of(method: str) -> Callable[[], Any]:
    """Return a function that takes the hypergradient in the weights of samples, one step ahead."""
    import torch
    from torch import nn

    from lds.hypergrad import functional, unroll
    from lds.updaters import SGD

    torch.manual_seed(0)
    x, y = torch.randn(64, 20), torch.randn(64)
    params, call = functional(nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 1)))

    def inner(p: Any, o: Any) -> Any:
        return (o.sigmoid() * (call(p, x).squeeze(-1) - y).square()).mean()

    def step() -> Any:
        theta = torch.zeros(64, requires_grad=True)
        if method == "lds":
            w = unroll(inner, params, theta, updater=SGD(LR), steps=1)
        else:
            w = {name: p.clone().requires_grad_() for name, p in params.items()}
            grads = torch.autograd.grad(inner(w, theta), list(w.values()), create_graph=True)
            w = {name: p - LR * g for (name, p), g in zip(w.items(), grads, strict=True)}
        return torch.autograd.grad((call(w, x).squeeze(-1) - y).square().mean(), theta)

    return step


def measure(method: str, steps: int) -> Row:
    import torch

    if steps == 1:
        return timed(one_step_of(method), repeats=300, warm_up=50)
    step = step_of(method, steps, torch.float32)
    step()
    before = fresh_peak()
    step()
    mib = peak_mib() - before
    # As in a training of thousands: `unroll` looks at a problem at its 1st, 2nd, 4th, 8th, 16th, 32nd … time.
    found = timed(step, repeats=5, warm_up=4)
    exact = [step_of(name, steps, torch.float64)() for name in ("plain unroll", method)]
    return found | {"mib": mib, "error": float((exact[1] - exact[0]).norm() / exact[0].norm())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "maml.json")
    options = parser.parse_args()
    specs = [{"method": method, "steps": steps} for steps in (5, 20) for method in METHODS]
    specs += [{"method": method, "steps": 1} for method in ("plain unroll", "lds")]
    rows = [row | {"wall": row["seconds"], "seconds": row["cpu"]} for row in run(__file__, specs, options.rounds)]
    against = medians(rows, ["method", "steps"], pair=("method", "plain unroll"))
    higher = medians([row for row in rows if row["steps"] > 1], ["method", "steps"], pair=("method", "higher"))
    table = against.merge(
        higher[["method", "steps", "ratio"]], on=["method", "steps"], how="left", suffixes=("", "_higher")
    )
    shown = table[["method", "steps", "seconds", "wall", "ratio", "ratio_higher", "mib", "error"]]
    print(shown.sort_values("steps", kind="stable").to_string(index=False, float_format="{:.3g}".format))
    write(options.out, threads=1, rows=table.to_dict("records"))


if __name__ == "__main__":
    main()
