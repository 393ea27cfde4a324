"""A torch_geometric `Data` of a user's own."""

import os
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data, HeteroData

from lds.data import MASKS, read
from lds.errors import DataError
from tests.data.conftest import Trap
from tests.data.own.problems import DATA, same


def write(path, saved):
    torch.save(saved, path)
    return path


def test_a_data_with_masks(tmp_path):
    data = read(write(tmp_path / "a.pt", DATA))
    assert same(data)
    assert all(torch.equal(data[name], DATA[name]) for name in MASKS)


def test_other_attributes_play_no_part(tmp_path):
    saved = Data(x=DATA.x, y=DATA.y[:, None], edge_index=DATA.edge_index, pos=torch.ones(48, 3), name="mine")
    data = read(write(tmp_path / "a.pt", saved))
    assert same(data)
    assert "pos" not in data


def test_a_dict(tmp_path):
    assert same(read(write(tmp_path / "a.pt", OrderedDict(x=DATA.x, y=DATA.y, edge_index=DATA.edge_index))))


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_sparse_features_stay_sparse(tmp_path, layout):
    data = read(write(tmp_path / "a.pt", Data(x=DATA.x.relu().to_sparse(layout=layout), y=DATA.y)), scale="row")
    assert data.x.layout == torch.sparse_csr
    rows = DATA.x.relu()
    torch.testing.assert_close(data.x.to_dense(), rows / rows.sum(1, keepdim=True))
    assert data.edge_index.shape == (2, 0)


@pytest.mark.parametrize("where", ["alone", "in a dict", "in a Data"])
def test_no_code_runs(tmp_path, where):
    trap = Trap(tmp_path / "sprung")
    saved = {"alone": trap, "in a dict": {"x": trap}, "in a Data": Data(x=DATA.x, y=DATA.y, more=trap)}[where]
    path = write(tmp_path / "a.pt", saved)
    with pytest.raises(DataError, match="nothing that could run code"):
        read(path)
    assert not trap.sprung.exists()
    torch.load(path, weights_only=False)
    assert trap.sprung.exists()  # The trap was one.


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (torch.ones(3), "must hold a torch_geometric Data or a dict, but holds a Tensor; save one graph"),
        ([DATA], "holds a list of graph and slices, as processed/data.pt"),
        ((DATA, {}), "but holds a tuple"),
        (HeteroData(), "must hold a torch_geometric Data of tensors .* holds a HeteroData .*to_homogeneous"),
        (Batch.from_data_list([DATA, DATA]), "holds a Batch of graphs .*; save one of batch.to_data_list"),
        (Data(x=DATA.x, y=DATA.y, ids=np.arange(48)), "holds a numpy array .*torch.from_numpy"),
        (Data(), r"data.x must hold the features \[N, F\], but it is missing; set it"),
        (Data(x=DATA.x), "data.y must hold the labels"),
        (Data(x=DATA.x, y=DATA.y + 0.5), "y must name classes, but measurements came"),
        (Data(x=[1.0], y=DATA.y), "x must be a tensor, but a list came; convert it"),
        (Data(x=DATA.x, y=DATA.y, edge_index=DATA.edge_index, edge_weight=torch.ones(3)), "edge_weight must be"),
        (Data(edge_index=DATA.edge_index, edge_weight=torch.ones(3)), "has no x and no y, like a graph of lds export"),
        (Data(x=DATA.x, edge_weight=torch.ones(3)), "data.y must hold the labels"),
        (Data(x=DATA.x, y=DATA.y, adj_t=torch.eye(9).to_sparse()), r"adj_t must be an adjacency \[48, 48\]"),
        (Data(x=DATA.x, y=DATA.y, train_mask=torch.ones(48, 10, dtype=torch.bool)), "are missing; add or drop masks"),
        (Data(x=DATA.x, y=DATA.y, **{name: torch.ones(48, dtype=torch.bool) for name in MASKS}), "disjoint"),
        (Data(x=DATA.x, y=DATA.y, **{name: torch.full((48,), 2) for name in MASKS}), "must be bool .*, or 0 and 1"),
        (Data(x=torch.complex(DATA.x, DATA.x), y=DATA.y), "x must be numbers"),
        (Data(x=DATA.x.to_sparse_csc(), y=DATA.y), "x must be a dense, COO or CSR tensor"),
    ],
)
def test_refused(tmp_path, saved, message):
    path = write(tmp_path / "a.pt", saved)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken", os.urandom(500)])
def test_no_file_of_torch(tmp_path, content):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.pt must"):
        read(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_cut_off(tmp_path, share):
    path = write(tmp_path / "a.pt", DATA)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"a\.pt must"):
        read(path)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_indices_outside_of_a_sparse_tensor(tmp_path, layout):
    """torch itself would read beyond the memory of its values."""
    x = DATA.x.relu().to_sparse(layout=layout)
    (x.col_indices() if layout == torch.sparse_csr else x._indices()[1])[:] = 10**9
    path = write(tmp_path / "a.pt", {"x": x, "y": DATA.y})
    with pytest.raises(DataError, match=r"a\.pt must .* damaged"):
        read(path)


def test_a_data_without_its_parts(tmp_path):
    data = Data(x=DATA.x, y=DATA.y)
    del data.__dict__["_store"]
    with pytest.raises(DataError, match="must hold a whole Data"):
        read(write(tmp_path / "a.pt", data))
