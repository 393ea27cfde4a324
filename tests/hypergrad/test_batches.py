"""Minibatches: whoever asks for the batch of a step, and however often, gets the same one."""

import multiprocessing
import random
from collections.abc import Sequence

import numpy as np
import optree
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader as GraphLoader

from lds._random import forked
from lds.errors import InputError, PremiseWarning
from lds.hypergrad import (
    Batches,
    Binomial,
    Checkpoint,
    Disk,
    FiniteDifference,
    Forward,
    Implicit,
    KeepGraphs,
    KeepStates,
    Offload,
    Reverse,
    check_hypergradient,
    hypergradient,
    jacobian,
    record,
    sweep,
    truncation_curve,
    unroll,
)
from lds.hypergrad._batches import StepBatches, as_source
from lds.updaters import SGD, Adam
from tests.oracles import DOUBLE, relative_error, ridge, same_bits

N, STEPS = 22, 11
GENERATOR = torch.Generator().manual_seed(0)
X, Y, X_VAL, Y_VAL = (torch.randn(*shape, generator=GENERATOR, dtype=DOUBLE) for shape in [(N, 3), (N,), (9, 3), (9,)])
W0 = {"w": torch.randn(3, generator=GENERATOR, dtype=DOUBLE), "b": torch.zeros((), dtype=DOUBLE)}
THETA = {"penalty": torch.tensor(-2.0, dtype=DOUBLE), "weights": torch.linspace(0.5, 1.5, N, dtype=DOUBLE)}
INDEX = torch.arange(N)


def inner(params, outer, batch):
    index, x, y = batch
    errors = torch.tanh(x @ params["w"] + params["b"]) - y
    return (outer["weights"][index] * errors.square()).mean() + outer["penalty"].exp() * params["w"].square().sum()


def outer_objective(params, outer):
    return (torch.tanh(X_VAL @ params["w"] + params["b"]) - Y_VAL).square().mean() + 0.1 * outer["penalty"] ** 2


class Augmented(Dataset):
    """Samples with noise of all three generators; counts how many were taken."""

    def __init__(self):
        self.taken = 0

    def __len__(self):
        return N

    def __getitem__(self, i):
        self.taken += 1
        noise = 0.1 * torch.randn(3, dtype=DOUBLE) + 0.1 * random.random() + 0.1 * np.random.rand()
        return i, X[i] + noise, Y[i]


class ByNumpy(Sampler):
    """An order of the user's, which draws as it goes."""

    def __len__(self):
        return N

    def __iter__(self):
        for _ in range(N):
            yield int(np.random.randint(N))


SOURCES = {
    "list": lambda: list(zip(INDEX.split(4), X.split(4), Y.split(4), strict=True)),
    "tensors": lambda: Batches((INDEX, X, Y), 4),
    "dataset": lambda: Batches(Augmented(), 4, drop_last=True),
    "loader": lambda: DataLoader(TensorDataset(INDEX, X, Y), 4, shuffle=True),
    "generator": lambda: DataLoader(
        TensorDataset(INDEX, X, Y), 4, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(1)
    ),
    "replacement": lambda: DataLoader(
        TensorDataset(INDEX, X, Y), 4, sampler=RandomSampler(X, replacement=True, generator=torch.Generator())
    ),
    "weighted": lambda: DataLoader(Augmented(), 4, sampler=WeightedRandomSampler(THETA["weights"].tolist(), N)),
    "numpy": lambda: DataLoader(Augmented(), 4, sampler=ByNumpy()),
    "batch sampler": lambda: DataLoader(Augmented(), batch_sampler=[[3, 1, 4], [15, 9, 2, 6]]),
    "no batching": lambda: DataLoader(TensorDataset(INDEX, X, Y), batch_size=None, sampler=INDEX.split(5)),
}
every_source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())


def seen(batches, steps=STEPS, *, seed=0, state=None):
    """What the inner objective is called with, step by step."""
    found = []

    def note(params, outer, batch):
        found.append(batch)
        return params.square()

    w, theta = torch.ones(2, dtype=DOUBLE).unbind()
    trajectory = record(
        note, w, theta, updater=SGD(0.1), steps=steps, horizon=0, seed=seed, state=state, batches=batches
    )
    return found, trajectory.final_state


def unrolled(batches, momentum=0.7, lr=0.1):
    """dF/dθ by one graph through all steps of momentum, written out."""
    outer = {name: x.clone().requires_grad_() for name, x in THETA.items()}
    params = {name: x.clone().requires_grad_() for name, x in W0.items()}
    slots = {name: torch.zeros_like(x) for name, x in W0.items()}
    for batch in batches:
        grads = torch.autograd.grad(inner(params, outer, batch), list(params.values()), create_graph=True)
        slots = {name: momentum * slots[name] + g for name, g in zip(params, grads, strict=True)}
        params = {name: w - lr * slots[name] for name, w in params.items()}
    loss = outer_objective(params, outer)
    grads = torch.autograd.grad(loss, list(outer.values()))
    return dict(zip(outer, grads, strict=True)), {name: w.detach() for name, w in params.items()}


def solve(batches, method=None, **options):
    arguments = {"updater": SGD(0.1, momentum=0.7), "steps": STEPS, "method": method, "seed": 3, **options}
    return hypergradient(inner, outer_objective, W0, THETA, batches=batches, **arguments)


@every_source
@pytest.mark.parametrize(
    "method",
    [
        Reverse(),
        Reverse(memory=KeepGraphs(0)),
        Reverse(memory=KeepStates()),
        Reverse(memory=Checkpoint()),
        Reverse(memory=Binomial(2)),
        Reverse(memory=Offload()),
        Forward(),
        "disk",
    ],
    ids=repr,
)
def test_equals_the_unroll_over_the_same_batches(source, method, tmp_path):
    batches, _ = seen(source(), seed=3)
    expected, params = unrolled(batches)
    found = solve(source(), Reverse(memory=Disk(tmp_path / "steps")) if method == "disk" else method)
    assert relative_error(found.grad, expected) <= 1e-12
    assert relative_error(found.params, params) <= 1e-14


@every_source
def test_equals_central_differences(source):
    found, expected = solve(source()), solve(source(), FiniteDifference())
    assert relative_error(found.grad, expected.grad) <= 1e-7
    check = check_hypergradient(
        inner, outer_objective, W0, THETA, updater=Adam(0.1), steps=5, batches=source(), max_entries=3
    )
    assert check.error <= 1e-6


def test_batches_are_converted_for_the_check():
    single = [(INDEX, X.float(), Y.float())]
    check_hypergradient(
        inner,
        lambda p, o: (p["w"] - 1).square().sum(),
        {name: x.float() for name, x in W0.items()},
        {name: x.float() for name, x in THETA.items()},
        updater=SGD(0.1),
        steps=3,
        batches=single,
        max_entries=2,
    )


@every_source
def test_a_function_of_seed_and_step(source):
    first, _ = seen(source(), 20, seed=1)
    again, _ = seen(source(), 20, seed=1)
    half, state = seen(source(), 9, seed=1)
    rest, _ = seen(source(), 11, seed=1, state=state)
    assert same_bits(first, again)
    assert same_bits(first, half + rest)


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ("list", "batch sampler", "no batching")])
def test_seeds_and_epochs_have_orders_of_their_own(name):
    first, _ = seen(SOURCES[name](), 12, seed=1)
    other, _ = seen(SOURCES[name](), 12, seed=2)
    size = len(SOURCES[name]())
    assert not same_bits(first, other)
    assert not same_bits(first[:size], first[size : 2 * size])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 8), st.booleans(), st.booleans(), st.booleans(), st.integers(-(2**40), 2**70))
def test_epochs_hold_every_sample_once(n, size, shuffle, drop_last, tensors, seed):
    rows = torch.arange(n)
    if drop_last and n < size:
        with pytest.raises(InputError, match="batches must hold a batch, but Batches has none"):
            Batches(rows, size, drop_last=True)
        return
    data = rows if tensors else TensorDataset(rows)
    batches = Batches(data, size, shuffle=shuffle, drop_last=drop_last)
    length = len(batches)
    assert length == len(DataLoader(rows, size, drop_last=drop_last))
    found, _ = seen(batches, 3 * length, seed=seed)
    found = [batch if tensors else batch[0] for batch in found]
    for epoch in (found[i * length : (i + 1) * length] for i in range(3)):
        samples = torch.cat(list(epoch))
        assert len(samples.unique()) == len(samples) == (n // size * size if drop_last else n)
        if not shuffle:
            assert torch.equal(samples, rows[: len(samples)])


def test_only_what_was_asked_for_is_fetched():
    data = Augmented()
    solve(DataLoader(data, 4, shuffle=True))
    assert data.taken == N + 5 * 4  # The last batch of an epoch is short; the sweep asks for none again.
    data = Augmented()
    solve(Batches(data, 4, drop_last=True), steps=3)
    assert data.taken == 12
    solve(Batches(data, 4), steps=0)
    assert data.taken == 12
    solve(Batches(data, 4, drop_last=True), Reverse(memory=KeepStates()), steps=3)
    assert data.taken == 12 + 12 + 4  # Replayed, but for what is still at hand: the last two.


def test_nothing_of_the_caller_changes():
    generator = torch.Generator().manual_seed(1)
    loader = DataLoader(Augmented(), 4, shuffle=True, generator=generator)

    def states():
        return generator.get_state(), torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()

    before = states()
    solve(loader, Reverse(memory=Checkpoint()))
    for x, y in zip(before, states(), strict=True):
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


@pytest.mark.parametrize("steps", [1, 2, STEPS])
@pytest.mark.parametrize("method", [Reverse(), Reverse(memory=Checkpoint()), Forward()], ids=repr)
def test_workers_make_the_same_batches(steps, method):
    alone = solve(DataLoader(Augmented(), 4, shuffle=True), method, steps=steps)
    loader = DataLoader(Augmented(), 4, shuffle=True, num_workers=2, prefetch_factor=1)
    others = multiprocessing.active_children()
    found = solve(loader, method, steps=steps)
    assert same_bits(found.grad, alone.grad)
    assert set(multiprocessing.active_children()) <= set(others)
    assert same_bits(seen(loader, steps), seen(DataLoader(Augmented(), 4, shuffle=True), steps))


def test_workers_are_passed_by_for_other_steps():
    loader = DataLoader(Augmented(), 4, shuffle=True, num_workers=1)
    expected, _ = seen(loader, 8)
    batches = StepBatches(as_source(loader), 0, 6)
    found = {}
    with forked():
        for step in (0, 5, 1, 3, 2, 7, 3, 4, 5):
            batches.bind(lambda p, o, batch: found.update({step: batch}), step, frozenset())(0, 0)  # noqa: B023
    assert all(same_bits(batch, expected[step]) for step, batch in found.items())


def test_an_error_in_a_worker_arrives():
    loader = DataLoader(list(range(3)), 2, num_workers=1, collate_fn=broken)
    with pytest.raises(KeyError, match="broken"):
        solve(loader)


def broken(samples):
    raise KeyError("broken")


def test_goes_on_after_an_earlier_trajectory():
    batches = SOURCES["loader"]()
    expected, _ = unrolled(seen(batches, seed=3)[0])
    trajectory = None
    for steps in (4, 2, 5):
        trajectory = record(
            inner,
            W0,
            THETA,
            updater=SGD(0.1, momentum=0.7),
            steps=steps,
            seed=3,
            memory=KeepStates(),
            batches=batches,
            after=trajectory,
        )
    assert relative_error(Reverse().differentiate(trajectory, outer_objective).grad, expected) <= 1e-12
    *_, last = sweep(trajectory, outer_objective)
    assert relative_error(last.grad, expected) <= 1e-12
    assert truncation_curve(trajectory, outer_objective).relative_error[-1] == 0


@pytest.mark.parametrize("fails_at", [3, 7, STEPS + 4])
def test_disk_goes_on_with_the_same_batches(tmp_path, fails_at):
    expected = solve(SOURCES["dataset"]())
    count = 0

    def interrupted(params, outer, batch):
        nonlocal count
        count += 1
        if count == fails_at:
            raise KeyboardInterrupt
        return inner(params, outer, batch)

    method = Reverse(memory=Disk(tmp_path / "steps", save_every=1))
    arguments = {"updater": SGD(0.1, momentum=0.7), "steps": STEPS, "method": method, "seed": 3}
    for _ in range(2):
        batches = SOURCES["dataset"]()
        try:
            found = hypergradient(interrupted, outer_objective, W0, THETA, batches=batches, **arguments)
        except KeyboardInterrupt:
            assert count == fails_at
    assert same_bits(found.grad, expected.grad)


def test_an_outer_loop_that_goes_on_sees_new_batches():
    batches = Batches((INDEX, X, Y), 4)
    repeated = [seen(batches, 3)[0] for _ in range(2)]
    assert same_bits(*repeated)  # One seed, the same steps.
    first, state = seen(batches, 3)
    then, _ = seen(batches, 3, state=state)
    assert not set(torch.cat([b[0] for b in first]).tolist()) & set(torch.cat([b[0] for b in then]).tolist())
    assert not same_bits(seen(batches, 3, seed=1)[0], seen(batches, 3, seed=2)[0])


def test_dictionaries_and_graphs():
    named = Batches({"x": X, "y": Y, "i": INDEX}, 5)
    assert {tuple(b) for b in seen(named, 3)[0]} == {("x", "y", "i")}
    graphs = [Data(x=torch.randn(n, 3), edge_index=torch.zeros(2, n, dtype=torch.long)) for n in range(1, 8)]
    found, _ = seen(GraphLoader(graphs, 2, shuffle=True), 8)
    assert [b.num_graphs for b in found] == [2, 2, 2, 1] * 2
    texts, _ = seen(DataLoader([{"text": "a", "n": i} for i in range(5)], 2), 4)
    assert texts[2]["text"] == ["a"]


# Implicit gradients


def ridge_batches(count):
    """The ridge problem of the oracles, its inner objective on batches."""
    problem, _, expected = ridge()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 5, generator=generator, dtype=DOUBLE)
    torch.randn(10, 5, generator=generator, dtype=DOUBLE)
    y = torch.randn(20, generator=generator, dtype=DOUBLE)

    def inner(w, outer, batch):
        x, y = batch
        return (x @ w - y).square().mean() / 2 + outer.exp() * w.square().sum() / 2

    w = torch.linspace(-1, 1, 5, dtype=DOUBLE)
    batches = Batches((x, y), 20 // count)
    full = inner(w, problem.outer, (x, y))
    assert float(problem.inner(w, problem.outer) - full) == pytest.approx(0, abs=1e-12)
    return problem._replace(inner=inner), batches, expected


@pytest.mark.parametrize("solver", ["cg", "neumann", "fixed_point", "dense"])
@pytest.mark.parametrize("steps", [0, 3])
def test_as_many_batches_as_an_epoch_are_the_whole_data(solver, steps):
    problem, batches, expected = ridge_batches(5)
    minimiser = ridge()[1]
    method = Implicit(solver, batches=5, tol=1e-13, stationarity_tol=1e-8)
    found = hypergradient(
        problem.inner,
        problem.outer_objective,
        minimiser,
        problem.outer,
        updater=SGD(0.3 if solver == "fixed_point" else 1e-12),
        steps=steps if solver != "fixed_point" else 0,
        method=method,
        batches=batches,
    )
    assert relative_error(found.grad, expected) <= 1e-9
    assert found.diagnostics.inner_gradient_norm <= 1e-9


def test_an_average_over_more_batches_is_closer():
    problem, batches, expected = ridge_batches(10)

    def error(count):
        errors = []
        for seed in range(12):
            with pytest.warns(PremiseWarning):
                found = hypergradient(
                    problem.inner,
                    problem.outer_objective,
                    ridge()[1],
                    problem.outer,
                    updater=SGD(0.1),
                    steps=0,
                    seed=seed,
                    method=Implicit(batches=count),
                    batches=batches,
                )
            errors.append(float((found.grad - expected).abs()))
        return sum(errors) / len(errors)

    assert error(8) < error(4) < error(1)


def test_an_average_needs_batches():
    problem = ridge()[0]
    with pytest.raises(InputError, match=r"Implicit\(batches=4\) averages over minibatches, but none came"):
        hypergradient(*problem, updater=SGD(0.1), steps=1, method=Implicit(batches=4))
    with pytest.raises(InputError, match="batches must be an integer >= 1, got 0"):
        Implicit(batches=0)


# Slips


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(10))


class Unsized(Dataset):
    def __getitem__(self, i):
        return i


class OwnGenerator(Sampler):
    def __init__(self):
        self.generator = np.random.default_rng(0)

    def __len__(self):
        return N

    def __iter__(self):
        return iter(self.generator.permutation(N).tolist())


class Lying(Sampler):
    def __init__(self, said):
        self.said = said

    def __len__(self):
        return self.said

    def __iter__(self):
        return iter([[0], [1], [2]])


class OwnIterator(DataLoader):
    def __iter__(self):
        return iter(SOURCES["list"]())


DATASET = TensorDataset(INDEX, X, Y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DATASET, "batches must say how large a batch is, got the dataset TensorDataset; give Batches"),
        (lambda: iter(SOURCES["list"]()), "got the iterator list_iterator; give what it iterates over"),
        (lambda: (b for b in SOURCES["list"]()), "got the iterator generator; give what it iterates over"),
        (lambda: iter(DataLoader(DATASET, 4)), "got the iterator _SingleProcessDataLoaderIter; give what it iter"),
        (lambda: X, r"got a tensor of shape \(22, 3\); give Batches"),
        (X.numpy, r"got an array of shape \(22, 3\); give Batches\(torch.as_tensor"),
        (lambda: {"x": X}, r"got a dict; give Batches\(data, batch_size=…\), or \[batch\]"),
        (lambda: DataLoader, "got the class DataLoader; make an object of it"),
        (lambda: 32, "got a int; give a list of it"),
        (list, "batches must hold a batch, but list has none"),
        (lambda: DataLoader([], 4), "batches must hold a batch, but DataLoader has none"),
        (lambda: DataLoader(DATASET, 50, drop_last=True), "batches must hold a batch, but DataLoader has none"),
        (lambda: Batches(X[:0], 4), "batches must hold a batch, but Batches has none"),
        (lambda: Batches(TensorDataset(X[:0]), 4), "batches must hold a batch, but Batches has none"),
        (lambda: Batches(X, 0), "batch_size must be an integer >= 1, got 0"),
        (lambda: Batches(X, 4.0), "batch_size must be an integer >= 1, got 4.0"),
        (lambda: Batches((X, Y[:5]), 4), "tensors of data must have as many rows, one per sample, got 5, 22"),
        (lambda: Batches((X, torch.tensor(1.0)), 4), "data must be a pytree of tensors with rows.* got a scalar"),
        (lambda: Batches(X.numpy(), 4), "data must be a pytree of tensors with rows.* got ndarray"),
        (lambda: Batches([X, X], 4), "got a list, which may be of samples; give DataLoader"),
        (lambda: Batches((), 4), "data must be a pytree of tensors with rows.* got nothing"),
        (lambda: Batches(X, 4, collate_fn=list), "collate_fn belongs to a dataset, got it with tensors"),
        (lambda: Batches(Stream(), 4), "but Stream is an IterableDataset; give a list of its batches"),
        (lambda: Stream(), "but Stream is an IterableDataset; give a list of its batches"),
        (lambda: DataLoader(Stream(), 4), "but Stream is an IterableDataset; give a list of its batches"),
        (lambda: Batches(Unsized(), 4), "batches must have a known number, but Unsized has no length"),
        (lambda: DataLoader(Augmented(), 4, sampler=OwnGenerator()), "but OwnGenerator of the loader gave another"),
        (
            lambda: DataLoader(Augmented(), batch_sampler=Lying(5)),
            "as many batches as it says, 5, but gave 3 in epoch 0",
        ),
        (
            lambda: DataLoader(Augmented(), batch_sampler=Lying(2)),
            "as many batches as it says, 2, but gave more in epoch 0",
        ),
        (lambda: OwnIterator(DATASET, 4), "but OwnIterator makes them in an iterator of its own; give list"),
        (
            lambda: [(INDEX, X, Y), (X, Y)],
            r"one structure, but that of step 1 is \(torch.float64\[:, :\], torch.float64\[:\]\), and others are",
        ),
        (lambda: [(INDEX, X, Y), (INDEX, X.float(), Y)], "one structure, but that of step 1 is"),
        (lambda: (X.split(4), Y.split(4)), "one structure, but that of step 1 is"),
        (lambda: (X, Y), "one structure, but that of step 1 is"),
    ],
)
def test_slips(make, message):
    def run():
        batches = make()
        loss = lambda p, o, b: p["w"].square().sum()  # noqa: E731
        hypergradient(loss, outer_objective, W0, THETA, updater=SGD(0.1), steps=STEPS, batches=batches)

    with pytest.raises(InputError, match=message):
        run()


def test_objectives_that_take_something_else():
    def without(params, outer):
        return params["w"].square().sum()

    batches = SOURCES["list"]()
    arguments = {"updater": SGD(0.1), "steps": 2}
    with pytest.raises(
        InputError, match=r"inner objective must take \(params, outer, batch\), since batches were give"
    ):
        hypergradient(without, outer_objective, W0, THETA, batches=batches, **arguments)
    with pytest.raises(
        InputError, match=r"inner objective must take \(params, outer\), but takes .*; of a batch, give"
    ):
        hypergradient(inner, outer_objective, W0, THETA, **arguments)
    with pytest.raises(InputError, match=r"outer objective must take \(params, outer\), but takes .*; batches are for"):
        hypergradient(inner, inner, W0, THETA, batches=batches, **arguments)
    with pytest.raises(InputError, match="outer objective must be a function, got Tensor"):
        hypergradient(inner, X, W0, THETA, batches=batches, **arguments)
    with pytest.raises(TypeError, match="unsupported operand"):  # The user's own error stays.
        hypergradient(lambda p, o: p + 1, outer_objective, W0, THETA, **arguments)
    with pytest.raises(InputError, match=r"inner objective must take \(params, outer, batch\)"):
        check_hypergradient(without, outer_objective, W0, THETA, batches=batches, **arguments)


def test_a_batch_must_not_be_written_to():
    def normalising(params, outer, batch):
        batch[1].sub_(batch[1].mean(0))
        return inner(params, outer, batch)

    batches = [tuple(x.clone() for x in b) for b in SOURCES["list"]()]
    with pytest.raises(InputError, match="must not write to its batch, but changed that of step 0 in place; work on a"):
        hypergradient(normalising, outer_objective, W0, THETA, updater=SGD(0.1), steps=2, batches=batches)


class Learned(Dataset):
    scale = torch.ones(3, dtype=DOUBLE, requires_grad=True)

    def __len__(self):
        return N

    def __getitem__(self, i):
        return i, self.scale * X[i], Y[i]


@pytest.mark.parametrize("batches", [Batches(Learned(), 4), [(INDEX, X.clone().requires_grad_(), Y)]])
def test_a_batch_must_be_constant(batches):
    with pytest.raises(InputError, match="but a tensor in that of step 0 requires grad; compute with params and outer"):
        solve(batches, Reverse(0))


def test_a_pair_is_no_two_batches_even_for_one_step():
    with pytest.raises(InputError, match="one structure, but that of step 1 is"):
        solve((X, Y), steps=1)


def test_resampled_noise_keeps_the_batches():
    batches = SOURCES["dataset"]()
    found = solve(batches, Reverse(noise="resample", memory=KeepStates()))
    assert same_bits(found.grad, solve(batches).grad)
    assert "tensor" not in repr(SOURCES["tensors"]())


def test_a_lazy_sequence_is_one():
    class Lazy(Sequence):
        def __len__(self):
            return 6

        def __getitem__(self, i):
            return i + torch.rand(2)

    assert same_bits(seen(Lazy(), 13), seen(Lazy(), 13))


@pytest.mark.parametrize("memory", [None, Checkpoint()], ids=["graphs", "checkpoint"])
def test_unroll_and_jacobian_see_the_same_batches(memory):
    arguments = {"updater": SGD(0.1), "steps": 5, "batches": SOURCES["list"](), "seed": 4}
    expected = hypergradient(inner, outer_objective, W0, THETA, **arguments)
    theta = optree.tree_map(lambda x: x.clone().requires_grad_(), THETA)
    w = unroll(inner, W0, theta, method=Reverse(memory=memory), **arguments)
    found = torch.autograd.grad(outer_objective(w, theta), optree.tree_leaves(theta), create_graph=True)
    assert relative_error(found, optree.tree_leaves(expected.grad)) <= 1e-12
    again = torch.autograd.grad(outer_objective(w, theta), optree.tree_leaves(theta))
    assert relative_error(again, optree.tree_leaves(expected.grad)) <= 1e-12
    rows = jacobian(inner, lambda p, o: outer_objective(p, o)[None], W0, THETA, **arguments).jacobian
    assert relative_error([x[0] for x in optree.tree_leaves(rows)], optree.tree_leaves(expected.grad)) <= 1e-12
