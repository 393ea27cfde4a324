"""The structure step of LDS done in several ways, and the graphs to do it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch_geometric.data import Data

from lds.data import load, num_classes
from lds.graph import AllPairs, SampledGraph, SparseMatrix, Structure
from lds.hypergrad import KeepStates, Reverse, hypergradient
from lds.nn import GCN, GCNLoss
from lds.updaters import Adam, State

LR, ETA, EPS = 0.02, 1.0, 1e-5


class DenseGraph:
    """A graph as a dense matrix that autograd follows."""

    def __init__(self, a: Tensor) -> None:
        degree = a.sum(1) + 1
        scale = degree.rsqrt()
        self.normalised = scale[:, None] * (a + torch.eye(a.shape[0])) * scale

    def propagate(self, m: Tensor) -> Tensor:
        return self.normalised @ m

    dropout_mask = SampledGraph.dropout_mask


class DenseTracer:
    def __init__(self, a: Tensor) -> None:
        self.leaf = a.detach().requires_grad_()
        self.value = DenseGraph(self.leaf)

    def inputs(self) -> tuple[Tensor]:
        return (self.leaf,)


class DenseAccumulator:
    def __init__(self, like: Tensor) -> None:
        self.sum = torch.zeros_like(like)

    def add(self, tracer: DenseTracer, cotangents: Any) -> None:
        self.sum += cotangents[0]

    def value(self) -> Tensor:
        return self.sum


class DensePairs:
    """θ as a dense N×N outer variable of the same engine: the recorder-and-VJP of published implementations."""

    def __init__(self, num_nodes: int, edge_index: Tensor) -> None:
        self.theta = torch.zeros(num_nodes, num_nodes)
        self.theta[edge_index[0], edge_index[1]] = 1.0
        self.theta = torch.maximum(self.theta, self.theta.T).fill_diagonal_(0)

    def sample(self) -> Tensor:
        upper = torch.bernoulli(self.theta).triu_(1)
        return upper + upper.T

    def draw(self) -> Any:
        return DrawnDense(self.sample())

    def trace(self, draw: Any) -> DenseTracer:
        return DenseTracer(draw.a)

    def accumulator(self) -> DenseAccumulator:
        return DenseAccumulator(self.theta)

    def project_(self, gradient: Tensor, lr: float) -> None:
        self.theta.sub_(gradient + gradient.T, alpha=lr).clamp_(0, 1).fill_diagonal_(0)


class DrawnDense(DenseGraph):
    def __init__(self, a: Tensor) -> None:
        super().__init__(a)
        self.a = a


@dataclass(frozen=True)
class KnownLoss:
    """An inner objective that knows its gradient, as that of the learner does."""

    loss: GCNLoss
    dropout: float

    def __call__(self, params: dict[str, Tensor], outer: Any) -> Tensor:
        return self.loss(list(params.values()), outer, self.dropout)

    def value_and_grad(self, params: dict[str, Tensor], outer: Any) -> tuple[Tensor, dict[str, Tensor]]:
        value, grads = self.loss.value_and_grad(list(params.values()), outer, self.dropout)
        return value, dict(zip(params, grads, strict=True))


@dataclass
class Problem:
    """A GCN on one data set, as the paper trains it."""

    x: SparseMatrix
    y: Tensor
    train: Tensor
    val: Tensor
    model: GCN
    params: dict[str, Tensor]

    @classmethod
    def of(cls, data: Data) -> Problem:
        torch.manual_seed(0)
        model = GCN(data.x.shape[1], num_classes(data))
        params = {name: value.detach() for name, value in model.named_parameters()}
        x = SparseMatrix(data.x) if data.x.is_sparse_csr else SparseMatrix.from_dense(data.x)
        nodes = (data.train_mask.nonzero().flatten(), data.val_mask.nonzero().flatten())
        return cls(x, data.y, *nodes, model, params)

    def inner(self, params: dict[str, Tensor], outer: Any) -> Tensor:
        self.model.train()
        logits = functional_call(self.model, params, (self.x, outer))
        weight = params["weights.0"].flatten()
        return torch.nn.functional.cross_entropy(logits[self.train], self.y[self.train]) + 2.5e-4 * weight.dot(weight)

    @property
    def inner_formula(self) -> KnownLoss:
        """The inner objective, differentiated by formula; on sampled graphs."""
        loss = GCNLoss(self.x, self.train, self.y[self.train], self.model.weights[-1].shape[1], 5e-4)
        return KnownLoss(loss, self.model.dropout)

    def outer_formula(self, params: dict[str, Tensor], outer: Any) -> Tensor:
        loss = GCNLoss(self.x, self.val, self.y[self.val], self.model.weights[-1].shape[1])
        return loss(list(params.values()), outer)

    def outer(self, params: dict[str, Tensor], outer: Any) -> Tensor:
        self.model.eval()
        logits = functional_call(self.model, params, (self.x, outer))
        return torch.nn.functional.cross_entropy(logits[self.val], self.y[self.val])


def engine_step(problem: Problem, structure: Structure | DensePairs, tau: int) -> Callable[[], Any]:
    """One outer step with the engine: τ inner steps on fresh graphs, sweep, update of θ; warm-started.

    The dense structure keeps iterates only, as a recorder-and-VJP does.
    """
    memory = KeepStates() if isinstance(structure, DensePairs) else None
    state: State | None = None
    seed = 0

    def step() -> Any:
        nonlocal state, seed
        result = hypergradient(
            problem.inner,
            problem.outer,
            problem.params,
            structure,
            updater=Adam(LR, eps=EPS),
            steps=tau,
            method=Reverse(tau, memory=memory),
            seed=seed,
            state=state,
        )
        structure.project_(result.grad, ETA)
        state, seed = result.state, seed + 1
        return result

    return step


def learner_step(data: Data, structure: Structure, tau: int) -> Callable[[], Any]:
    """The same with the objectives of the learner, which look at the active part of a graph of candidate pairs."""
    from lds.learner._structure_learner import _objectives
    from lds.learner._task import Task

    task = Task(data, GCN, 5e-4)
    task.check_structure(structure)
    params, state, seed = task.initial_params(), None, 0
    inner, outer = _objectives(task)

    def step() -> Any:
        nonlocal state, seed
        result = hypergradient(
            inner,
            outer,
            params,
            {"structure": structure},
            updater=Adam(LR, eps=EPS),
            steps=tau,
            method=Reverse(tau),
            seed=seed,
            state=state,
        )
        structure.project_(result.grad["structure"], ETA)
        state, seed = result.state, seed + 1
        return result

    return step


def unroll_step(problem: Problem, structure: DensePairs, tau: int) -> Callable[[], Any]:
    """One outer step by a plain dense unroll with create_graph=True."""
    updater = Adam(LR, eps=EPS)
    params, slots = problem.params, updater.init(problem.params)

    def step() -> Any:
        nonlocal params, slots
        state = State({k: v.detach().requires_grad_() for k, v in params.items()}, slots)
        leaves = []
        for _ in range(tau):
            leaves.append(structure.sample().requires_grad_())
            state = updater.step(state, DenseGraph(leaves[-1]), problem.inner)
        leaves.append(structure.sample().requires_grad_())
        loss = problem.outer(state.params, DenseGraph(leaves[-1]))
        structure.project_(torch.stack(torch.autograd.grad(loss, leaves)).sum(0), ETA)
        params = {k: v.detach() for k, v in state.params.items()}
        slots = torch.utils._pytree.tree_map_only(Tensor, Tensor.detach, state.slots)

    return step


def torchopt_step(problem: Problem, structure: DensePairs, tau: int) -> Callable[[], Any]:
    """One outer step by TorchOpt's differentiable Adam on the same dense graphs."""
    import torchopt

    optimizer = torchopt.adam(lr=LR)
    params = {k: v.clone().requires_grad_() for k, v in problem.params.items()}
    slots = optimizer.init(params)

    def step() -> Any:
        nonlocal params, slots
        leaves = []
        for _ in range(tau):
            leaves.append(structure.sample().requires_grad_())
            loss = problem.inner(params, DenseGraph(leaves[-1]))
            grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            updates, slots = optimizer.update(dict(zip(params, grads, strict=True)), slots, inplace=False)
            params = torchopt.apply_updates(params, updates, inplace=False)
        leaves.append(structure.sample().requires_grad_())
        loss = problem.outer(params, DenseGraph(leaves[-1]))
        structure.project_(torch.stack(torch.autograd.grad(loss, leaves)).sum(0), ETA)
        params = {k: v.detach().requires_grad_() for k, v in params.items()}
        slots = torchopt.pytree.tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, slots)

    return step


def cora() -> Data:
    return load("cora")


def synthetic(nodes: int, edges: int, features: int = 500, density: float = 0.1, classes: int = 3) -> Data:
    """A random graph with the sizes of a citation data set: 20 training nodes a class, 250 validation nodes.

    There are ten nodes for early stopping, and ten test nodes.
    """
    generator = torch.Generator().manual_seed(0)
    count = int(features * density)
    # Not all of them are held as dense ones.
    rows = (min(100_000, nodes - start) for start in range(0, nodes, 100_000))
    col = torch.cat([_columns(n, features, count, generator) for n in rows])
    starts = torch.arange(0, nodes * count + 1, count, dtype=torch.int32)
    values = torch.full((nodes * count,), 1 / count)
    x = torch.sparse_csr_tensor(starts, col, values, (nodes, features), check_invariants=False)
    order = torch.randperm(nodes, generator=generator)
    masks = torch.zeros(4, nodes, dtype=torch.bool)
    train = 20 * classes
    for mask, start, stop in zip(
        masks, (0, train, train + 250, train + 260), (train, train + 250, train + 260, train + 270), strict=True
    ):
        mask[order[start:stop]] = True
    return Data(
        x=x,
        y=torch.randint(classes, (nodes,), generator=generator),
        edge_index=torch.randint(nodes, (2, edges), generator=generator),
        train_mask=masks[0],
        val_mask=masks[1],
        es_mask=masks[2],
        test_mask=masks[3],
        num_classes=classes,
        num_nodes=nodes,
    )


def _columns(nodes: int, features: int, count: int, generator: torch.Generator) -> Tensor:
    """Random features of so many nodes, `count` of each, sorted."""
    score = torch.rand(nodes, features, generator=generator)
    return score.topk(count, dim=1).indices.sort(1).values.int().flatten()


def all_pairs(data: Data) -> AllPairs:
    return AllPairs(data.num_nodes, data.edge_index)


def dense_pairs(data: Data) -> DensePairs:
    return DensePairs(data.num_nodes, data.edge_index)
