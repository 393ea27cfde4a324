"""What is the same for all formats."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from lds.data import MASKS, read
from lds.errors import DataError, InputError
from tests.data.own.problems import DATA


@pytest.fixture
def path(tmp_path):
    torch.save(Data(x=DATA.x * 3 + 2, y=DATA.y, edge_index=DATA.edge_index), tmp_path / "a.pt")
    return tmp_path / "a.pt"


def test_sizes_and_seed(path):
    data, other = (read(path, train_size=12, val_size=6, es_size=3, seed=seed) for seed in (1, 2))
    assert [int(data[name].sum()) for name in MASKS] == [12, 6, 3, 27]
    assert not torch.equal(data.train_mask, other.train_mask)


def test_standard_scale(path):
    x = read(path, scale="standard").x
    torch.testing.assert_close(x.mean(0), torch.zeros(8), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.std(0, unbiased=False), torch.ones(8))
    assert torch.equal(read(path).x, DATA.x * 3 + 2)


def test_row_scale(path):
    torch.testing.assert_close(read(path, scale="row").x.abs().sum(1), torch.ones(48))


def test_sparse_features_have_no_standard_scale(tmp_path):
    torch.save(Data(x=DATA.x.to_sparse(), y=DATA.y), tmp_path / "a.pt")
    with pytest.raises(DataError, match=r'a\.pt: scale="standard" would make sparse features dense; take scale="row"'):
        read(tmp_path / "a.pt", scale="standard")


def test_retain(path):
    kept = {tuple(edge) for edge in read(path, retain=0.5, seed=1).edge_index.T.tolist()}
    assert len(kept) == 2 * round(0.25 * DATA.edge_index.shape[1])
    assert kept < {tuple(edge) for edge in DATA.edge_index.T.tolist()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retain": 1.5}, "retain must be a share of edges"),
        ({"scale": "log"}, 'scale must be "none", "unit", "standard" or "row", got \'log\''),
        ({"seed": -1}, "seed must be an integer from 0"),
        ({"label": "y"}, "label belongs to a .csv, .* file, but .* came with label='y'; drop it"),
        ({"id": "y"}, "id belongs to a .csv, .* file"),
        ({"edges": "y"}, "edges belongs to a .csv, .* file"),
    ],
)
def test_options_out_of_range(path, options, message):
    with pytest.raises(InputError, match=message):
        read(path, **options)


def test_no_edges_to_delete(tmp_path):
    np.savez(tmp_path / "a.npz", x=DATA.x, y=DATA.y)
    with pytest.raises(
        InputError, match=r"a\.npz: the data has no edges to delete, but retain=0\.5 came; leave it at 1\.0"
    ):
        read(tmp_path / "a.npz", retain=0.5)


@pytest.mark.parametrize("name", ["a.json", "a", "a.pt.gz"])
def test_other_formats(tmp_path, name):
    with pytest.raises(InputError, match=r"data must be a \.pt, \.npz, .* file, got"):
        read(tmp_path / name)


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".csv"])
def test_a_folder_in_its_place(tmp_path, suffix):
    (tmp_path / f"a{suffix}").mkdir()
    with pytest.raises(DataError, match="cannot be read: Is a directory; check the path and its rights"):
        read(tmp_path / f"a{suffix}")


def test_the_random_state_stays(path):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1]
    read(path, seed=3)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
