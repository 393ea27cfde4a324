"""20 newsgroups: what the loader of scikit-learn returns, kept as plain arrays."""

import numpy as np
import pytest
import sklearn.datasets
import torch
from sklearn.utils import Bunch

from lds.data import DATASETS, fetch, load, validate, verify
from lds.data.newsgroups import CATEGORIES
from lds.errors import DataError, InputError

TOPICS = ("god", "disk", "sale", "engine", "puck", "cipher", "voltage", "doctor", "orbit", "rifle")


@pytest.fixture
def root(monkeypatch, tmp_path):
    """A root, and a stub in the place of the download: 400 texts of a newsgroup."""
    asked = []

    def stub(**options):
        asked.append(options)
        y = np.arange(4000) % 10
        return Bunch(data=[f"{TOPICS[c]} {TOPICS[(c + n) % 10]} 1234" for n, c in enumerate(y)], target=y)

    monkeypatch.setattr(sklearn.datasets, "fetch_20newsgroups", stub)
    monkeypatch.setattr("tests.data.test_newsgroups.ASKED", asked)
    return tmp_path


ASKED: list = []


def test_from_the_loader_to_data(root):
    with pytest.raises(DataError, match="run `lds data fetch 20newsgroups`"):
        load("20newsgroups", root=root)
    assert fetch("20newsgroups", root).ok
    assert ASKED[0]["categories"] == list(CATEGORIES)
    data = load("20newsgroups", root=root, seed=1)
    validate(data)
    assert data.x.dtype == torch.float32
    assert data.x.shape == (4000, 11)
    torch.testing.assert_close(data.x.to_dense().norm(dim=1), torch.ones(4000))
    assert data.class_names == list(CATEGORIES)
    assert [int(data[f"{part}_mask"].sum()) for part in ("train", "val", "es", "test")] == [100, 100, 100, 3700]
    assert DATASETS["20newsgroups"].is_present(root)
    assert fetch("20newsgroups", root).ok
    assert len(ASKED) == 1  # What is there is not fetched again.
    assert [path.name for path in sorted((root / "20newsgroups").iterdir())] == ["20newsgroups.npz", "SHA256SUMS"]


def test_a_damaged_file_is_refused_and_replaced(root):
    fetch("20newsgroups", root)
    file = root / "20newsgroups" / "20newsgroups.npz"
    file.write_bytes(file.read_bytes()[:-9])
    assert not verify("20newsgroups", root).ok
    with pytest.raises(DataError, match="wrong checksum; run `lds data fetch"):
        load("20newsgroups", root=root)
    assert fetch("20newsgroups", root).ok
    np.savez(file, y=np.arange(3))
    (root / "20newsgroups" / "SHA256SUMS").unlink()
    with pytest.raises(DataError, match="must be what `lds data fetch 20newsgroups` writes"):
        load("20newsgroups", root=root)


def test_no_source(monkeypatch, tmp_path):
    def gone(**_):
        raise OSError("no route to host")

    monkeypatch.setattr(sklearn.datasets, "fetch_20newsgroups", gone)
    with pytest.raises(DataError, match="no route to host; go online"):
        fetch("20newsgroups", tmp_path)


@pytest.mark.parametrize("options", [{"retain": 0.5}, {"split": 1}])
def test_nothing_to_delete_or_to_choose(options, tmp_path):
    with pytest.raises(InputError, match="20newsgroups"):
        load("20newsgroups", root=tmp_path, **options)
