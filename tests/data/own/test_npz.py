"""Arrays of a user's own."""

import numpy as np
import pytest
import scipy.sparse
import torch

from lds.data import MASKS, read, validate
from lds.errors import DataError
from tests.data.own.problems import DATA, same

ARRAYS = {"x": DATA.x.numpy(), "y": DATA.y.numpy(), "edge_index": DATA.edge_index.numpy()}


def write(path, **arrays):
    np.savez(path, **{name: array for name, array in {**ARRAYS, **arrays}.items() if array is not None})
    return path


def csr(x=ARRAYS["x"]):
    matrix = scipy.sparse.csr_matrix(np.where(x > 1, x, 0))
    return {"x_data": matrix.data, "x_indices": matrix.indices, "x_indptr": matrix.indptr, "x_shape": matrix.shape}


def test_dense(tmp_path):
    assert same(read(write(tmp_path / "a.npz")))


@pytest.mark.parametrize("dtype", ["float64", ">f4", "float16"])
def test_types(tmp_path, dtype):
    data = read(write(tmp_path / "a.npz", x=ARRAYS["x"].astype(dtype), y=ARRAYS["y"].astype("uint8")))
    assert (data.x.dtype, data.y.dtype) == (torch.float32, torch.int64)
    torch.testing.assert_close(data.x, DATA.x, atol=1e-2, rtol=0)


def test_column_major_and_narrow(tmp_path):
    arrays = {"x": np.asfortranarray(ARRAYS["x"]), "edge_index": ARRAYS["edge_index"].astype(np.int32)}
    assert same(read(write(tmp_path / "a.npz", **arrays)))


def test_sparse_features_stay_sparse(tmp_path):
    data = read(write(tmp_path / "a.npz", x=None, **csr()))
    assert data.x.layout == torch.sparse_csr
    assert torch.equal(data.x.to_dense(), torch.where(DATA.x > 1, DATA.x, 0.0))
    assert data.num_nodes == 48
    validate(data)


def test_sparse_features_that_no_memory_could_hold_dense(tmp_path):
    wide = scipy.sparse.csr_matrix((np.ones(48), (np.arange(48), np.arange(48) * 10**7)), shape=(48, 10**9))
    parts = {"x_data": wide.data, "x_indices": wide.indices, "x_indptr": wide.indptr, "x_shape": wide.shape}
    data = read(write(tmp_path / "a.npz", x=None, **parts), scale="row")
    assert data.x.shape == (48, 10**9)
    assert data.x.values().tolist() == [1.0] * 48


def test_names_of_classes(tmp_path):
    names = np.array(["c", "a", "b"])
    data = read(write(tmp_path / "a.npz", y=names[ARRAYS["y"]]))
    assert data.class_names == ["a", "b", "c"]
    assert data.y.tolist() == [[2, 0, 1][y] for y in ARRAYS["y"]]


def test_masks_and_classes(tmp_path):
    masks = {name: DATA[name].numpy() for name in MASKS}
    data = read(write(tmp_path / "a.npz", **masks, num_classes=5))
    assert all(torch.equal(data[name], DATA[name]) for name in MASKS)
    assert data.num_classes == 5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": None}, r"data.x must hold the features \[N, F\], but it is missing"),
        (csr(), "must hold x, or else all of x_data, .*, but x, x_data, .* came; save one of the two"),
        ({"x": None, "x_data": np.ones(3)}, "but x_data came"),
        ({"train_mark": np.ones(48, bool)}, "must hold some of .*, but train_mark came; rename or drop it"),
        ({"y": None}, "must hold the labels y, with -1 on unlabelled nodes"),
        ({"labels": np.ones(3)}, "must hold y, but y, labels came; save one of the two"),
        ({"edge_weight": np.ones(3)}, r"edge_weight must be numbers \[\d+\], one per edge, but float64 \[3\] came"),
        ({"edge_weight": np.full(ARRAYS["edge_index"].shape[1], 0.5)}, "edge_weight must be 1 .* 0.5 came; keep the"),
        ({"x": None, "y": None, "edge_weight": np.ones(3)}, "but has no x and no y, like a graph of lds export; save"),
        ({"x": None, "edge_weight": np.ones(3), **csr()}, "edge_weight must be numbers"),
        ({"x": np.array([{}] * 48)}, "plain arrays, but Object arrays cannot be loaded"),
        ({"y": np.array(["a", None] * 24)}, "plain arrays, but Object arrays cannot be loaded"),
        ({"x": np.array([["1"]] * 48)}, "x must hold numbers, but <U1 came"),
        ({"x": ARRAYS["x"].astype(complex)}, "x must hold numbers, but complex128 came"),
        ({"x": ARRAYS["x"][0]}, r"x must be numbers \[N, F\]"),
        ({"x": ARRAYS["x"][:20]}, r"y must be integer \[20\], one label per row of x, but int64 \[48\] came"),
        ({"y": ARRAYS["y"] + 0.5}, "y must name classes, but measurements came, the first 0.5 in row 0"),
        ({"y": np.full(48, -1)}, "every node is unlabelled, -1; label some nodes"),
        ({"y": np.where(ARRAYS["y"] == 1, -7, ARRAYS["y"])}, "or -1 where unlabelled, but -7 came in 16 rows, .*-7"),
        ({"edge_index": ARRAYS["edge_index"].T}, "transpose or reshape it"),
        ({"edge_index": ARRAYS["edge_index"] + 1}, "edge_index must lie in 0 … 47"),
        ({"edge_index": ARRAYS["edge_index"].astype(float)}, r"edge_index must be int64 \[2, E\]"),
        ({"train_mask": np.ones(48, bool)}, "val_mask and es_mask and test_mask are missing"),
        ({"num_classes": np.ones(2)}, "num_classes must be one number"),
        ({"num_classes": 2}, "y must lie in 0 … 1"),
        ({"x": np.where(ARRAYS["x"] > 1, np.nan, ARRAYS["x"])}, "x must be finite"),
    ],
)
def test_refused(tmp_path, arrays, message):
    path = write(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x_indices", csr()["x_indices"] + 8),
        ("x_indices", -1 - csr()["x_indices"]),
        ("x_indptr", csr()["x_indptr"][:-1]),
        ("x_indptr", csr()["x_indptr"][::-1]),
        ("x_data", csr()["x_data"][:-1]),
        ("x_shape", np.array([48])),
        ("x_shape", np.array([48, -8])),
        ("x_shape", np.array(3)),
    ],
)
def test_parts_that_make_no_matrix(tmp_path, name, value):
    with pytest.raises(DataError, match="must hold a CSR matrix as x_data"):
        read(write(tmp_path / "a.npz", x=None, **csr() | {name: value}))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken", b"\x93NUMPY\x01\x00"])
def test_no_archive(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"must be a file of numpy\.savez"):
        read(path)


def test_a_single_array(tmp_path):
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, ARRAYS["x"])
    with pytest.raises(DataError, match=r"must be a file of numpy\.savez"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_cut_off(tmp_path, share):
    path = write(tmp_path / "a.npz")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"must be a file of numpy\.savez"):
        read(path)
