"""What becomes of each part of data."""

import numpy as np
import pytest
import scipy.sparse
import torch
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.transforms import ToSparseTensor

import lds
from lds.data import MASKS, complete_masks, prepare
from lds.data.labels import encode
from lds.errors import DataError, InputError
from lds.graph import AllPairs, CandidatePairs, GivenGraph, KNNGraph
from tests.data.own.problems import DATA

PARTS = {"x": DATA.x, "y": DATA.y, "edge_index": DATA.edge_index}


def test_clean_parts_stay():
    data = prepare(PARTS)
    assert all(torch.equal(data[name], PARTS[name]) for name in PARTS)
    assert data.class_names == ["0", "1", "2"]


@pytest.mark.parametrize("convert", [
    torch.Tensor.half, torch.Tensor.bfloat16, torch.Tensor.double, torch.Tensor.numpy,
    lambda x: torch.nn.Parameter(x), lambda x: scipy.sparse.csc_array(x.numpy()),
])  # fmt: skip
def test_features_of_any_type(convert):
    x = prepare(PARTS | {"x": convert(DATA.x)}).x
    x = x.to_dense() if x.layout != torch.strided else x
    assert (x.dtype, x.requires_grad) == (torch.float32, False)
    torch.testing.assert_close(x, DATA.x, atol=2e-2, rtol=1e-2)


def test_scaling_comes_before_the_cast():
    """Years and populations, which single precision would round to one number."""
    large = np.arange(48)[:, None] + np.array([[2.0**30]])
    x = prepare(PARTS | {"x": large}, scale="standard").x
    assert x.unique().numel() == 48
    assert prepare(PARTS | {"x": large.astype(np.int64)}, scale="standard").x.unique().numel() == 48


@pytest.mark.parametrize("power", [0, -6, -9, -20, -30, 25])
@pytest.mark.parametrize("sparse", [False, True])
def test_no_unit_loses_a_neighbour_or_a_scale(power, sparse):
    def units(x):
        x = x.relu().double() * 10.0**power
        return x.float().to_sparse_csr() if sparse else x.float()

    plain = Data(x=DATA.x.relu() + 0.01 * (not sparse), num_nodes=48)
    other = Data(x=(plain.x.double() * 10.0**power).float(), num_nodes=48)
    if sparse:
        plain.x, other.x = plain.x.to_sparse_csr(), other.x.to_sparse_csr()
    expected, found = KNNGraph(3)(plain), KNNGraph(3)(other)
    assert len(set(map(tuple, expected.T.tolist())) ^ set(map(tuple, found.T.tolist()))) <= 2  # Rounded ties.
    rows = prepare(PARTS | {"x": other.x}, scale="row").x.to_dense().abs().sum(1)
    there = plain.x.to_dense().abs().sum(1) > 0
    torch.testing.assert_close(rows[there], torch.ones(int(there.sum())))


def test_unit_scale():
    torch.testing.assert_close(prepare(PARTS, scale="unit").x.square().sum(1), torch.ones(48))


@pytest.mark.parametrize(("kind", "width"), [("identity", 48), ("degree", None), ("tfidf", 8)])
def test_made_features(kind, width):
    x = prepare(PARTS | {"x": DATA.x.abs()}, features=kind).x
    assert x.shape == (48, width or torch.bincount(DATA.edge_index[0], minlength=48).unique().numel())
    if kind != "tfidf":
        assert torch.equal(x.to_dense().sum(1), torch.ones(48))
        assert torch.equal(
            prepare({"y": DATA.y, "edge_index": DATA.edge_index}, features=kind).x.to_dense(), x.to_dense()
        )


@pytest.mark.parametrize("form", ["adj_t", "SparseTensor", "dense", "scipy"])
def test_an_adjacency(form):
    dense = torch.zeros(48, 48)
    dense[tuple(DATA.edge_index)] = 1
    adj = {
        "adj_t": lambda: {"adj_t": ToSparseTensor()(Data(**PARTS)).adj_t},
        "SparseTensor": lambda: {"adj_t": dense.to_sparse_csr()},
        "dense": lambda: {"adj": dense},
        "scipy": lambda: {"adj": scipy.sparse.coo_array(dense.numpy())},
    }[form]()
    data = prepare({"x": DATA.x, "y": DATA.y, **adj})
    assert torch.equal(data.edge_index, DATA.edge_index)
    assert "adj_t" not in data
    memory = Data(x=DATA.x, y=DATA.y, **adj, **complete_masks(DATA))
    fits = [lds.StructureLearner(inner_steps=2, max_epochs=1).fit(d) for d in (memory, DATA)]
    assert torch.equal(fits[0].logits, fits[1].logits)


def test_weights_may_start_theta():
    weight = torch.linspace(0, 1, DATA.edge_index.shape[1])
    data = prepare(PARTS | {"edge_weight": weight}, weights="initial")
    for edges in (AllPairs, CandidatePairs):
        learner = lds.StructureLearner(
            graph=GivenGraph(weights="initial"), edges=edges, learn_structure=False, inner_steps=2, max_epochs=1
        )
        graph = learner.fit(data).graph(0.0)
        found = {(a, b): w for (a, b), w in zip(graph.edge_index.T.tolist(), graph.edge_weight.tolist(), strict=True)}
        for (a, b), w in zip(DATA.edge_index.T.tolist(), weight.tolist(), strict=True):
            assert found.get((a, b), 0) >= w - 1e-6
        # An exported graph is gone on from where it was.
        exported = Data(x=DATA.x, y=DATA.y, edge_index=graph.edge_index, edge_weight=graph.edge_weight, **{
            mask: data[mask] for mask in MASKS})  # fmt: skip
        again = learner.fit(exported).graph(0.0)
        assert torch.equal(again.edge_weight, graph.edge_weight)
    alone = prepare(PARTS | {"edge_weight": weight}, weights="drop")
    assert alone.edge_index.shape[1] >= DATA.edge_index.shape[1] - 2
    with pytest.raises(DataError, match=r"probabilities in \[0, 1\] to start from, but 1.00671 came at edge 75"):
        prepare(PARTS | {"edge_weight": weight * 2}, weights="initial")


def test_retain_keeps_the_weights_of_the_edges_that_it_keeps():
    one = DATA.edge_index[0] < DATA.edge_index[1]
    index = DATA.edge_index[:, one]
    weight = torch.rand(index.shape[1], generator=torch.Generator().manual_seed(0))
    data = prepare(PARTS | {"edge_index": index, "edge_weight": weight}, weights="initial", retain=0.5)
    known = {tuple(pair): w for pair, w in zip(index.T.tolist(), weight.tolist(), strict=True)}
    assert data.edge_weight.shape == data.edge_index.shape[1:]
    for pair, w in zip(data.edge_index.T.tolist(), data.edge_weight.tolist(), strict=True):
        assert known[tuple(sorted(pair))] == pytest.approx(w)


@pytest.mark.parametrize("form", [torch.uint8, torch.int64, torch.float32, "indices", "columns", "rows"])
def test_masks_in_any_form(form):
    masks = {name: DATA[name] for name in MASKS}
    if form == "indices":
        made = {f"{name.removesuffix('_mask')}_idx": mask.nonzero().flatten() for name, mask in masks.items()}
    elif form in ("columns", "rows"):
        made = {name: torch.stack([mask.roll(1), mask], int(form == "columns")) for name, mask in masks.items()}
    else:
        made = {name: mask.to(form) for name, mask in masks.items()}
    data = prepare(PARTS | made, split=1 if form in ("columns", "rows") else None)
    assert all(torch.equal(data[name], masks[name]) for name in MASKS)
    if form == "columns":
        assert torch.equal(prepare(PARTS | made).train_mask, masks["train_mask"].roll(1))
        with pytest.raises(InputError, match=r"split must be one of 0 … 1, .* got 2"):
            prepare(PARTS | made, split=2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: Batch.from_data_list([Data(**PARTS)] * 2), "one graph, but a Batch of 2 came"),
        (lambda: Data(**PARTS, batch=torch.arange(48) // 24), "one graph, but a Batch of 2 came"),
        (HeteroData, "a HeteroData came; take data.to_homogeneous"),
        (lambda: [1], "must be a torch_geometric Data or a dict of parts, but list came"),
        (lambda: PARTS | {"node_names": ["a"] * 48}, "node_names must differ .* 'a' came twice"),
        (lambda: PARTS | {"node_names": ["a"]}, "node_names must name 48 nodes"),
        (lambda: PARTS | {"class_names": ["a", "b"]}, "y must lie in 0 … 1"),
        (lambda: PARTS | {"num_classes": 10**9}, "num_classes must be at most the number of nodes, 48"),
        (lambda: PARTS | {"train_idx": torch.tensor([48])}, "train_idx must be node numbers in 0 … 47"),
        (
            lambda: PARTS | {"train_idx": torch.tensor([1]), "train_mask": DATA.train_mask},
            "train_mask once, but train_idx",
        ),
    ],
)
def test_refused(data, message):
    with pytest.raises(DataError, match=message):
        prepare(data())
    if isinstance(made := data(), Data):
        with pytest.raises(DataError, match=message):
            lds.StructureLearner().fit(made)


def test_names_stay():
    names = [f"n{i}" for i in range(48)]
    data = prepare(PARTS | {"node_names": np.array(names), "class_names": ["a", "b", "c"]})
    assert (data.node_names, data.class_names) == (names, ["a", "b", "c"])


def test_a_mark_of_ones_own():
    assert encode(["1", "2", "?"], unlabelled="?").numbers.tolist() == [0, 1, -1]
    assert encode(["a", "b", "unknown"], unlabelled="unknown").names == ["a", "b"]
    assert encode(np.array([0, 1, -100]), unlabelled="-100").numbers.tolist() == [0, 1, -1]
    for labels in (["a", "b"], np.array([0, 1])):
        with pytest.raises(DataError, match="unlabelled='x' must mark a node, but no label is this"):
            encode(labels, unlabelled="x")
