"""Structure learning inside torch_geometric pipelines."""

import pytest
import torch
from torch_geometric.data import Data, HeteroData, InMemoryDataset
from torch_geometric.nn import GCN
from torch_geometric.transforms import Compose, NormalizeFeatures

from lds.data import MASKS, validate
from lds.errors import DataError, InputError
from lds.graph import KNNGraph
from lds.learner import StructureLearner
from lds.transforms import LearnStructure
from tests.learner.problems import blocks

LEARNER = StructureLearner(tau=5, inner_steps=10, max_epochs=1, samples=2)


def plain():
    """What other data sets bring: no es_mask, attributes of edges."""
    data = blocks()
    data.val_mask = data.val_mask | data.es_mask
    del data.es_mask
    data.edge_attr = torch.ones(data.num_edges, 3)
    return data


def test_the_learned_graph_takes_the_place_of_the_given_one():
    given = plain()
    before = given.clone()
    data = LearnStructure(LEARNER, threshold=0.0, seed=4)(given)
    halved = data.clone()
    halved.edge_index, halved.edge_weight = before.edge_index, None
    expected = LEARNER.fit(halved, seed=4).graph(0.0)
    assert torch.equal(data.edge_index, expected.edge_index)
    assert torch.equal(data.edge_weight, expected.edge_weight)
    assert data.num_edges != before.num_edges
    assert "edge_attr" not in data
    validate(data)
    assert torch.equal(data.val_mask | data.es_mask, before.val_mask)
    assert given.to_dict().keys() == before.to_dict().keys()
    assert torch.equal(given.edge_index, before.edge_index)
    assert torch.equal(given.val_mask, before.val_mask)


def test_top_k():
    data = LearnStructure(LEARNER, top_k=2)(blocks())
    assert torch.equal(data.edge_index, LEARNER.fit(blocks()).graph(top_k=2).edge_index)


def test_in_a_pipeline_without_masks_and_edges():
    source = blocks()
    transform = Compose([NormalizeFeatures(), LearnStructure(StructureLearner(graph=KNNGraph(3), max_epochs=1))])
    data = transform(Data(x=source.x.abs(), y=source.y))
    assert all(data[name].any() for name in MASKS)
    torch.testing.assert_close(data.x.sum(1), torch.ones(48))
    assert data.edge_index.shape[1] == data.edge_weight.numel() > 0
    assert GCN(8, 4, 2, 2)(data.x, data.edge_index, data.edge_weight).shape == (48, 2)


class Blocks(InMemoryDataset):
    """A data set on disk, made when it is first asked for."""

    def __init__(self, root, pre_transform):
        super().__init__(root, pre_transform=pre_transform)
        self.load(self.processed_paths[0])

    @property
    def processed_file_names(self):
        return "blocks.pt"

    def process(self):
        self.save([self.pre_transform(plain())], self.processed_paths[0])


def test_as_pre_transform(tmp_path, monkeypatch):
    transform = LearnStructure(LEARNER, seed=1)
    expected = transform(plain())
    first = Blocks(tmp_path, transform)[0]
    monkeypatch.setattr(LearnStructure, "forward", None)
    again = Blocks(tmp_path, transform)[0]
    for data in (first, again):
        assert torch.equal(data.edge_index, expected.edge_index)
        assert torch.equal(data.edge_weight, expected.edge_weight)


def test_the_text_tells_transforms_apart():
    """A data set on disk is compared by it with the transform it was made with."""
    texts = {
        repr(transform)
        for transform in (
            LearnStructure(LEARNER),
            LearnStructure(),
            LearnStructure(top_k=3),
            LearnStructure(threshold=0.3),
            LearnStructure(seed=1),
        )
    }
    assert len(texts) == 5
    assert repr(LearnStructure(LEARNER)) in texts


@pytest.mark.parametrize("options", [{"threshold": 0.5, "top_k": 3}, {"threshold": 2.0}, {"top_k": 0}])
def test_refused(options):
    with pytest.raises(InputError, match=r"threshold|top_k"):
        LearnStructure(**options)


@pytest.mark.parametrize("data", [HeteroData(), [blocks()]], ids=["HeteroData", "list"])
def test_something_else_than_a_data(data):
    with pytest.raises(DataError, match=f"needs a torch_geometric Data, .* but {type(data).__name__} came"):
        LearnStructure(LEARNER)(data)
