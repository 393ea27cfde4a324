"""Edge probabilities on candidate pairs as a function of outer variables φ, with penalties and an updater of φ."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import optree
import torch
from torch import Tensor

from lds._checks import check
from lds._random import forked, reseed
from lds._sparse import SparseMatrix
from lds.errors import InputError
from lds.graph._candidate_pairs import CandidateGradient, CandidatePairs
from lds.graph._factors import check_step
from lds.updaters import SGD, Adam, RMSprop, State, Updater

Score = Literal["free", "logit", "metric", "low-rank", "mlp"]
OuterUpdater = Literal["sgd", "adam", "rmsprop"]

# A logit starts from a probability no nearer to 0 or 1.
_MARGIN = 0.01
_UPDATERS: dict[str, type[SGD] | type[Adam] | type[RMSprop]] = {"sgd": SGD, "adam": Adam, "rmsprop": RMSprop}


class LearnedPairs(CandidatePairs):
    r"""Edge probabilities θ on candidate pairs, a function of φ, for fewer or better-behaved degrees of freedom.

    .. math:: \theta_{ij} = \sigma(o_{ij} + s_\varphi(i, j) - s_{\varphi_0}(i, j)), \qquad
        o_{ij} = \mathrm{logit}(\mathrm{clip}(\theta^0_{ij}, 0.01, 0.99))

    So θ starts from the given probabilities, whatever φ_0 is. With z of rank r, the score s is

    * "logit": φ_ij itself;
    * "metric": −‖z_i − z_j‖², z = X W, a learned metric;
    * "low-rank": ⟨z_i, z_j⟩, z free;
    * "mlp": ⟨z_i, z_j⟩, z = ReLU(X W) V;

    and "free" is θ = φ, clipped to [0, 1], as in `CandidatePairs`. The hypergradient dF/dθ is that of `CandidatePairs`;
    it gets the gradient of

    .. math:: \frac{\mathrm{pull}}2 \sum (\theta_{ij} - \theta^0_{ij})^2 + \mathrm{sparsity} \sum \theta_{ij} +
        \mathrm{smoothness} \sum \theta_{ij} \|x_i - x_j\|^2

    over the candidates, is pulled back to φ by autograd, and moves φ by a step of the updater.

    Args:
        num_nodes: number of nodes N ≥ 1.
        edge_index: edges that start with probability 1, int64 of shape [2, E].
        x: features of shape [N, F], dense or sparse.
        candidates: further pairs, which start with probability 0, int64 of shape [2, ·].
        probability: what the edges start with in place of 1, in [0, 1], of shape [E].
        score: see above.
        updater: "sgd", "adam" or "rmsprop"; the step size is the learner's.
        pull: coefficient of the pull towards the initial probabilities.
        sparsity: coefficient of the number of edges.
        smoothness: coefficient of the squared distance of features along edges.
        rank: r, and the width of the hidden layer of "mlp".
        seed: seed of φ_0.
        dtype: type of θ.

    Raises:
        InputError: an argument is out of range, or there is no candidate at all.

    Example:
        >>> import torch
        >>> x, edges = torch.eye(3), torch.tensor([[0], [1]])
        >>> pairs = LearnedPairs(3, edges, x=x, candidates=torch.tensor([[0], [2]]), score="metric", updater="adam")
        >>> pairs.state().numel() > 2, round(pairs.expected_edges, 3)
        (True, 1.0)
    """

    def __init__(
        self,
        num_nodes: int,
        edge_index: Tensor,
        *,
        x: Tensor,
        candidates: Tensor | None = None,
        probability: Tensor | None = None,
        score: Score = "free",
        updater: OuterUpdater = "sgd",
        pull: float = 0.0,
        sparsity: float = 0.0,
        smoothness: float = 0.0,
        rank: int = 16,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(num_nodes, edge_index, candidates=candidates, probability=probability, dtype=dtype)
        check_learned(score=score, updater=updater, pull=pull, sparsity=sparsity, smoothness=smoothness)
        self._row, self._col = self._index.row.long(), self._index.col.long()
        self._score, self._kind = score, updater
        self._pull, self._sparsity = pull, sparsity
        self._initial = self._theta.clone()
        x = x.to(dtype)
        if x.layout == torch.sparse_csr:
            x = x.to_sparse_coo()  # type: ignore[no-untyped-call]
        self._far = smoothness * _distances(x, self._row, self._col) if smoothness else None
        self._x: Any = x if x.layout == torch.strided else SparseMatrix(x.to_sparse_csr())
        with forked():
            reseed(seed)
            self._phi = self._first(x.shape[1], rank)
        self._offset = self._theta.new_zeros(())
        if score != "free":
            with torch.no_grad():
                self._offset = self._initial.clamp(_MARGIN, 1 - _MARGIN).logit() - self._scores(self._phi)
        self._slots = self._updater(1.0).init(self._phi)
        self._step = 0
        self._refresh()

    def project_(self, gradient: CandidateGradient, lr: float) -> None:
        """Take a step of the updater in φ, with the gradient of the penalties added.

        Raises:
            NumericalError: the gradient or the step is not finite; φ is left as it was.
        """
        wanted = gradient.at(self._row, self._col) + self.penalty_gradient()
        check_step(float(torch.linalg.vector_norm(wanted, torch.inf)), lr, wanted.dtype)
        pulled = self.pull_back(wanted)

        def inner(phi: dict[str, Tensor], _: Any) -> Tensor:
            return torch.stack([(phi[name] * pulled[name]).sum() for name in pulled]).sum()

        before = {name: value.detach().requires_grad_() for name, value in self._phi.items()}
        after = self._updater(lr).step(State(before, self._slots, self._step), (), inner)
        phi = {name: value.detach() for name, value in after.params.items()}
        check_step(max(float(value.abs().max()) for value in phi.values()), 1.0, wanted.dtype)
        slots: Any = after.slots
        self._phi = phi
        self._slots = optree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, slots)
        if self._score == "free":
            self._phi["phi"].clamp_(0, 1)
        self._step += 1
        self._refresh()

    def penalty_gradient(self) -> Tensor:
        """Return the gradient of the penalties in θ, shape [C]."""
        found = self._pull * (self._theta - self._initial) + self._sparsity
        return found if self._far is None else found + self._far

    def pull_back(self, gradient: Tensor) -> dict[str, Tensor]:
        """Return the gradient in φ of a function whose gradient in θ has shape [C]."""
        phi = {name: value.detach().requires_grad_() for name, value in self._phi.items()}
        with torch.enable_grad():
            theta = self.probabilities(phi)
        return dict(zip(phi, torch.autograd.grad(theta, list(phi.values()), gradient), strict=True))

    def probabilities(self, phi: dict[str, Tensor]) -> Tensor:
        """Return θ at φ, shape [C]."""
        return phi["phi"] if self._score == "free" else (self._offset + self._scores(phi)).sigmoid()

    @property
    def phi(self) -> dict[str, Tensor]:
        """A copy of φ."""
        return {name: value.clone() for name, value in self._phi.items()}

    def state(self) -> Tensor:
        """Return φ and what the updater carries, in one row of numbers; `restore_` takes it back."""
        leaves = [leaf.flatten() for leaf in self._leaves()]
        return torch.cat([*leaves, self._theta.new_tensor([float(self._step)])])

    def restore_(self, state: Tensor) -> None:
        """Set φ and what the updater carries to what `state` returned."""
        sizes = [leaf.numel() for leaf in self._leaves()]
        *parts, step = torch.split(state, [*sizes, 1])
        for leaf, part in zip(self._leaves(), parts, strict=True):
            leaf.copy_(part.view_as(leaf))
        self._step = int(step)
        # Counts of the updater are its number of steps.
        slots: Any = self._slots
        self._slots = optree.tree_map(lambda leaf: self._step if isinstance(leaf, int) else leaf, slots)
        self._refresh()

    def pairs_alone(self) -> CandidatePairs:
        """Return the same probabilities as plain candidate pairs."""
        pairs = torch.stack([self._row, self._col])
        plain = CandidatePairs(self.num_nodes, pairs[:, :0], candidates=pairs, dtype=self._theta.dtype)
        plain.restore_(self._theta)
        return plain

    def _leaves(self) -> list[Tensor]:
        tree: Any = (self._phi, self._slots)
        return [leaf for leaf in optree.tree_leaves(tree) if isinstance(leaf, Tensor)]

    def _updater(self, lr: float) -> Updater:
        return _UPDATERS[self._kind](lr)

    def _first(self, features: int, rank: int) -> dict[str, Tensor]:
        like = self._theta

        def drawn(*shape: int) -> Tensor:
            return torch.nn.init.xavier_uniform_(like.new_empty(shape))

        if self._score == "free":
            return {"phi": like.clone()}
        if self._score == "logit":
            return {"phi": torch.zeros_like(like)}
        bias = {"bias": like.new_zeros(())}
        if self._score == "metric":
            return {"weight": drawn(features, rank), **bias}
        if self._score == "low-rank":
            return {"z": drawn(self.num_nodes, rank), **bias}
        return {"first": drawn(features, rank), "second": drawn(rank, rank), **bias}

    def _scores(self, phi: dict[str, Tensor]) -> Tensor:
        if self._score == "logit":
            return phi["phi"]
        if self._score == "metric":
            z: Tensor = self._x @ phi["weight"]
            return phi["bias"] - (z[self._row] - z[self._col]).square().sum(1)
        z = phi["z"] if self._score == "low-rank" else (self._x @ phi["first"]).relu() @ phi["second"]
        return phi["bias"] + (z[self._row] * z[self._col]).sum(1)

    def _refresh(self) -> None:
        with torch.no_grad():
            self._set_theta(self.probabilities(self._phi).clone())


def check_learned(*, score: str, updater: str, pull: float, sparsity: float, smoothness: float) -> None:
    """Check what `LearnedPairs` is asked for.

    Raises:
        InputError: an argument is out of range.
    """
    for name, value, known in (("score", score, get_args(Score)), ("updater", updater, tuple(_UPDATERS))):
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r:.80}")
    for name, size in (("pull", pull), ("sparsity", sparsity), ("smoothness", smoothness)):
        check(name, size, "finite and >= 0", lambda value: 0 <= value < math.inf)


def _distances(x: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """Return ‖x_i − x_j‖² of pairs, in blocks, shape [C]."""
    found = []
    for start in range(0, row.numel(), _BLOCK):
        one, other = (x.index_select(0, nodes[start : start + _BLOCK]).to_dense() for nodes in (row, col))
        found.append((one - other).square().sum(1))
    return torch.cat(found)


_BLOCK = 4096
