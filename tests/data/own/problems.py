"""One small data set, for every format."""

import torch

from lds.data import canonical_edges
from tests.learner.problems import blocks

DATA = blocks(classes=3)
DATA.edge_index = canonical_edges(DATA.edge_index, 48)


def same(found, data=DATA):
    """Whether features, labels and edges are those of the data set."""
    x = found.x if found.x.layout == torch.strided else found.x.to_dense()
    return all(torch.equal(a, b) for a, b in ((x, data.x), (found.y, data.y), (found.edge_index, data.edge_index)))
