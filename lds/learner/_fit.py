"""What a learner returns: a fit, and one graph out of its edge probabilities."""

from __future__ import annotations

import os
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lds._callbacks import EpochRecord
from lds._keywords import explained
from lds._random import EVALUATE, cuda_devices, forked, reseed
from lds._show import Shown, short
from lds.errors import InputError
from lds.graph import Structure
from lds.learner._known import Known
from lds.learner._saved import read_fit, write_fit
from lds.learner._task import Params

if TYPE_CHECKING:
    from torch_geometric.data import Data

# Where the most probable edges are looked for first: a step of θ makes millions of negligible ones.
_LEVELS = (0.5, 0.1, 0.01, 1e-3, 1e-4, 0.0)


@dataclass(frozen=True, repr=False)
class Fit(Shown):
    """A fitted model and its structure, at the best early-stopping accuracy.

    Attributes:
        structure: the learned edge probabilities θ.
        params: weights of the model.
        logits: mean logits over sampled graphs, shape [N, C].
        history: one record an outer epoch.
        outer_steps: number of outer steps run, over all epochs.

    Example:
        >>> import lds
        >>> from lds.data import load
        >>> from lds.graph import KNNGraph
        >>> learner = lds.StructureLearner(graph=KNNGraph(10), inner_steps=10, max_epochs=1, samples=2)
        >>> fit = learner.fit(load("wine"), seed=0)
        >>> fit.predict_proba().shape  # also predict(), accuracy("test"), to_frame(), to_networkx(), save("fit.pt")
        torch.Size([178, 3])
        >>> fit.graph(top_k=5).edge_index.shape[0]
        2
    """

    structure: Structure
    params: Params
    logits: Tensor
    history: tuple[EpochRecord, ...]
    outer_steps: int
    _known: Known

    @property
    def outer_epochs(self) -> int:
        """Number of outer epochs run."""
        return len(self.history)

    @property
    def expected_edges(self) -> float:
        """Expected number of undirected edges of the learned structure."""
        return self.structure.expected_edges

    def accuracy(self, split: str) -> float:
        """Return the accuracy on "train", "val", "es" or "test", in [0, 1].

        Raises:
            InputError: there is no such split.
        """
        self._check(split)
        return self._known.accuracy(self.logits, split)

    def loss(self, split: str) -> float:
        """Return the cross-entropy on "train", "val", "es" or "test".

        Raises:
            InputError: there is no such split.
        """
        self._check(split)
        return self._known.loss(self.logits, split).item()

    def predict_proba(self) -> Tensor:
        """Return the class probabilities of all nodes, shape [N, C]."""
        return self.logits.softmax(1)

    def predict(self) -> Tensor:
        """Return the most probable class of all nodes, in the numbers that `y` has if it has any, int64 [N]."""
        classes, values = self.logits.argmax(1), self._known.class_values
        return classes if values is None else values.to(classes.device)[classes]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the columns of `logits`; their numbers where the data named none."""
        return list(self._known.classes)

    @explained
    def graph(self, threshold: float | None = None, *, top_k: int | None = None, sample: int | None = None) -> Data:
        """Return the learned structure as a graph: the most probable edges, as many as θ expects, Σ θ_ij, rounded.

        Or else, by one of the arguments: edges above a threshold, the strongest ones of each node, or a sample. Edges
        that were there at the start often keep a probability near 1, and new ones lie below 0.5: a threshold of 0.5
        mostly gives the initial graph back.
        `edge_index` is int64 of shape [2, E], both directions; `edge_weight` the probabilities θ, shape [E], and 1 in a
        sample. Of equal probabilities the pair with the lower numbers comes first.

        Args:
            threshold: keep edges with a probability above it.
            top_k: keep the k most probable edges of each node; so a node has more where it is among those of others.
            sample: draw A ~ Bernoulli(θ) with this seed.

        Raises:
            InputError: more than one argument came, or one is out of range.
        """
        return extract(self.structure, threshold, top_k=top_k, sample=sample)

    def to_frame(self) -> Any:
        """Return what is predicted of every node as a table of pandas, indexed by the names of the nodes, or numbers.

        Columns: split, label, predicted, and "probability of …" for each class; as in predictions.csv of a run.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas  # type: ignore[import-untyped]
        except ImportError as error:
            raise InputError("to_frame needs pandas, but it is not installed; pip install pandas") from error
        return pandas.DataFrame(self._known.table(self.logits.argmax(1), self.predict_proba())).set_index("node")

    def to_networkx(
        self, threshold: float | None = None, *, top_k: int | None = None, sample: int | None = None
    ) -> Any:
        """Return the learned structure as an undirected graph of networkx, whose nodes are their names, or numbers.

        Edges have `weight`; nodes have `split`, `label` and `predicted`, where there are any.

        Args:
            threshold: which edges, see `graph`, as for `top_k` and `sample`.
            top_k: keep the k most probable edges of each node.
            sample: draw A ~ Bernoulli(θ) with this seed.

        Raises:
            InputError: as for `graph`, or networkx is not installed.
        """
        try:
            import networkx  # type: ignore[import-untyped]
        except ImportError as error:
            raise InputError("to_networkx needs networkx, but it is not installed; pip install networkx") from error
        graph, table = self.graph(threshold, top_k=top_k, sample=sample), self._known.table(self.logits.argmax(1), None)
        found, names = networkx.Graph(), table.pop("node")
        for place, name in enumerate(names):
            found.add_node(name, **{key: column[place] for key, column in table.items() if column[place]})
        once = graph.edge_index[0] < graph.edge_index[1]
        ends, weight = graph.edge_index[:, once].tolist(), graph.edge_weight[once].tolist()
        found.add_weighted_edges_from((names[a], names[b], w) for a, b, w in zip(*ends, weight, strict=True))
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fit to a file that `load` reads: numbers, texts and tensors, and nothing that could run code.

        A file that is there is replaced, as a whole.

        Raises:
            InputError: its structure is neither `AllPairs` nor `CandidatePairs`.
            StorageError: the file cannot be written.
        """
        write_fit(Path(path), vars(self), self.structure, self._known)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Fit:
        """Return the fit that `save` wrote, on the CPU.

        Raises:
            DataError: the file cannot be read, is damaged, or holds no fit.
        """
        return cls(**read_fit(Path(path)))

    def _rows(self) -> list[tuple[str, str]]:
        scores = ", ".join(f"{split} {self.accuracy(split):.3f}" for split in ("train", "val", "es", "test"))
        nodes, classes = self.logits.shape
        return [
            ("accuracy", scores),
            ("nodes", f"{nodes} in {classes} classes, {short(self.class_names, 60)}"),
            ("edges", f"{self.expected_edges:.6g} expected, of {type(self.structure).__name__}"),
            ("training", f"{self.outer_epochs} outer epochs, {self.outer_steps} outer steps"),
            ("params", short(self.params)),
        ]

    def _check(self, split: str) -> None:
        if split not in self._known.nodes:
            raise InputError(f"split must be one of {', '.join(self._known.nodes)}, got {split!r}")


def extract(
    structure: Structure, threshold: float | None = None, *, top_k: int | None = None, sample: int | None = None
) -> Data:
    """Return a graph of a structure; arguments, result and errors as for `Fit.graph`.

    Example:
        >>> import torch
        >>> from lds.graph import AllPairs
        >>> from lds.learner import extract
        >>> extract(AllPairs(3, torch.tensor([[0], [1]])), top_k=1).edge_index
        tensor([[0, 1],
                [1, 0]])
    """
    from torch_geometric.data import Data

    check_criterion(threshold, top_k=top_k, sample=sample)
    if top_k is not None:
        pairs, weight = _strongest(structure, int(top_k))
    elif sample is not None:
        pairs, weight = _sample(structure, int(sample))
    elif threshold is not None:
        pairs, weight = structure.edges(threshold)
    else:
        pairs, weight = _expected(structure)
    return Data(
        edge_index=torch.cat([pairs, pairs.flip(0)], 1), edge_weight=weight.repeat(2), num_nodes=structure.num_nodes
    )


def check_criterion(threshold: float | None, *, top_k: int | None = None, sample: int | None = None) -> None:
    """Check the arguments of `extract`.

    Raises:
        InputError: more than one argument came, or one is out of range.

    Example:
        >>> from lds.learner import check_criterion
        >>> check_criterion(0.5)
        >>> check_criterion(0.5, top_k=3)
        Traceback (most recent call last):
        lds.errors.InputError: a graph needs one of threshold, top_k and sample, but threshold and top_k came; drop one
    """
    given = {"threshold": threshold, "top_k": top_k, "sample": sample}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise InputError(f"a graph needs one of threshold, top_k and sample, but {' and '.join(given)} came; drop one")
    if threshold is not None and (not _is_number(threshold, Real) or not 0 <= threshold < 1):
        raise InputError(f"threshold must lie in [0, 1), got {threshold!r}")
    if top_k is not None and (not _is_number(top_k, Integral) or top_k < 1):
        raise InputError(f"top_k must be an integer >= 1, got {top_k!r}")
    if sample is not None and not _is_number(sample, Integral):
        raise InputError(f"sample must be an integer, the seed of the draw, got {sample!r}")


def _is_number(value: object, kind: type) -> bool:
    """Return whether it is a number of this kind, one of numpy's too."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _expected(structure: Structure) -> tuple[Tensor, Tensor]:
    """Return the most probable pairs i < j, as many as are expected, and their probabilities, in the order of pairs."""
    count = round(structure.expected_edges)
    for level in _LEVELS:
        pairs, weight = structure.edges(level)
        if weight.numel() >= count:
            break  # What lies below is none of so many.
    kept = torch.sort(weight, descending=True, stable=True).indices[:count].sort().values
    return pairs[:, kept], weight[kept]


def _strongest(structure: Structure, k: int) -> tuple[Tensor, Tensor]:
    """Return the pairs i < j that are among the k most probable of i or of j, above 0, and their probabilities."""
    pairs, weight = structure.edges(_LEVELS[0])
    for level in _LEVELS[1:]:
        if int(torch.bincount(pairs.flatten(), minlength=structure.num_nodes).min()) >= k:
            break  # What lies below is among the k most probable of no node.
        pairs, weight = structure.edges(level)
    kept = torch.from_numpy(_among_the_first(pairs.cpu().numpy(), weight.cpu().numpy(), k)).to(pairs.device)
    return pairs[:, kept], weight[kept]


def _among_the_first(pairs: npt.NDArray[np.int64], weight: npt.NDArray[np.floating], k: int) -> npt.NDArray[np.bool_]:
    """Return for each pair whether it is one of the k heaviest of an end; of equals the lower neighbour comes first."""
    node, neighbour = np.concatenate([pairs, pairs[::-1]], 1)
    order = np.lexsort((neighbour, -np.tile(weight, 2), node))
    ordered = node[order]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    first = np.zeros(len(node), dtype=np.bool_)
    first[order[rank < k]] = True
    return first[: pairs.shape[1]] | first[pairs.shape[1] :]


def _sample(structure: Structure, seed: int) -> tuple[Tensor, Tensor]:
    """Return the pairs i < j of a draw, sorted, and weights 1."""
    cuda = cuda_devices()
    with forked(cuda):
        reseed(seed, EVALUATE, cuda=cuda)
        graph = structure.draw()
    order = torch.argsort(graph.row * structure.num_nodes + graph.col)
    return torch.stack([graph.row, graph.col])[:, order], graph.weight[order]
