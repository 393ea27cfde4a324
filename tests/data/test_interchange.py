"""Graphs of other programs."""

from typing import ClassVar

import networkx
import pytest
import torch
from torch_geometric.utils import to_networkx

import lds
from lds.data import from_dgl, from_networkx, prepare
from lds.errors import DataError
from tests.data.own.problems import DATA, same


def test_the_karate_club():
    data = prepare(from_networkx(networkx.karate_club_graph(), label="club"), features="identity", weights="drop")
    assert (data.class_names, data.num_nodes, data.edge_index.shape[1]) == (["Mr. Hi", "Officer"], 34, 156)
    graph = lds.StructureLearner(inner_steps=2, max_epochs=1).fit(data).graph(0.5)
    assert to_networkx(graph, to_undirected=True).number_of_nodes() == 34


def test_attributes_are_columns():
    graph = networkx.Graph(tuple(edge) for edge in DATA.edge_index.T.tolist())
    for node in range(48):
        graph.add_node(node, label=int(DATA.y[node]), **{f"f{i}": v for i, v in enumerate(DATA.x[node].tolist())})
    ordered = networkx.Graph()
    ordered.add_nodes_from(sorted(graph.nodes(data=True)))
    ordered.add_edges_from(graph.edges)
    assert same(prepare(from_networkx(ordered)))
    del ordered.nodes[3]["f1"]
    with pytest.raises(DataError, match="line 4: f1 must be a finite number, but None came"):
        from_networkx(ordered)
    with pytest.raises(DataError, match="needs a graph of networkx, but int came"):
        from_networkx(3)


class Graph:
    """What a graph of DGL offers."""

    ndata: ClassVar = {"feat": DATA.x, "label": DATA.y, "train_mask": DATA.train_mask, "val_mask": DATA.val_mask,
             "es_mask": DATA.es_mask, "test_mask": DATA.test_mask}  # fmt: skip

    def edges(self):
        return DATA.edge_index[0], DATA.edge_index[1]

    def num_nodes(self):
        return 48


def test_dgl():
    data = prepare(from_dgl(Graph()))
    assert same(data)
    assert torch.equal(data.train_mask, DATA.train_mask)
    with pytest.raises(DataError, match="needs a graph of DGL with nodes of one kind, but int came"):
        from_dgl(3)
