"""Structures and features that lie on several processes of `torch.distributed`."""

from lds.distributed._all_pairs import ShardedAllPairs
from lds.distributed._candidate_pairs import ShardedCandidatePairs
from lds.distributed._features import ShardedFeatures
from lds.distributed._ranks import Ranks
from lds.distributed._sharded import Sharded

__all__ = ["Ranks", "Sharded", "ShardedAllPairs", "ShardedCandidatePairs", "ShardedFeatures"]
