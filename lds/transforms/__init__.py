"""Structure learning as a step of a torch_geometric pipeline."""

from lds.transforms._learn_structure import LearnStructure

__all__ = ["LearnStructure"]
