"""Copies of θ that lie in a file where they are large."""

import gc
import os
import weakref

import pytest
import torch

from lds.errors import InputError, StorageError
from lds.graph import AllPairs, CandidatePairs
from lds.learner import StructureLearner
from lds.learner import _kept as kept
from lds.learner._kept import Kept
from tests.graph.oracles import structure_of, theta
from tests.learner.problems import blocks
from tests.learner.test_progress import SHORT, Saver, same
from tests.oracles import DOUBLE


@pytest.fixture
def in_files(monkeypatch):
    """Every copy in a file, in many parts."""
    monkeypatch.setattr(kept, "_IN_MEMORY", 0)
    monkeypatch.setattr(kept, "_PART", 1000)


def structures():
    row = torch.tensor([[0, 1, 2], [3, 4, 5]])
    return [structure_of(theta("random", 130)), structure_of(theta("sparse", 70).float()), CandidatePairs(9, row)]


@pytest.mark.parametrize("structure", structures(), ids=["double", "single", "candidates"])
@pytest.mark.parametrize("where", ["in memory", "in files"])
def test_a_copy_goes_back(structure, where, request):
    if where == "in files":
        request.getfixturevalue("in_files")
    state = structure.state()
    copy = Kept.of(structure)
    assert copy.is_large == (where == "in files")
    structure.restore_(torch.zeros_like(state))
    assert torch.equal(copy.tensor(), state)
    assert copy.tensor().dtype == state.dtype
    copy.restore_(structure)
    assert torch.equal(structure.state(), state)
    assert structure.expected_edges == pytest.approx(float(state.double().sum()))


def test_two_who_read_at_once(in_files):
    copy = Kept.of(structures()[0])
    pairs = list(zip(copy.parts(), copy.parts(), strict=True))
    assert len(pairs) > 2
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_file_is_closed_with_the_copy(in_files):
    copy = Kept.of(structures()[0])
    file, there = copy._file, weakref.ref(copy)
    del copy
    gc.collect()
    assert there() is None
    assert file.closed


def test_a_full_disk(in_files, monkeypatch):
    def full(*args):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(kept.tempfile, "TemporaryFile", full)
    with pytest.raises(
        StorageError, match=r"the best θ cannot be kept in .*: No space left on device; make room there"
    ):
        Kept.of(structures()[0])


@pytest.mark.parametrize("options", [{}, {"interval": 2, "horizon": 5}], ids=["default", "long horizon"])
def test_a_training_gives_the_same_bits(options, monkeypatch):
    learner = StructureLearner(**(SHORT | options))
    whole = learner.fit(blocks(), seed=3)
    monkeypatch.setattr(kept, "_IN_MEMORY", 0)
    saver = Saver()
    same(learner.fit(blocks(), seed=3, callbacks=[saver]), whole)
    for index in range(0, len(saver.files), 3):
        same(learner.fit(blocks(), seed=3, resume=saver.load(index)), whole)


def test_another_kernel_is_refused(monkeypatch):
    monkeypatch.setenv("LDS_KERNEL", "torch")
    saver = Saver()
    learner = StructureLearner(**SHORT)
    learner.fit(blocks(), callbacks=[saver])
    values = saver.load(2)
    assert values["kernel"] == "torch"
    message = r"was computed by 'native' and this process takes 'torch', .*; set LDS_KERNEL=native where lds has that"
    with pytest.raises(InputError, match=message):
        learner.fit(blocks(), resume={**values, "kernel": "native"})
    assert AllPairs(3, torch.zeros(2, 0, dtype=torch.int64), dtype=DOUBLE).kernel == "torch"
