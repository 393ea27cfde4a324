"""Public files, each read as it is by one call, and a table trained on, exported and reported."""

import os
from pathlib import Path

import pytest

from lds.cli import main
from lds.data import read
from lds.errors import DataError


@pytest.fixture
def raw():
    """The folder of real raw files."""
    root = Path(os.environ.get("LDS_DATA_ROOT") or Path(__file__).parents[4] / "shared" / "datasets") / "raw"
    if not (root / "geom-gcn").is_dir():
        pytest.skip(f"there are no public files in {root}: set LDS_DATA_ROOT")
    return root


# Options, nodes, undirected edges, features, classes.
FILES = {
    "geom-gcn/film": ({"split": 0}, (7600, 26659, 932, 5)),
    "geom-gcn/texas": ({"split": 0}, (183, 279, 1703, 5)),
    "gml/polbooks.gml": ({"label": "value", "features": "identity"}, (105, 441, 105, 3)),
    "gnn-benchmark/cora.npz": ({}, (2708, 5278, 1433, 7)),
    "heterophilous/actor.npz": ({"split": 0}, (7600, 26659, 932, 5)),
    "heterophilous/chameleon_filtered.npz": ({"split": 3}, (890, 8854, 2325, 5)),
    "heterophilous/minesweeper.npz": ({"split": 9}, (10000, 39402, 7, 2)),
    "heterophilous/texas.npz": ({}, (183, 279, 1703, 5)),
    "heterophilous/wisconsin.npz": ({}, (251, 450, 1703, 5)),
    "nettack/polblogs.npz": ({"features": "identity", "weights": "drop"}, (1490, 16715, 1490, 2)),
    "tables/seeds.csv": ({"label": "species", "scale": "standard"}, (210, 0, 7, 3)),
}


@pytest.mark.parametrize("name", FILES)
def test_read_as_it_is(raw, name):
    options, size = FILES[name]
    data = read(raw / name, **options)
    assert (data.num_nodes, data.edge_index.shape[1] // 2, data.x.shape[1], data.num_classes) == size


def test_both_collections_have_the_same_actors(raw):
    """The lines of geom-gcn are in another order than their numbers."""
    one, other = read(raw / "geom-gcn" / "film", split=0), read(raw / "heterophilous" / "actor.npz", split=0)
    order = [int(name) for name in one.node_names]
    assert (one.y == other.y[order]).all()
    pairs = {(order[a], order[b]) for a, b in one.edge_index.T.tolist()}
    assert pairs == set(map(tuple, other.edge_index.T.tolist()))
    assert (one.train_mask == other.train_mask[order]).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("penguins.csv", {}, "must have a column 'label' with the labels, but has CulmenLength, .*Species; name"),
        ("penguins.csv", {"label": "Species"}, r"\d+ cells must be finite numbers, .*: line 5, CulmenLength .*drop="),
        ("real_estate.csv", {"label": "price_per_unit"}, "must name classes, but measurements came, the first 37.9"),
    ],
)
def test_one_clear_line(raw, name, options, message):
    with pytest.raises(DataError, match=message) as caught:
        read(raw / "tables" / name, **options)
    assert "\n" not in str(caught.value)


def test_trained_exported_and_reported(raw, tmp_path):
    argv = ["train", "--data", str(raw / "gml" / "polbooks.gml"), "--label", "value", "--features", "identity"]
    argv += [
        "--max-epochs",
        "3",
        "--samples",
        "2",
        "--tau",
        "100",
        "--progress",
        "false",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(argv) == 0
    assert main(["export", str(tmp_path / "run"), "--format", "csv", "--top-k", "3"]) == 0
    assert "1000 Years for Revenge" in (tmp_path / "run" / "learned_graph.csv").read_text()
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    assert main(["report", str(tmp_path / "run"), "--node", "Ghost Wars"]) == 0
    assert "Node Ghost Wars (class c" in (tmp_path / "run" / "report.html").read_text()
