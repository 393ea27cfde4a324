"""Edge probabilities on candidate pairs as a function of other variables φ, moved by Adam."""

from __future__ import annotations

from typing import Any, Literal, get_args

import optree
import torch
from torch import Tensor

from lds._random import forked, reseed
from lds._sparse import SparseMatrix
from lds.errors import InputError
from lds.graph._candidate_pairs import CandidateGradient, CandidatePairs
from lds.graph._factors import check_step
from lds.updaters import Adam, State

Score = Literal["logit", "metric"]

# A logit starts from a probability no nearer to 0 or 1.
_MARGIN = 0.01


class LearnedPairs(CandidatePairs):
    r"""Edge probabilities θ on candidate pairs, a function of φ, for fewer or better-behaved degrees of freedom.

    .. math:: \theta_{ij} = \sigma(o_{ij} + s_\varphi(i, j) - s_{\varphi_0}(i, j)), \qquad
        o_{ij} = \mathrm{logit}(\mathrm{clip}(\theta^0_{ij}, 0.01, 0.99))

    So θ starts from the given probabilities, whatever φ_0 is. The score s is

    * "logit": φ_ij itself;
    * "metric": b − ‖z_i − z_j‖² with z = X W of rank r, a learned metric; φ = (W, b).

    The hypergradient dF/dθ is that of `CandidatePairs`. It is pulled back to φ by autograd, and Adam moves φ by it;
    the learner's `outer_lr` is its step size, and 0.01 to 0.1 are usual.

    Args:
        num_nodes: number of nodes N ≥ 1.
        edge_index: edges that start with probability 1, int64 of shape [2, E].
        x: features of shape [N, F], dense or sparse; for "metric" alone.
        candidates: further pairs, which start with probability 0, int64 of shape [2, ·].
        probability: what the edges start with in place of 1, in [0, 1], of shape [E].
        score: see above.
        rank: r.
        seed: seed of W_0.
        dtype: type of θ.

    Raises:
        InputError: an argument is out of range, or there is no candidate at all.

    Example:
        >>> import torch
        >>> x, edges = torch.eye(3), torch.tensor([[0], [1]])
        >>> pairs = LearnedPairs(3, edges, x=x, candidates=torch.tensor([[0], [2]]), score="metric")
        >>> pairs.state().numel() > 2, round(pairs.expected_edges, 3)
        (True, 1.0)
    """

    def __init__(
        self,
        num_nodes: int,
        edge_index: Tensor,
        *,
        x: Tensor | None = None,
        candidates: Tensor | None = None,
        probability: Tensor | None = None,
        score: Score = "logit",
        rank: int = 16,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(num_nodes, edge_index, candidates=candidates, probability=probability, dtype=dtype)
        if score not in get_args(Score):
            raise InputError(f"score must be one of {', '.join(get_args(Score))}, got {score!r:.80}")
        self._row, self._col = self._index.row.long(), self._index.col.long()
        if score == "logit":
            self._x = None
            self._phi = {"phi": torch.zeros_like(self._theta)}
        else:
            if x is None:
                raise InputError("score metric needs x, the features of the nodes, but none came; give x=data.x")
            x = x.to(dtype)
            self._x = x if x.layout == torch.strided else SparseMatrix(x.to_sparse_csr())
            with forked():
                reseed(seed)
                weight = torch.nn.init.xavier_uniform_(self._theta.new_empty(x.shape[1], rank))
            self._phi = {"weight": weight, "bias": self._theta.new_zeros(())}
        with torch.no_grad():
            self._offset = self._theta.clamp(_MARGIN, 1 - _MARGIN).logit() - self._scores(self._phi)
        self._slots: Any = Adam().init(self._phi)
        self._step = 0
        self._refresh()

    def project_(self, gradient: CandidateGradient, lr: float) -> None:
        """Take a step of Adam in φ.

        Raises:
            NumericalError: the gradient or the step is not finite; φ is left as it was.
        """
        wanted = gradient.at(self._row, self._col)
        check_step(float(torch.linalg.vector_norm(wanted, torch.inf)), lr, wanted.dtype)
        after = Adam(lr).update(self.pull_back(wanted), State(self._phi, self._slots, self._step), ())
        check_step(max(float(value.abs().max()) for value in after.params.values()), 1.0, wanted.dtype)
        self._phi, self._slots, self._step = after.params, after.slots, self._step + 1
        self._refresh()

    def pull_back(self, gradient: Tensor) -> dict[str, Tensor]:
        """Return the gradient in φ of a function whose gradient in θ has shape [C]."""
        phi = {name: value.detach().requires_grad_() for name, value in self._phi.items()}
        with torch.enable_grad():
            theta = self.probabilities(phi)
        return dict(zip(phi, torch.autograd.grad(theta, list(phi.values()), gradient), strict=True))

    def probabilities(self, phi: dict[str, Tensor]) -> Tensor:
        """Return θ at φ, shape [C]."""
        return (self._offset + self._scores(phi)).sigmoid()

    @property
    def phi(self) -> dict[str, Tensor]:
        """A copy of φ."""
        return {name: value.clone() for name, value in self._phi.items()}

    def state(self) -> Tensor:
        """Return φ and what Adam carries, in one row of numbers; `restore_` takes it back."""
        leaves = [leaf.flatten() for leaf in self._leaves()]
        return torch.cat([*leaves, self._theta.new_tensor([float(self._step)])])

    def restore_(self, state: Tensor) -> None:
        """Set φ and what Adam carries to what `state` returned."""
        sizes = [leaf.numel() for leaf in self._leaves()]
        *parts, step = torch.split(state, [*sizes, 1])
        for leaf, part in zip(self._leaves(), parts, strict=True):
            leaf.copy_(part.view_as(leaf))
        self._step = int(step)
        # A count of Adam is its number of steps.
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

    def _scores(self, phi: dict[str, Tensor]) -> Tensor:
        if self._x is None:
            return phi["phi"]
        z: Tensor = self._x @ phi["weight"]
        return phi["bias"] - (z[self._row] - z[self._col]).square().sum(1)

    def _refresh(self) -> None:
        with torch.no_grad():
            self._set_theta(self.probabilities(self._phi).clone())
