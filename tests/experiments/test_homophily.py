"""Edge probabilities within and between classes, against the dense matrix."""

import importlib
import math
from itertools import pairwise

import pytest
import torch

from lds.graph import AllPairs


@pytest.fixture
def homophily():
    return importlib.import_module("homophily")


def test_against_the_dense_matrix(homophily):
    generator = torch.Generator().manual_seed(0)
    n = 40
    y = torch.arange(n) % 3
    structure = AllPairs(n, torch.randint(n, (2, 60), generator=generator), dtype=torch.float64)
    dense = torch.rand(n, n, generator=generator, dtype=torch.float64).triu(1)
    dense[dense < 0.5] = 0
    dense[:5] = 0
    dense[:, :5] = 0
    everything = AllPairs(n, torch.triu_indices(n, n, 1), dtype=torch.float64)
    row, col = everything.edges(0.0)[0]
    state = everything.state()
    state[state > 0] = dense[row, col]
    structure.restore_(state)

    found = homophily.portrait(structure, y)
    theta = dense + dense.T
    same = (y[:, None] == y).double()
    off = 1 - torch.eye(n, dtype=torch.float64)
    assert found.expected_edges == pytest.approx(float(dense.sum()))
    assert found.within == pytest.approx(float((theta * same).sum() / (same * off).sum()))
    assert found.between == pytest.approx(float((theta * (1 - same)).sum() / (1 - same).sum()))
    assert found.edge_homophily == pytest.approx(float((theta * same).sum() / theta.sum()))
    expected = (theta * same).sum(1) / theta.sum(1)
    torch.testing.assert_close(found.node_homophily, expected, equal_nan=True)
    assert expected[:5].isnan().all()
    nodes = torch.zeros(n, dtype=torch.bool)
    nodes[3:9] = True
    assert homophily.mean_over(found.node_homophily, nodes) == pytest.approx(float(expected[5:9].mean()))
    nodes[5:] = False
    assert math.isnan(homophily.mean_over(found.node_homophily, nodes))
    torch.testing.assert_close(found.node_within, (theta * same).sum(1) / (same * off).sum(1))
    torch.testing.assert_close(found.node_between, (theta * (1 - same)).sum(1) / (1 - same).sum(1))
    for counts, part in zip(found.histogram, (same, 1 - same), strict=True):
        values = theta[(part * torch.ones(n, n).triu(1)).bool()]
        edges = [0.0, *homophily.BINS]
        bins = [int(((values > low) & (values <= high)).sum()) for low, high in pairwise(edges)]
        assert counts == [int((values == 0).sum()), *bins]


def test_a_run_becomes_tables_and_a_picture(tmp_path, monkeypatch):
    script = importlib.import_module("learned_graph")
    config = script.TrainConfig("wine", "knn-lds", max_epochs=1)
    monkeypatch.setattr(script, "RUNS", (config,))
    monkeypatch.setattr("sys.argv", ["learned_graph.py", "--out", str(tmp_path)])
    script.main()
    before, after = script.rows(config, *script.portraits(config, tmp_path / "runs" / "wine-knn-lds"))[0]
    assert before["expected_edges"] == 1199
    assert after["expected_edges"] != 1199
    assert before["nodes_correct"] + before["nodes_wrong"] == 148
    assert before["within"] > before["between"]
    assert before["node_within_correct"] > before["node_within_wrong"]
    names = {"runs", "table.csv", "table.md", "histogram.csv", "picture.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    text = (tmp_path / "table.md").read_text()
    assert "`python experiments/learned_graph.py`, seeds 0; lds " in text
    assert f"|  |  |  |  | {after['nodes_wrong']} wrong | " in text
