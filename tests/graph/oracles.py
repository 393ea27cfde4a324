"""Dense graphs as leaves of autograd, models of every kind, and random θ: what factored gradients are held against."""

import torch
from torch import nn

from lds.graph import AllPairs, FactorPairs, SampledGraph
from lds.nn import GCN
from tests.oracles import DOUBLE, Problem, unroll


class DenseGraph:
    """What `SampledGraph` offers, from a dense A that autograd sees: straight-through, A = sample + θ − stop(θ).

    The leaf `moved` is θ − stop(θ), zeros of shape [N, N]; ∂f/∂θ_ij is G_ij + G_ji with G its gradient.
    """

    def __init__(self, graph, moved):
        self.num_nodes = graph.num_nodes
        self.adjacency = dense_adjacency(graph) + moved
        self.dropout_mask = graph.dropout_mask

    def matmul(self, m):
        return self.adjacency @ m

    def propagate(self, m):
        return normalise(self.adjacency) @ m


def dense_adjacency(graph):
    a = graph.weight.new_zeros(graph.num_nodes, graph.num_nodes)
    a[graph.row, graph.col] = graph.weight
    a[graph.col, graph.row] = graph.weight
    return a


def normalise(adjacency):
    """Â = D̃^{-1/2} (A + I) D̃^{-1/2}."""
    scale = (adjacency.sum(1) + 1).rsqrt()
    return scale[:, None] * (adjacency + torch.eye(adjacency.shape[0], dtype=adjacency.dtype)) * scale


def dense_hypergradient(problem, updater, steps, *, horizon=None, seed=0):
    """The unroll of `tests.oracles` on dense graphs; the structure's gradient comes as the matrix G + Gᵀ."""
    structure = problem.outer["structure"]
    moved = structure.draw().weight.new_zeros(structure.num_nodes, structure.num_nodes)
    asked = problem._replace(outer=dict(problem.outer, structure=moved))

    def show(outer):
        return dict(outer, structure=DenseGraph(structure.draw(), outer["structure"]))

    result = unroll(asked, updater, steps, horizon=horizon, seed=seed, show=show)
    g = result.grad["structure"]
    result.grad["structure"] = (g + g.T).fill_diagonal_(0)
    return result


def structure_of(theta):
    """The structure with these probabilities (the upper triangle counts): a step of size 1 from nothing at all."""
    n = theta.shape[0]
    structure = AllPairs(n, torch.zeros(2, 0, dtype=torch.int64), dtype=theta.dtype)
    step = FactorPairs(((-theta.triu(1), torch.eye(n, dtype=theta.dtype)),), theta.new_zeros(n))
    structure.project_(step, 1.0)
    assert torch.equal(structure.to_dense(), theta.triu(1) + theta.triu(1).T)
    return structure


def theta(kind, n, *, dtype=DOUBLE, seed=0):
    """Symmetric probabilities of a kind, zero on the diagonal."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(n, n, generator=generator, dtype=DOUBLE)
    p = {
        "random": uniform,
        "sparse": torch.where(uniform < 0.1, 0.5, 0.0) + 0.02 * uniform,
        "isolated": torch.where(uniform < 0.15, 1.0, 0.0),
        "empty": torch.zeros_like(uniform),
        "complete": torch.ones_like(uniform),
    }[kind].triu(1)
    if kind == "isolated":
        p[: n // 3], p[:, : n // 3] = 0, 0
    return (p + p.T).to(dtype)


class SGC(nn.Module):
    """Constant features, propagated twice."""

    def __init__(self, features, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, classes))

    def forward(self, x, graph):
        return graph.propagate(graph.propagate(x)) @ self.weight


class APPNP(nn.Module):
    """Predictions, propagated with restarts; the operands of all products depend on the weights."""

    def __init__(self, features, classes):
        super().__init__()
        self.first, self.second = nn.Linear(features, 6), nn.Linear(6, classes)

    def forward(self, x, graph):
        start = self.second(torch.tanh(self.first(x)))
        h = start
        for _ in range(3):
            h = 0.9 * graph.propagate(h) + 0.1 * start
        return h


class Mean(nn.Module):
    """Raw products A M, with degrees taken as products too."""

    def __init__(self, features, classes):
        super().__init__()
        self.own, self.other = nn.Linear(features, classes), nn.Linear(features, classes)

    def forward(self, x, graph):
        degree = graph.matmul(x.new_ones(x.shape[0], 1))
        hidden = torch.tanh(graph.matmul(self.other(x)) / (degree + 1))
        return self.own(x) + hidden + graph.matmul(hidden) / (degree + 1).sqrt()


class Both(nn.Module):
    """Both kinds of product in one model, and a product whose result nothing uses."""

    def __init__(self, features, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, classes))

    def forward(self, x, graph):
        h = graph.propagate(x @ self.weight)
        graph.matmul(h)
        return graph.matmul(torch.sigmoid(h)) + graph.propagate(h * h)


MODELS = {
    "gcn-1": lambda f, c: GCN(f, c, num_layers=1),
    "gcn-2": lambda f, c: GCN(f, c, hidden_channels=8),
    "gcn-3": lambda f, c: GCN(f, c, hidden_channels=5, num_layers=3, dropout=0.3),
    "sgc": SGC,
    "appnp": APPNP,
    "mean": Mean,
    "both": Both,
}


def node_classification(structure, model="gcn-2", *, features=7, classes=3, seed=0, wrap=lambda x: x):
    """Inner and outer objective of a model on random features and labels; a few nodes are labelled."""
    generator = torch.Generator().manual_seed(seed)
    n, dtype = structure.num_nodes, structure.draw().weight.dtype
    x = torch.randn(n, features, generator=generator, dtype=DOUBLE)
    x = wrap((x * (torch.rand(x.shape, generator=generator, dtype=DOUBLE) < 0.4)).to(dtype))
    y = torch.randint(classes, (n,), generator=generator)
    order = torch.randperm(n, generator=generator)
    train, val = order[: n // 5], order[n // 5 : 2 * n // 5]
    module = MODELS[model](features, classes).to(dtype)
    params = {
        name: (0.7 * torch.randn(p.shape, generator=generator, dtype=DOUBLE)).to(dtype)
        for name, p in module.named_parameters()
    }

    def loss(params, outer, nodes):
        logits = torch.func.functional_call(module, params, (x, outer["structure"]))
        return nn.functional.cross_entropy(logits[nodes], y[nodes])

    def inner(params, outer):
        module.train()
        penalty = sum(p.square().sum() for p in params.values())
        return loss(params, outer, train) + outer["log_penalty"].exp() * penalty

    def outer_objective(params, outer):
        module.eval()
        return loss(params, outer, val)

    outer = {"structure": structure, "log_penalty": torch.tensor(-5.0, dtype=dtype)}
    return Problem(inner, outer_objective, params, outer)


class FixedWeights:
    """A graph that is not drawn but has weights θ, an outer variable whose loss is smooth in them."""

    def __init__(self, num_nodes, row, col, weight):
        self.num_nodes = num_nodes
        self.row, self.col, self.weight = row, col, weight

    def draw(self):
        return SampledGraph(self.num_nodes, self.row, self.col, self.weight)

    trace = AllPairs.trace

    def accumulator(self):
        from lds.graph._factors import FactorAccumulator

        return FactorAccumulator(self.num_nodes, self.weight)
