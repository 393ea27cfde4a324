"""A structure over several processes, as a learner takes it."""

from __future__ import annotations

from typing import Any

from lds.distributed._all_pairs import ShardedAllPairs
from lds.distributed._candidate_pairs import ShardedCandidatePairs
from lds.distributed._features import ShardedFeatures
from lds.distributed._ranks import Ranks
from lds.errors import InputError
from lds.graph import AllPairs, CandidatePairs

_SHARDED: dict[Any, Any] = {AllPairs: ShardedAllPairs, CandidatePairs: ShardedCandidatePairs}


class Sharded:
    """A structure whose probabilities lie on several processes, for `StructureLearner(edges=…)`.

    The rows of the features lie there too. Every process runs the same program, started by `torchrun`; each holds its
    share of θ and X, and all train the same weights. What a process keeps of a run (`state()`, a checkpoint) is its
    share; results (`edges()`, logits) are those of all.

    Args:
        structure: `AllPairs` or `CandidatePairs`.
        ranks: the processes; all of them when None.
        **arguments: further arguments of the structure, such as `candidates`.

    Raises:
        InputError: it is another structure, or no processes were started.

    Example:
        One process, where `torchrun` starts several:

        >>> import torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> from lds.data import load
        >>> from lds.graph import KNNGraph
        >>> from lds.learner import StructureLearner
        >>> learner = StructureLearner(
        ...     graph=KNNGraph(3), edges=Sharded(CandidatePairs), inner_steps=2, max_epochs=1, samples=1
        ... )
        >>> learner.fit(load("iris")).logits.shape
        torch.Size([150, 3])
        >>> dist.destroy_process_group()
    """

    def __init__(self, structure: Any, ranks: Ranks | None = None, **arguments: Any) -> None:
        if structure not in _SHARDED:
            raise InputError(
                f"a structure over several ranks must be AllPairs or CandidatePairs, got {structure!r:.80}; give the "
                "class, and its arguments after it: Sharded(CandidatePairs, candidates=pairs)"
            )
        self._structure = _SHARDED[structure]
        self._arguments = arguments
        self.ranks = Ranks() if ranks is None else ranks

    def __call__(self, num_nodes: int, edge_index: Any, **arguments: Any) -> Any:
        """Return this rank's share of a structure."""
        return self._structure(num_nodes, edge_index, ranks=self.ranks, **self._arguments, **arguments)

    def features(self, x: Any) -> ShardedFeatures:
        """Return this rank's share of the features."""
        return ShardedFeatures(x, self.ranks)
