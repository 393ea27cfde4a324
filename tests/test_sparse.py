"""Constant sparse matrices as left operands."""

import pytest
import torch

from lds.errors import InputError
from lds.graph import SparseMatrix
from tests.oracles import DOUBLE


@pytest.fixture
def dense():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 5, generator=generator, dtype=DOUBLE)
    x = torch.where(torch.rand(9, 5, generator=generator) < 0.4, x, 0.0)
    x[4], x[:, 2] = 0, 0
    return x


def test_equals_the_dense_product(dense):
    sparse = SparseMatrix.from_dense(dense)
    w = torch.randn(5, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(sparse @ w, dense @ w, rtol=1e-14, atol=1e-14)
    assert (sparse.shape, sparse.dtype) == (dense.shape, dense.dtype)
    assert torch.equal(sparse.csr.to_dense(), dense)
    assert torch.equal(sparse.T.csr.to_dense(), dense.T)


def test_derivatives(dense):
    sparse = SparseMatrix.from_dense(dense)
    w = torch.randn(5, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(sparse.__matmul__, (w,))
    assert torch.autograd.gradgradcheck(sparse.__matmul__, (w,))


def test_of_a_sparse_tensor(dense):
    sparse = SparseMatrix(dense.to_sparse_csr())
    w = torch.ones(5, 2, dtype=DOUBLE)
    torch.testing.assert_close(sparse @ w, dense @ w)
    torch.testing.assert_close(sparse.T @ torch.ones(9, 2, dtype=DOUBLE), dense.T @ torch.ones(9, 2, dtype=DOUBLE))


def test_all_zeros():
    sparse = SparseMatrix.from_dense(torch.zeros(4, 3))
    assert torch.equal(sparse @ torch.ones(3, 2), torch.zeros(4, 2))


@pytest.mark.parametrize("shape", [(5,), (9, 5), (4, 2)])
def test_operands_of_another_shape(dense, shape):
    with pytest.raises(InputError, match="needs a matrix with 5 rows"):
        SparseMatrix.from_dense(dense) @ torch.ones(shape, dtype=DOUBLE)
