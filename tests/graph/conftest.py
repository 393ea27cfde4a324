from contextlib import contextmanager

import optree
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lds._kernel import VARIABLE, library


class _Sizes(TorchDispatchMode):
    """Fails as soon as an operator returns a dense tensor of `limit` numbers or more."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in optree.tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.layout == torch.strided:
                self.largest = max(self.largest, x.numel())
                assert x.numel() < self.limit, f"{func} returned {x.numel()} numbers"
        return result


@pytest.fixture
def no_large_tensors():
    @contextmanager
    def watch(limit):
        with _Sizes(limit) as seen:
            yield seen

    return watch


@pytest.fixture
def kernel(request, monkeypatch):
    """The path that θ on all pairs takes in a test; without a compiler there is one."""
    if request.param == "native" and library() is None:
        pytest.skip("the compiled part of lds is not built: python setup.py build_ext --inplace")
    monkeypatch.setenv(VARIABLE, request.param)
    return request.param
