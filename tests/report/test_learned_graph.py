import numpy as np
import pytest

from lds.errors import DataError, InputError
from lds.report._learned_graph import Known, known, structure_blocks
from lds.report._neighbourhood import neighbourhood
from lds.run._reader import SavedGraph, read_graph, read_run
from tests.report import samples

# 0 and 1 are of one class, 2 and 3 of the other. 0–1 stays, 0–2 is lost, 1–3 weakens, 2–3 is new.
LEARNED = SavedGraph(np.array([[0, 1, 2], [1, 3, 3]]), np.array([1.0, 0.4, 0.9]), 4)
KNOWN = Known(np.array([0, 0, 1, 1]), ("train", "test", "val", "test"), np.array([[0, 0, 1], [1, 2, 3]]))


def test_table_of_edges():
    (table,) = (block for block in structure_blocks(LEARNED, KNOWN, "f") if block.kind == "table")
    assert [row[1:] for row in table.rows] == [
        ["3", "33.3 %"],
        ["2", "82.6 %"],  # 1.9 of 2.3
        ["2", "100.0 %"],
        ["1", "100.0 %"],
        ["1", "100.0 %"],
    ]


def test_the_test_node_that_changed_most_is_chosen():
    text, _, table = neighbourhood(LEARNED, KNOWN, None, "f")
    assert text.text.startswith("Node 3 (class 1, test split): the test node whose edges changed most, by 1.5")
    assert "It started with 1 edges, of which 0 fell" in text.text
    assert table.rows == [["2", "0.900", "new", "1", "val"], ["1", "0.400", "initial", "0", "test"]]


def test_a_node_of_ones_own():
    text, pictures, table = neighbourhood(LEARNED, KNOWN, 0, "f")
    assert "the node that was asked for" in text.text
    assert "It started with 2 edges, of which 1 fell to 0.01 or below." in text.text
    assert [row[0] for row in table.rows] == ["1"]
    assert 'aria-label="Node 0 and its 1 strongest learned edges"' in pictures.pictures[0].svg


def test_only_the_strongest_are_shown():
    others = np.arange(1, 31)
    star = SavedGraph(np.stack([np.zeros(30, dtype=np.int64), others]), others / 31, 31)
    text, _, table = neighbourhood(star, None, None, "f")
    assert "Node 0: chosen because it has the most expected edges." in text.text
    assert "20 of its 30 edges" in text.text
    assert [int(row[0]) for row in table.rows] == list(range(30, 10, -1))


def test_nothing_has_changed():
    same = SavedGraph(KNOWN.initial, np.ones(3), 4)
    assert "no edge of a test node has changed" in neighbourhood(same, KNOWN, None, "f")[0].text


def test_a_lonely_node():
    lonely = SavedGraph(np.array([[0], [1]]), np.array([0.5]), 3)
    (text,) = neighbourhood(lonely, None, 2, "f")
    assert "It has no edge" in text.text


@pytest.mark.parametrize("node", [-1, 4])
def test_no_such_node(node):
    with pytest.raises(InputError, match=rf"node must lie in 0\.\.3, got {node}"):
        neighbourhood(LEARNED, KNOWN, node, "f")


def test_learned_reads_each_pair_once(tmp_path):
    samples.graph(tmp_path / "graph.npz")
    graph = read_graph(tmp_path)
    assert graph.num_nodes == 178
    assert (graph.pairs[0] < graph.pairs[1]).all()
    assert read_graph(tmp_path / "absent") is None


def test_malformed_graphs(tmp_path):
    (tmp_path / "graph.npz").write_bytes(b"PK\3\4 no zip file")
    with pytest.raises(DataError, match=r"graph\.npz must hold edge_index"):
        read_graph(tmp_path)
    np.savez(tmp_path / "graph.npz", edge_index=[[0], [9]], edge_weight=[1.0], num_nodes=3)
    with pytest.raises(DataError, match=r"graph\.npz needs E pairs of 3 nodes"):
        read_graph(tmp_path)


def test_known(tmp_path):
    run = read_run(samples.run_folder(tmp_path / "run", learned=False))
    facts = known(run, None, 178)
    assert facts.initial.shape == (2, 1199)
    assert (facts.labels == samples.LABELS).all()
    assert {name: facts.split.count(name) for name in set(facts.split)} == {
        "train": 10,
        "val": 10,
        "es": 10,
        "test": 148,
    }
    assert known(run, None, 5) == "wine has 178 nodes, but the learned structure 5"


def test_a_data_set_that_is_not_here(tmp_path):
    run = read_run(samples.run_folder(tmp_path / "run", learned=False, dataset="cora", method="lds"))
    assert "cora needs the file ind.cora.x" in known(run, str(tmp_path), 2708)
