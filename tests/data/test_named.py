"""Data sets by name through the classes of PyTorch Geometric, offline."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lds.data import fetch, listing, load, validate, verify
from lds.data.named import NAMED
from lds.errors import DataError, InputError


@pytest.fixture
def raw_root():
    """The folder of real raw files."""
    root = Path(os.environ.get("LDS_DATA_ROOT") or Path(__file__).parents[3] / "shared" / "datasets")
    if not (root / "raw" / "geom-gcn").is_dir():
        pytest.skip(f"there are no raw files of geom-gcn in {root}: set LDS_DATA_ROOT")
    return root


@pytest.mark.parametrize(("name", "homophily"), [("texas", 0.06), ("actor", 0.22), ("minesweeper", 0.68)])
def test_real_files(raw_root, name, homophily):
    data = load(name, root=raw_root, split=0)
    validate(data)
    source = NAMED[name]
    assert data.num_nodes == source.nodes
    assert (data.x.shape[1], data.num_classes) == (source.features, source.classes)
    assert data.edge_index.shape[1] == 2 * source.edges
    row, col = data.edge_index
    assert (data.y[row] == data.y[col]).double().mean() == pytest.approx(homophily, abs=0.005)
    assert {line.name: line.present for line in listing(raw_root)}[name]


def test_splits(raw_root):
    one, other = (load("minesweeper", root=raw_root, split=split) for split in (0, 7))
    assert not torch.equal(one.train_mask, other.train_mask)
    masks = np.load(raw_root / "raw" / "heterophilous" / "minesweeper.npz")["train_masks"]
    assert torch.equal(other.train_mask, torch.from_numpy(masks[7]))
    assert torch.equal(load("minesweeper", root=raw_root).train_mask, one.train_mask)
    with pytest.raises(InputError, match=r"split must be one of \[0\], .* got 4"):
        load("texas", root=raw_root, split=4)
    with pytest.raises(InputError, match=r"split must be one of 0 … 9, .* got 10"):
        load("minesweeper", root=raw_root, split=10)


def test_an_altered_file_is_refused(raw_root, tmp_path):
    folder = tmp_path / "geom-gcn" / "texas" / "raw"
    shutil.copytree(raw_root / "raw" / "geom-gcn" / "texas", folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    load("texas", root=tmp_path)
    edges = folder / "out1_graph_edges.txt"
    edges.write_text(edges.read_text() + "1\t2\n")
    with pytest.raises(DataError, match=r"must have the SHA-256 sum 0fe85183.* was altered"):
        load("texas", root=tmp_path)
    assert {file.state for file in verify("texas", tmp_path).files} == {"ok", "wrong checksum", "missing"}


def test_gnn_benchmark(tmp_path):
    """The class reads plain arrays; no split comes with them."""
    import scipy.sparse

    random = np.random.default_rng(0)
    parts = {
        "attr": scipy.sparse.random(60, 9, 0.5, "csr", random_state=random),
        "adj": scipy.sparse.random(60, 60, 0.1, "csr"),
    }
    arrays = {f"{n}_{p}": getattr(m, p) for n, m in parts.items() for p in ("data", "indices", "indptr", "shape")}
    folder = tmp_path / "gnn-benchmark" / "photo" / "raw"
    folder.mkdir(parents=True)
    np.savez(folder / "amazon_electronics_photo.npz", **arrays, labels=np.arange(60) % 3)
    data = load("photo", root=tmp_path, seed=1)
    validate(data)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["amazon_electronics_photo.npz"]
    with pytest.raises(InputError, match="photo brings no splits, but split=1 came"):
        load("photo", root=tmp_path, split=1)


def test_karate():
    data = load("karate", retain=0.5)
    validate(data)
    assert (data.num_nodes, data.edge_index.shape[1]) == (34, 78)


@pytest.mark.parametrize("name", [name for name in NAMED if name != "karate"])
def test_what_is_not_there_says_how_to_get_it(tmp_path, name):
    with pytest.raises(DataError, match=rf"lds data fetch {NAMED[name].name if name != 'ogbn_arxiv' else name}"):
        load(name, root=tmp_path)


def test_fetch_keeps_what_came_and_its_sums(tmp_path, monkeypatch):
    def download(self):
        for name in self.raw_file_names:
            (Path(self.raw_dir) / name).write_bytes(name.encode())

    monkeypatch.setattr("torch_geometric.datasets.CitationFull.download", download)
    assert fetch("dblp", tmp_path).ok
    path = tmp_path / "citation-full" / "dblp" / "raw" / "dblp.npz"
    assert path.read_bytes() == b"dblp.npz"
    path.write_bytes(b"altered")
    assert not verify("dblp", tmp_path).ok
    assert fetch("dblp", tmp_path).ok
    monkeypatch.setattr("torch_geometric.datasets.WebKB.download", download)
    with pytest.raises(DataError, match=r"must have the SHA-256 sum .* nothing was kept"):
        fetch("texas", tmp_path)


def test_arxiv_needs_ogb(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ogb", None)
    with pytest.raises(DataError, match="needs the package ogb to be read; pip install ogb"):
        fetch("ogbn_arxiv", tmp_path)
