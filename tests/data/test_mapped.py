"""Features that stay on disk give what the same features in memory give."""

from functools import partial

import numpy as np
import pytest
import torch

from lds.data import map_features, prepare
from lds.data.mapped import is_mapped, mapped_rows, pieces
from lds.errors import DataError
from lds.graph import CandidatePairs, _candidate_graph, random_pairs
from lds.learner import StructureLearner
from lds.learner._task import Task
from lds.nn import GCN
from tests.learner.test_active import problem
from tests.oracles import same_bits


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "x.npy", problem().x.numpy())
    return tmp_path / "x.npy"


def test_reads_the_file(path):
    x = map_features(path)
    assert torch.equal(x, problem().x)
    assert is_mapped(x)
    assert is_mapped(x[3:])
    assert not is_mapped(x.clone())
    assert not is_mapped(x.to_sparse_csr())
    rows = torch.tensor([5, 3, 70])
    assert torch.equal(mapped_rows(x, rows), x[rows])
    assert torch.equal(torch.cat(list(pieces(x))), problem().x)


def test_is_forgotten_with_the_tensor(path):
    x = map_features(path)
    other = problem().x
    del x
    assert not is_mapped(other)


def test_the_file_stays_as_it_is(path):
    before = path.read_bytes()
    x = map_features(path)
    x[3:].zero_()
    assert path.read_bytes() == before
    assert not torch.cat(list(pieces(x)))[3:].any()  # And what was written is not lost.
    assert not mapped_rows(x, torch.tensor([4])).any()
    path.chmod(0o400)
    assert torch.equal(map_features(path), problem().x)


@pytest.mark.parametrize("share", [0.0, 2.0])
def test_the_same_fit(path, monkeypatch, share):
    monkeypatch.setattr(_candidate_graph, "ACTIVE_SHARE", share)
    edges = partial(CandidatePairs, candidates=random_pairs(80, 60, seed=1))
    learner = StructureLearner(tau=2, inner_steps=4, max_epochs=1, samples=2, edges=edges)
    fits = []
    for mapped in (False, True):
        data = problem()
        if mapped:
            data.x = map_features(path)
        fits.append(learner.fit(data))
    assert same_bits(*((fit.structure.state(), fit.logits) for fit in fits))


def test_stays_on_disk(path):
    data = problem(dtype=torch.float32)
    np.save(path, data.x.numpy() * (np.arange(5) == 0))  # Sparse, so that others would be held as such.
    data.x = map_features(path)
    assert is_mapped(prepare(data).x)
    assert is_mapped(Task(prepare(data), GCN, 0.0).x)


@pytest.mark.parametrize(
    ("array", "came"),
    [
        (np.ones(3), r"float64 of shape \(3,\)"),
        (np.ones((2, 2), dtype=np.int64), r"int64 of shape \(2, 2\)"),
        (np.ones((2, 2), dtype=np.float16), r"float16 of shape \(2, 2\)"),
        (np.asfortranarray(np.ones((2, 3))), "column after column"),
        (np.array([["a"]]), "<U1 of shape"),
    ],
)
def test_other_arrays(tmp_path, array, came):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(DataError, match=rf"x.npy must hold .* {came}"):
        map_features(tmp_path / "x.npy")


@pytest.mark.parametrize("content", [None, b"", b"text", b"\x93NUMPY\x01\x00"])
def test_no_arrays(tmp_path, content):
    if content is not None:
        (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"x.npy must be an array as numpy.save writes it, but .*; check the file"):
        map_features(tmp_path / "x.npy")
