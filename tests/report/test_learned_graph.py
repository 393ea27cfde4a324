import json

import numpy as np
import pytest

from lds.errors import DataError, InputError
from lds.report._adjacency import adjacency_figures
from lds.report._explorer import explorer
from lds.report._learned_graph import Known, known, structure_blocks
from lds.report._neighbourhood import Names, neighbourhood
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
    _, (text, _, table) = neighbourhood(LEARNED, KNOWN, None, "f")
    assert text.text.startswith("Node 3 (class 1, test split): the test node whose edges changed most, by 1.5")
    assert "It started with 1 edges, of which 0 fell" in text.text
    assert table.rows == [["2", "0.900", "new", "1", "val"], ["1", "0.400", "initial", "0", "test"]]


def test_a_node_of_ones_own():
    _, (text, pictures, table) = neighbourhood(LEARNED, KNOWN, 0, "f")
    assert "the node that was asked for" in text.text
    assert "It started with 2 edges, of which 1 fell to 0.01 or below." in text.text
    assert [row[0] for row in table.rows] == ["1"]
    assert 'aria-label="Node 0 and its 1 strongest learned edges"' in pictures.pictures[0].svg


def test_only_the_strongest_are_shown():
    others = np.arange(1, 31)
    star = SavedGraph(np.stack([np.zeros(30, dtype=np.int64), others]), others / 31, 31)
    _, (text, _, table) = neighbourhood(star, None, None, "f")
    assert "Node 0: chosen because it has the most expected edges." in text.text
    assert "20 of its 30 edges" in text.text
    assert [int(row[0]) for row in table.rows] == list(range(30, 10, -1))


def test_nothing_has_changed():
    same = SavedGraph(KNOWN.initial, np.ones(3), 4)
    assert "no edge of a test node has changed" in neighbourhood(same, KNOWN, None, "f")[1][0].text


def test_a_lonely_node():
    lonely = SavedGraph(np.array([[0], [1]]), np.array([0.5]), 3)
    _, (text,) = neighbourhood(lonely, None, 2, "f")
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


def test_shares_of_edges_between_classes():
    """Of 0, 1 | 2, 3: initially one pair within the first class, two of four between; learned 1, (0.4) of four, 0.9."""
    initial, learned = (json.loads(picture.points) for picture in adjacency_figures(LEARNED, KNOWN, "f", Names()))
    assert [text.split(": ")[1].split()[0] for *_, text in initial] == ["100.00%", "50.00%", "50.00%", "0.00%"]
    assert [text.split(": ")[1].split()[0] for *_, text in learned] == ["100.00%", "10.00%", "10.00%", "90.00%"]


class TestExplorer:
    def test_every_node_has_its_strongest_edges(self):
        found = explorer(LEARNED, KNOWN, 3, "e", Names(nodes=["a", "b", "</script>", "d"]))
        assert found.start == 3
        assert "</" not in found.data
        data = json.loads(found.data)
        assert data["degree"] == [1, 2, 1, 2]
        assert data["other"] == [1, 0, 3, 3, 2, 1]
        assert data["probability"] == [1000, 1000, 400, 900, 900, 400]
        assert data["initial"] == [1, 1, 1, 0, 0, 1]
        assert data["names"][2] == "</script>"
        assert [data["splits"][split] for split in data["split"]] == ["train", "test", "val", "test"]

    def test_no_more_than_the_strongest(self):
        others = np.arange(1, 31)
        star = SavedGraph(np.stack([np.zeros(30, dtype=np.int64), others]), others / 31, 31)
        data = json.loads(explorer(star, None, 0, "e", Names()).data)
        assert data["degree"] == [30, *[1] * 30]
        assert data["other"] == [*range(30, 10, -1), *[0] * 30]
        assert data["label"] is data["initial"] is None

    @pytest.mark.parametrize("nodes", [20_000, 200_000])
    def test_a_page_of_a_large_graph_stays_below_five_megabytes(self, nodes):
        random = np.random.default_rng(0)
        pairs = np.sort(random.integers(0, nodes, (2, 25 * nodes)), 0)
        pairs = pairs[:, pairs[0] < pairs[1]]
        graph = SavedGraph(pairs, random.random(pairs.shape[1]), nodes)
        found = explorer(graph, None, 0, "e", Names())
        if found.kind == "text":
            assert "no room for the neighbourhoods of all 200000 nodes" in found.text
        else:
            assert len(found.data) < 4_000_000
