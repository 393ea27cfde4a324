"""What cannot fit into memory is refused before any of it is taken, with the sum."""

from functools import partial

import numpy as np
import pytest
import torch

from lds import _memory
from lds.data import read
from lds.errors import DataError, InputError
from lds.graph import AllPairs
from lds.learner import StructureLearner
from lds.nn import GCN, SAGE
from lds.run._learner import _of_all_classes
from lds.run._reader import read_graph
from tests.learner.problems import blocks

EMPTY = torch.empty(2, 0, dtype=torch.long)
CASES = {
    "all pairs": (lambda: AllPairs(10**7, EMPTY), r"49999995000000 edge probabilities of 4 bytes, .* 199,?999\.98 GB"),
    "nodes": (lambda: AllPairs(4 * 10**11, EMPTY), "on all pairs of 400000000000 nodes"),
    "hidden": (lambda: GCN(13, 3, hidden_channels=10**12), "16000000000000 weights of 4 bytes, from 13 features"),
    "sage": (lambda: SAGE(13, 3, hidden_channels=10**12), "over 1000000000000 hidden units to 3 classes"),
    "classes": (lambda: GCN(13, 10**12), "to 1000000000000 classes"),
    "features": (lambda: GCN(10**12, 3), "from 1000000000000 features"),
    "horizon": (lambda: StructureLearner(tau=10**12).fit(blocks()), "recorded steps of .* lower tau or the horizon"),
    "model": (
        lambda: StructureLearner(model=partial(GCN, hidden_channels=10**12)).fit(blocks()),
        "must fit into memory, but need",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_structures_and_networks(name):
    make, message = CASES[name]
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "must fit into memory, but need" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_learner_says_so_of_classes(monkeypatch):
    data = blocks()
    data.num_classes = 2**31 - 1
    with pytest.raises(DataError, match=r"at most the number of nodes, 48, but 2147483647 came"):
        StructureLearner().fit(data)
    monkeypatch.setattr("lds.learner._task.ROOM", 300)
    with pytest.raises(InputError, match=r"logits of 48 nodes and 2 classes must fit into memory"):
        StructureLearner().fit(blocks())


def test_a_baseline_says_so_of_classes(monkeypatch):
    monkeypatch.setattr("lds.run._learner.ROOM", 500)
    with pytest.raises(InputError, match=r"probabilities of 48 nodes and 3 classes must fit into memory"):
        _of_all_classes(None, np.zeros((48, 3)), 3)


def test_no_graph_is_made_of_nodes_that_cannot_be_learned(monkeypatch):
    def graph(data):
        raise AssertionError("made")

    monkeypatch.setattr("lds.graph._all_pairs.ROOM", 1000)
    with pytest.raises(InputError, match="on all pairs of 48 nodes must fit into memory"):
        StructureLearner(graph=graph).fit(blocks())


def test_own_data(tmp_path):
    arrays = {"x_data": np.ones(48), "x_indices": np.arange(48), "x_indptr": np.arange(49), "x_shape": [48, 2 * 10**9]}
    np.savez(tmp_path / "wide.npz", **arrays, y=np.arange(48) % 2)
    data = read(tmp_path / "wide.npz")
    with pytest.raises(InputError, match="32000000032 weights of 4 bytes, from 2000000000 features"):
        StructureLearner(graph=lambda data: torch.tensor([[0], [1]])).fit(data)


def test_nodes_of_a_saved_graph(tmp_path):
    np.savez(
        tmp_path / "graph.npz", edge_index=[[0, 1], [1, 0]], edge_weight=np.ones(2, np.float32), num_nodes=4 * 10**11
    )
    with pytest.raises(DataError, match=r"the 400000000000 nodes of a graph must fit .* need 3,200\.00 GB"):
        read_graph(tmp_path)


def test_weights_of_another_shape(tmp_path):
    np.savez(tmp_path / "graph.npz", edge_index=[[0, 1], [1, 0]], edge_weight=np.ones((2, 1), np.float32), num_nodes=3)
    with pytest.raises(DataError, match=r"needs E pairs of 3 nodes, got shapes \(2, 2\) and \(2, 1\)"):
        read_graph(tmp_path)


def test_the_memory_of_this_machine():
    assert _memory.ROOM > 1 << 28
    assert _memory._room() == _memory.ROOM
