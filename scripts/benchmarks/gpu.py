"""Is lds exact on a GPU, and how fast? Compares CPU and CUDA, counts synchronisations, times the main jobs.

    python scripts/benchmarks/gpu.py                          # about four minutes on one card; no data sets
    python scripts/benchmarks/gpu.py --device cpu --small     # a dry run of the same checks without a GPU

Prints one line of JSON for each check; the last line says how many failed. It has been run on the CPU only.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
import traceback
import warnings
from functools import partial

import torch
from torch.func import functional_call

from lds.graph import AllPairs, CandidatePairs, SparseMatrix, random_pairs
from lds.hypergrad import Binomial, Checkpoint, KeepGraphs, KeepStates, Offload, Reverse, hypergradient, record
from lds.nn import GCN
from lds.updaters import SGD, Adam

options = argparse.ArgumentParser()
options.add_argument("--device", default="cuda")
options.add_argument("--small", action="store_true")
options = options.parse_args()
DEVICE = torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu")
CUDA, failures = DEVICE.type == "cuda", 0


def say(name, ok=True, **values):
    global failures
    failures += not ok
    print(
        json.dumps(
            {
                "check": name,
                "ok": bool(ok),
                **{k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()},
            }
        ),
        flush=True,
    )


def wait():
    if CUDA:
        torch.cuda.synchronize()


def ms(f, repeats=7):
    f()
    wait()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        f()
        wait()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def syncs(f):
    """Number of times that a call waits for the device."""
    if not CUDA:
        return 0
    f()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            f()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(w.message) for w in seen)


def rel(a, b):
    return float((a.cpu().double() - b.cpu().double()).norm() / b.double().cpu().norm().clamp(min=1e-300))


class Node:
    """A GCN on a random graph: objectives for any device and type."""

    def __init__(self, n, features, device, dtype, per_row=20, train=140, val=250, classes=7):
        g = torch.Generator().manual_seed(0)
        x = torch.zeros(n, features, dtype=dtype)
        x.scatter_(1, torch.rand(n, features, generator=g).topk(per_row).indices, 1 / per_row)
        order = torch.randperm(n, generator=g)
        self.n, self.y = n, torch.randint(classes, (n,), generator=g).to(device)
        self.train, self.val = order[:train].to(device), order[train : train + val].to(device)
        self.edges = torch.randint(n, (2, 2 * n), generator=g).to(device)
        self.x = SparseMatrix.from_dense(x.to(device))
        torch.manual_seed(0)
        self.model = GCN(features, classes).to(device, dtype)
        self.params = {k: v.detach().cpu().clone().to(device) for k, v in self.model.named_parameters()}

    def loss(self, nodes, mode, params, graph):
        self.model.train(mode)
        logits = functional_call(self.model, params, (self.x, graph))
        return torch.nn.functional.cross_entropy(logits[nodes], self.y[nodes])

    def step(self, structure, steps=5, seed=0, updater=None, memory=None, dropout=True):
        return hypergradient(
            lambda p, g: self.loss(self.train, dropout, p, g),
            lambda p, g: self.loss(self.val, False, p, g),
            self.params,
            structure,
            updater=updater or Adam(0.02, eps=1e-5),
            steps=steps,
            seed=seed,
            method=Reverse(steps, memory=memory),
        )


def graph_exactness():
    results = {}
    for device in ("cpu", DEVICE):  # θ is 0 or 1, so both draw the same graph; no dropout.
        p = Node(300, 50, device, torch.float64)
        for kind, s in {
            "all pairs": AllPairs(p.n, p.edges, dtype=torch.float64),
            "candidates": CandidatePairs(p.n, p.edges, candidates=random_pairs(p.n, 900, seed=1), dtype=torch.float64),
        }.items():
            r = p.step(s, dropout=False)
            results[kind, str(device)] = r.grad.to_dense() if kind == "all pairs" else r.grad.at(*s.pairs)
            s.project_(r.grad, 0.5)
            results[kind, "θ", str(device)] = s.state()
    for kind in ("all pairs", "candidates"):
        for what in ((kind,), (kind, "θ")):
            error = rel(results[(*what, str(DEVICE))], results[(*what, "cpu")])
            say("CPU and device agree: " + " ".join(what), error < 1e-10, relative=error)


def draws():
    p = Node(400, 30, DEVICE, torch.float32)
    s = AllPairs(p.n, p.edges)
    s.project_(p.step(s).grad, 5.0)
    theta, torch_count = s.to_dense().double().cpu(), torch.zeros(p.n, p.n, dtype=torch.float64)
    for seed in range(400):
        torch.manual_seed(seed)
        g = s.draw()
        assert g.row.device.type == DEVICE.type
        torch_count[g.row.cpu(), g.col.cpu()] += 1
    for low, high in ((0, 1e-3), (1e-3, 0.1), (0.1, 0.999)):
        m = (theta.triu(1) > low) & (theta.triu(1) <= high)
        e, v = 400 * theta[m].sum(), 400 * (theta[m] * (1 - theta[m])).sum()
        z = float((torch_count[m].sum() - e) / v.clamp(min=1e-9).sqrt())
        say(f"draws have frequency θ in ({low}, {high}]", abs(z) < 4.5, z=z, entries=int(m.sum()))
    torch.manual_seed(3)
    a = s.draw()
    torch.manual_seed(3)
    b = s.draw()
    say("one seed, one graph", torch.equal(a.row, b.row) and torch.equal(a.col, b.col))
    d = a.adjacency.to_dense()
    say("CSR of a draw is symmetric", torch.equal(d, d.T) and int(d.sum()) == 2 * a.num_edges)


def replay():
    p = Node(500, 40, DEVICE, torch.float32)
    s = AllPairs(p.n, p.edges)
    before = torch.cuda.get_rng_state(DEVICE) if CUDA else torch.get_rng_state()
    first = p.step(s, 12)
    after = torch.cuda.get_rng_state(DEVICE) if CUDA else torch.get_rng_state()
    say("the caller's generator is left as it was", torch.equal(before, after))
    for memory in (KeepStates(), Checkpoint(), Binomial(3), Offload(), KeepGraphs(0)):
        r = p.step(s, 12, memory=memory)
        error = rel(r.grad.to_dense(), first.grad.to_dense())
        say(
            f"dropout and draws replayed: {type(memory).__name__}",
            error < 1e-5,
            relative=error,
            replay_error=float(r.diagnostics.replay_error or 0),
        )
    again = p.step(s, 12)
    say(
        "two runs, the same bits (may fail on CUDA: sums in any order)",
        True,
        same=torch.equal(again.grad.to_dense(), first.grad.to_dense()),
    )
    if CUDA and torch.cuda.device_count() > 1:  # Params on one device, dropout on another.
        w = {"w": torch.ones(50, device="cuda:0")}

        def f(p, o):
            return (torch.nn.functional.dropout(p["w"].to("cuda:1"), 0.5).sum() - o["c"].to("cuda:1")).square()

        try:
            hypergradient(
                f,
                f,
                w,
                {"c": torch.ones((), device="cuda:0")},
                updater=SGD(lr=1e-4),
                steps=5,
                method=Reverse(memory=KeepStates()),
            )
            say("dropout on a device that holds no variable is replayed")
        except Exception as e:
            say("dropout on a device that holds no variable is replayed", False, error=str(e)[:120])


def normalised(structure):
    return structure.draw().normalised


def outer_steps():
    sizes = {"Cora": (2708, 1433, 20), "Pubmed": (19717, 500, 50)} if not options.small else {"small": (600, 100, 10)}
    for name, (n, f, row) in sizes.items():
        p = Node(n, f, DEVICE, torch.float32, per_row=row)
        s = AllPairs(n, p.edges)
        r = p.step(s)
        s.project_(r.grad, 1.0)
        inner = partial(p.loss, p.train, True)
        parts = {
            "draw": s.draw,
            "draw and Â": partial(normalised, s),
            "record": partial(record, inner, p.params, s, updater=Adam(0.02, eps=1e-5), steps=5),
            "record and sweep": partial(p.step, s),
            "groups": r.grad.groups,
            "update": partial(s.project_, r.grad, 1e-3),
        }
        for part, action in parts.items():
            say(f"{name}, {part}", ms=ms(action), syncs=syncs(action))
        if CUDA:
            say(f"{name}, peak", MiB=torch.cuda.max_memory_allocated() / 2**20)
            torch.cuda.reset_peak_memory_stats()
    n = 200_000 if not options.small else 2000
    p = Node(n, 200, DEVICE, torch.float32, per_row=20)
    s = CandidatePairs(n, p.edges, candidates=random_pairs(n, 8 * n, seed=1))
    r = p.step(s)
    for part, action in {
        "draw and Â": partial(normalised, s),
        "record and sweep": partial(p.step, s),
        "update": partial(s.project_, r.grad, 1e-3),
    }.items():
        say(f"candidates {n}, {part}", ms=ms(action, 3), syncs=syncs(action))


def engine():
    g, sizes, T = torch.Generator().manual_seed(0), (64, 256, 256, 10), 100 if not options.small else 10
    w = {
        f"{k}{i}": (torch.randn(a, b, generator=g) * (2 / a) ** 0.5 if k == "w" else torch.zeros(b)).to(DEVICE)
        for i, (a, b) in enumerate(itertools.pairwise(sizes))
        for k in "wb"
    }
    outer = {k: torch.full_like(v, -6.0) for k, v in w.items()}
    x, xv = (torch.randn(1000, 64, generator=g).to(DEVICE) for _ in range(2))
    y = torch.randint(10, (1000,), generator=g).to(DEVICE)

    def net(p, h):
        for i in range(3):
            h = torch.addmm(p[f"b{i}"], h, p[f"w{i}"])
            h = h.relu() if i < 2 else h
        return torch.nn.functional.cross_entropy(h, y)

    def inner(p, o):
        return net(p, x) + 0.5 * sum((o[k].exp() * p[k].square()).sum() for k in p)

    def call(memory=None):
        return hypergradient(
            inner, lambda p, o: net(p, xv), w, outer, updater=Adam(1e-3), steps=T, method=Reverse(memory=memory)
        )

    for memory in (None, KeepGraphs(8e9), KeepStates(), Checkpoint(), Offload()):
        say(
            f"MLP, T = {T}, {type(memory).__name__ if memory else 'default'}",
            us_a_step=1e3 * ms(partial(call, memory), 3) / T,
            syncs_a_step=syncs(partial(call, memory)) / T,
        )
    from lds._random import forked, reseed

    devices = frozenset([0]) if CUDA else frozenset()

    def fork():
        with forked(devices):
            reseed(1, 2, 3, cuda=devices)

    say("forked and reseed", us=1e3 * ms(lambda: [fork() for _ in range(100)]) / 100)
    if CUDA:
        a = torch.empty(64 << 20, dtype=torch.uint8, device=DEVICE)
        b, c = torch.empty(64 << 20, dtype=torch.uint8), torch.empty(64 << 20, dtype=torch.uint8, pin_memory=True)
        say(
            "copies to the host, GB/s",
            pageable=67.1 / ms(lambda: b.copy_(a)),
            pinned=67.1 / ms(lambda: c.copy_(a, non_blocking=True)),
        )


say(
    "device",
    gpu=torch.cuda.get_device_name() if CUDA else "cpu",
    torch=torch.__version__,
    tf32=torch.backends.cuda.matmul.allow_tf32,
)
for check in (graph_exactness, draws, replay, outer_steps, engine):
    began = time.perf_counter()
    try:
        check()
    except Exception:
        say(check.__name__, False, error=traceback.format_exc()[-600:])
    say(f"{check.__name__} took", seconds=time.perf_counter() - began)
print(f"{failures} failed")
sys.exit(bool(failures))
