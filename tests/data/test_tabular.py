from pathlib import Path

import pytest
import sklearn.datasets
import torch

from lds.data import DATASETS, MASKS, load, validate
from lds.errors import InputError

SIZES = {
    "wine": (178, 13, 3, 10),
    "breast_cancer": (569, 30, 2, 10),
    "digits": (1797, 64, 10, 50),
    "iris": (150, 4, 3, 10),
}


@pytest.mark.parametrize("name", SIZES)
def test_shapes_masks_and_classes(name: str) -> None:
    data = load(name)
    nodes, features, classes, part = SIZES[name]
    assert data.x.shape == (nodes, features)
    assert data.x.dtype == torch.float32
    assert data.y.shape == (nodes,)
    assert data.y.dtype == torch.int64
    assert data.y.unique().tolist() == list(range(classes))
    assert data.num_classes == classes
    assert data.edge_index.shape == (2, 0)
    assert data.edge_index.dtype == torch.int64
    assert [int(data[mask].sum()) for mask in MASKS] == [part, part, part, nodes - 3 * part]
    assert sum(data[mask].int() for mask in MASKS).eq(1).all()
    validate(data)
    source = DATASETS[name]
    assert (source.nodes, source.features, source.classes, source.edges) == (nodes, features, classes, 0)


@pytest.mark.parametrize("name", SIZES)
def test_every_class_is_in_every_split(name: str) -> None:
    data = load(name, seed=3)
    for mask in MASKS:
        assert data.y[data[mask]].unique().numel() == data.num_classes


@pytest.mark.parametrize("name", SIZES)
def test_features_are_standardised_and_constant_columns_are_zero(name: str) -> None:
    x = load(name, scale="standard").x
    raw = torch.from_numpy(getattr(sklearn.datasets, f"load_{name}")().data)
    constant = raw.eq(raw[0]).all(dim=0)
    assert int(constant.sum()) == (3 if name == "digits" else 0)
    assert x[:, constant].eq(0).all()
    # 1e-5: float32 means over at most 1797 rows
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(x.size(1)), atol=1e-5, rtol=0)
    torch.testing.assert_close(x[:, ~constant].std(dim=0, correction=0), torch.ones(int((~constant).sum())))


def test_splits_follow_the_seed() -> None:
    first, again, other = (load("wine", seed=seed) for seed in (1, 1, 2))
    for mask in MASKS:
        assert torch.equal(first[mask], again[mask])
        assert not torch.equal(first[mask], other[mask])
    assert torch.equal(first.x, other.x)


def test_there_is_no_edge_to_delete() -> None:
    with pytest.raises(InputError, match=r"wine has no edges to delete, but retain=0\.5 came"):
        load("wine", retain=0.5)
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        load("wine", retain=float("nan"))


def test_what_is_usual() -> None:
    for name, scale in {"wine": "standard", "breast_cancer": "standard", "digits": "none", "iris": "none"}.items():
        assert torch.equal(load(name).x, load(name, scale=scale).x)  # type: ignore[arg-type]


def test_scales() -> None:
    raw = torch.from_numpy(sklearn.datasets.load_digits().data).float()
    torch.testing.assert_close(load("digits", scale="none").x, raw / 16)
    torch.testing.assert_close(load("digits", scale="unit").x.norm(dim=1), torch.ones(len(raw)))
    assert torch.equal(load("wine", scale="standard").x, load("wine").x)
    assert not torch.equal(load("wine", scale="none").x, load("wine").x)
    with pytest.raises(InputError, match='scale must be "none", "unit", "standard" or "row"'):
        load("wine", scale="half")  # type: ignore[arg-type]


def test_features(data_root: Path) -> None:
    x = load("cora", root=data_root, features="tfidf").x.to_dense()
    words = load("cora", root=data_root).x
    torch.testing.assert_close(x.norm(dim=1)[words.any(1)], torch.ones(int(words.any(1).sum())))
    assert torch.equal(x != 0, words != 0)
    counts = words.count_nonzero(0)
    node = int((words > 0).any(1).nonzero()[0])
    there = words[node].nonzero().flatten()
    assert x[node, there[counts[there].argmin()]] > x[node, there[counts[there].argmax()]]
    with pytest.raises(InputError, match='features must be "given"'):
        load("wine", features="words")  # type: ignore[arg-type]
