"""A self-supervised term of the outer objective: neighbours are to tell what features a node has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lds._checks import check_integer, check_sizes
from lds.graph import SampledGraph

if TYPE_CHECKING:
    from torch_geometric.data import Data


@dataclass(frozen=True)
class Denoising:
    r"""Have the outer objective ask for edges from whose ends features can be told, wherever labels are.

    .. math:: \frac{\lambda}{N} \sum_i \Big(1 - \frac{\langle z_i, u_i \rangle}{\sqrt{1 + \|u_i\|^2}}\Big),
        \qquad u_i = \sum_j A_{ij} z_j

    The features of a node are predicted from its neighbours alone, never from itself, as a denoiser with a blind spot
    (Batson and Royer, `Noise2Self <https://arxiv.org/abs/1901.11365>`_, ICML 2019); so pairs far from all labels get a
    gradient too, which is what SLAPS (Fatemi, El Asri, Kazemi, `NeurIPS 2021 <https://arxiv.org/abs/2102.05034>`_)
    adds a denoising autoencoder for. Rows z_i are features less their mean, of length 1, in a random projection to
    `width` columns where there are more (Johnson and Lindenstrauss), so that the factors of the gradient stay thin.

    Args:
        coefficient: λ.
        width: columns of z, at most.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> from lds.graph import AllPairs
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> term = Denoising(1.0)(Data(x=x))
        >>> alike, others = (AllPairs(3, torch.tensor([[0], [node]])).draw() for node in (1, 2))
        >>> bool(term(alike) < term(others))
        True
    """

    coefficient: float = 0.1
    width: int = 64

    def __post_init__(self) -> None:
        check_sizes(self, "coefficient")
        check_integer("width", self.width)

    def __call__(self, data: Data) -> Callable[[SampledGraph], Tensor]:
        """Return the term on one data set, a function of a sampled graph."""
        z = _directions(data.x, self.width)

        def term(graph: SampledGraph) -> Tensor:
            u = graph.matmul(z)
            return self.coefficient * (1 - ((z * u).sum(1) / (1 + u.square().sum(1)).sqrt()).mean())

        return term


def _directions(x: Any, width: int) -> Tensor:
    """Return z; the mean is taken after the projection, which is linear, so that sparse features stay sparse."""
    if x.shape[1] <= width:
        z = x.to_dense()
    else:
        signs = torch.randint(2, (x.shape[1], width), generator=torch.Generator().manual_seed(0)) * 2 - 1
        z = x @ signs.to(x.device, x.dtype)
    return torch.nn.functional.normalize(z - z.mean(0))
