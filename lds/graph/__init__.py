"""Random graph structures as outer variables of the engine."""

from lds._keywords import explain_classes
from lds._sparse import SparseMatrix
from lds.graph._all_pairs import AllPairs
from lds.graph._candidate_graph import CandidateGraph
from lds.graph._candidate_pairs import CandidatePairs
from lds.graph._factors import FactorPairs
from lds.graph._learned_pairs import LearnedPairs
from lds.graph._pairs import GivenGraph, KNNGraph, WeightedPairs, initial_weights, random_pairs
from lds.graph._sampled import SampledGraph, Structure

__all__ = [
    "AllPairs",
    "CandidateGraph",
    "CandidatePairs",
    "FactorPairs",
    "GivenGraph",
    "KNNGraph",
    "LearnedPairs",
    "SampledGraph",
    "SparseMatrix",
    "Structure",
    "WeightedPairs",
    "initial_weights",
    "random_pairs",
]

explain_classes(AllPairs, CandidatePairs, GivenGraph, KNNGraph)
