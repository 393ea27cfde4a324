"""Whatever the shapes, horizons, updaters, dtypes, memory, methods and graphs: the hypergradient is that of the unroll.

Cases are drawn with a fixed seed; LDS_EXAMPLES=2000 draws so many of each kind, where 30 to 60 are drawn otherwise, and
--hypothesis-seed=7 draws others.
"""

import os

import optree
import torch
from hypothesis import core, example, given, settings
from hypothesis import strategies as st

from lds.hypergrad import (
    Binomial,
    Checkpoint,
    FiniteDifference,
    Forward,
    KeepGraphs,
    KeepStates,
    Reverse,
    hypergradient,
)
from lds.updaters import SGD, Adagrad, Adam, AdamW, ClipByNorm, ClipByValue, Lion, RMSprop
from tests.graph.oracles import MODELS, dense_hypergradient, node_classification, structure_of, theta
from tests.oracles import DOUBLE, Problem, same_bits, unroll

shapes = st.lists(st.integers(1, 3), max_size=2).map(tuple)
dtypes = st.sampled_from([torch.float32, torch.float64])
leaves = st.tuples(shapes, dtypes)
trees = st.recursive(
    leaves.map(lambda x: ("leaf", x)),
    lambda children: st.tuples(st.sampled_from(["list", "tuple", "dict"]), st.lists(children, min_size=1, max_size=2)),
    max_leaves=3,
)
# Smooth enough for differences.
SMOOTH = [
    SGD(0.1),
    SGD(lambda outer: outer[1]),
    SGD(0.1, momentum=0.8),
    SGD(0.1, momentum=lambda outer: outer[2], nesterov=True),
    Adam(lambda outer: outer[1], eps=0.3),
    RMSprop(0.05, eps=0.3),
    Adagrad(lambda outer: outer[1], eps=0.3),
]
UPDATERS = [
    *SMOOTH,
    Adam(0.05),
    Adam(lambda outer: outer[1], (0.8, lambda outer: outer[2])),
    AdamW(0.05, weight_decay=lambda outer: outer[1]),
    RMSprop(0.05),
    Adagrad(0.1, lr_decay=lambda outer: outer[1], weight_decay=0.1),
    # In pieces: the unroll takes the same steps on the same numbers, and so the same pieces.
    Lion(lambda outer: outer[1], (0.8, lambda outer: outer[2]), weight_decay=lambda outer: outer[2]),
    ClipByNorm(SGD(0.1, momentum=0.8), 0.5),
    ClipByNorm(Adagrad(0.1), lambda outer: outer[2]),
    ClipByValue(SGD(lambda outer: outer[1]), lambda outer: outer[2]),
    ClipByValue(ClipByNorm(AdamW(0.05), 2.0), 0.3),
]
MEMORIES = [None, KeepGraphs(0), KeepStates(), Checkpoint(), Checkpoint(every=2), Binomial(1)]


def examples(count):
    """Settings of a property that is asked about so many cases."""
    count = int(os.environ.get("LDS_EXAMPLES", count))
    # Where cases are derandomized, hypothesis does not look at its seed.
    return settings(max_examples=count, deadline=None, derandomize=core.global_force_seed is None, database=None)


def build(tree, generator):
    """The pytree of random tensors that a drawn description stands for."""
    kind, content = tree
    if kind == "leaf":
        shape, dtype = content
        return torch.randn(shape, generator=generator, dtype=DOUBLE).to(dtype)
    children = [build(child, generator) for child in content]
    return {"list": list, "tuple": tuple, "dict": lambda x: dict(zip("ab", x, strict=False))}[kind](children)


def couple(params, outer):
    """A smooth scalar in which every param meets every outer variable."""
    numbers = [x.double() for x in optree.tree_leaves(outer)]
    scale = sum(x.tanh().mean() for x in numbers)
    total = sum((i + 1) * torch.sin(x.double() + 0.3 * i).sum() for i, x in enumerate(optree.tree_leaves(params)))
    parts = (torch.cosh(0.5 * x.double() - scale).sum() for x in optree.tree_leaves(params))
    return sum(parts) + 0.1 * total.square()


def problem_of(tree, outer_tree, dropout, seed):
    generator = torch.Generator().manual_seed(seed)
    params = build(tree, generator)
    # A scalar of double precision would promote a scalar param of single precision, and no step may do that.
    scalars = [x.dtype for x in optree.tree_leaves(params) if x.ndim == 0]
    dtype = torch.float32 if torch.float32 in scalars else DOUBLE
    outer = (build(outer_tree, generator), torch.tensor(0.1, dtype=dtype), torch.tensor(0.7, dtype=dtype))

    def inner(params, outer):
        if dropout:
            params = optree.tree_map(lambda x: torch.nn.functional.dropout(x, 0.3), params)
        return couple(params, outer)

    def outer_objective(params, outer):
        return couple(params, outer).tanh() + sum(x.double().square().sum() for x in optree.tree_leaves(params))

    return Problem(inner, outer_objective, params, outer)


@examples(60)
@given(
    tree=trees,
    outer_tree=trees,
    steps=st.integers(0, 5),
    horizon=st.none() | st.integers(0, 6),
    updater=st.sampled_from(UPDATERS),
    memory=st.sampled_from(MEMORIES),
    dropout=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_the_unroll(tree, outer_tree, steps, horizon, updater, memory, dropout, seed):
    problem = problem_of(tree, outer_tree, dropout, seed)
    method = Reverse(horizon, memory=memory)
    found = hypergradient(*problem, updater=updater, steps=steps, method=method, seed=seed)
    check(found, problem, unroll(problem, updater, steps, horizon=horizon, seed=seed))


def check(found, problem, expected, *, rounding=0.0):
    assert optree.tree_structure(found.grad) == optree.tree_structure(problem.outer)
    # In single precision both sides round, and the sums over steps cancel: the scale is that of the largest leaf.
    mixed = any(x.dtype == torch.float32 for x in optree.tree_leaves((problem.params, problem.outer)))
    tolerance = 1e-4 if mixed else 1e-10
    scale = max(x.abs().max().item() for x in optree.tree_leaves(expected.grad))
    floor = rounding * torch.finfo(torch.float32 if mixed else DOUBLE).eps
    for x, y, like in zip(*map(optree.tree_leaves, (found.grad, expected.grad, problem.outer)), strict=True):
        assert x.dtype == like.dtype
        assert x.shape == like.shape
        assert (x - y).abs().max().item() <= tolerance * scale + floor


@examples(30)
@example(  # The derivative of a single number clipped by its norm is rounding alone.
    tree=("leaf", ((), torch.float32)),
    outer_tree=("leaf", ((), torch.float32)),
    steps=1,
    updater=ClipByNorm(SGD(0.1, momentum=0.8), 0.5),
    dropout=False,
    seed=59,
)
@given(
    tree=trees,
    outer_tree=trees,
    steps=st.integers(0, 4),
    updater=st.sampled_from(UPDATERS),
    dropout=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_forward_mode_equals_the_unroll(tree, outer_tree, steps, updater, dropout, seed):
    problem = problem_of(tree, outer_tree, dropout, seed)
    found = hypergradient(*problem, updater=updater, steps=steps, method=Forward(), seed=seed)
    # Tangents of size one are summed in another order, and may cancel to far less than they are.
    check(found, problem, unroll(problem, updater, steps, seed=seed), rounding=10)


@examples(30)
@given(
    shapes=st.lists(shapes, min_size=1, max_size=2),
    steps=st.integers(0, 3),
    updater=st.sampled_from(SMOOTH),
    dropout=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_differences_equal_the_unroll(shapes, steps, updater, dropout, seed):
    tree = ("list", [("leaf", (shape, DOUBLE)) for shape in shapes])
    problem = problem_of(tree, ("leaf", ((), DOUBLE)), dropout, seed)
    found = hypergradient(*problem, updater=updater, steps=steps, method=FiniteDifference(), seed=seed)
    expected = unroll(problem, updater, steps, seed=seed)
    got, wanted = (torch.stack(optree.tree_leaves(result.grad)) for result in (found, expected))
    # Differences of losses lose what these round off, divided by the step of some 1e-5.
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max() + 1e-9 * max(abs(expected.loss), 1)


@examples(30)
@given(
    tree=trees,
    outer_tree=trees,
    steps=st.integers(0, 4),
    horizon=st.none() | st.integers(0, 5),
    updater=st.sampled_from(UPDATERS),
    memory=st.sampled_from(MEMORIES),
    dropout=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_resampled_noise(tree, outer_tree, steps, horizon, updater, memory, dropout, seed):
    """The same seed gives the same bits, and without noise there is nothing to resample."""
    problem = problem_of(tree, outer_tree, dropout, seed)

    def run(noise):
        method = Reverse(horizon, memory=memory, noise=noise)
        return hypergradient(*problem, updater=updater, steps=steps, method=method, seed=seed)

    found, again = run("resample"), run("resample")
    assert same_bits(found.grad, again.grad)
    assert same_bits(found.state, again.state)
    if not dropout:
        check(found, problem, run("replay"))


@examples(40)
@given(
    nodes=st.integers(5, 24),
    kind=st.sampled_from(["random", "sparse", "isolated", "empty", "complete"]),
    model=st.sampled_from(sorted(MODELS)),
    steps=st.integers(0, 4),
    horizon=st.none() | st.integers(0, 5),
    updater=st.sampled_from([SGD(0.1), SGD(0.1, momentum=0.8), Adam(0.05, eps=1e-5)]),
    memory=st.sampled_from(MEMORIES),
    seed=st.integers(0, 1000),
)
def test_equals_the_unroll_on_dense_graphs(nodes, kind, model, steps, horizon, updater, memory, seed):
    problem = node_classification(structure_of(theta(kind, nodes, seed=seed)), model, seed=seed)
    method = Reverse(horizon, memory=memory)
    found = hypergradient(*problem, updater=updater, steps=steps, method=method, seed=seed)
    expected = dense_hypergradient(problem, updater, steps, horizon=horizon, seed=seed)
    got, wanted = found.grad["structure"].to_dense(), expected.grad["structure"]
    assert (got - wanted).abs().max() <= 1e-9 * wanted.abs().max() + 1e-14
