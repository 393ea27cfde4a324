import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch_geometric.data import Data

from lds.data import MASKS, load, num_classes, validate
from lds.errors import DataError

NODES = 12

# torch says both once a process, to whoever makes the first sparse tensor.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),
]


@pytest.fixture
def data() -> Data:
    """Twelve nodes, two in each mask, four in none; three classes; a ring."""
    nodes = torch.arange(NODES)
    masks = {name: (nodes // 2) == position for position, name in enumerate(MASKS)}
    y = nodes % 3
    y[10:] = -1
    return Data(x=torch.randn(NODES, 4), y=y, edge_index=torch.stack([nodes, nodes.roll(1)]), num_classes=3, **masks)


def test_good_data_passes(data: Data) -> None:
    validate(data)
    validate(load("iris"))


@pytest.mark.parametrize("convert", [torch.Tensor.double, torch.Tensor.to_sparse_coo, torch.Tensor.half])
def test_other_features_pass(data: Data, convert: Callable[[torch.Tensor], torch.Tensor]) -> None:
    data.x = convert(data.x)
    validate(data)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_other_integer_labels_pass(data: Data, dtype: torch.dtype) -> None:
    data.y = data.y.clamp(min=0).to(dtype)
    validate(data)


def test_edges_and_the_number_of_classes_are_optional(data: Data) -> None:
    del data.edge_index, data.num_classes
    validate(data)
    assert num_classes(data) == 3


def test_a_class_need_not_be_in_train(data: Data) -> None:
    assert data.y[data.train_mask].unique().numel() < 3
    data.num_classes = 5
    validate(data)
    assert num_classes(data) == 5


@pytest.mark.parametrize("convert", [torch.clone, torch.Tensor.to_sparse_coo, torch.Tensor.to_sparse_csr])
def test_features_that_are_not_finite(data: Data, convert: Callable[[torch.Tensor], torch.Tensor]) -> None:
    finite = data.x.clone()
    data.x = convert(finite)
    validate(data)
    finite[7, 0] = float("inf")
    finite[3, 2] = finite[3, 1] = float("nan")
    data.x = convert(finite)
    refused(data, "x must be finite, but NaN or infinity came in 2 rows, the first at node 3;")


def test_entries_of_one_position_are_added(data: Data) -> None:
    """Two finite entries of an uncoalesced tensor may add up to infinity."""
    large = torch.finfo(torch.float32).max
    data.x = torch.sparse_coo_tensor(torch.tensor([[5, 5], [1, 1]]), torch.tensor([large, large]), (NODES, 4))
    refused(data, "x must be finite, but NaN or infinity came in 1 row, the first at node 5;")


def test_hybrid_and_empty_sparse_features(data: Data) -> None:
    data.x = torch.zeros(NODES, 4).to_sparse_coo()
    validate(data)
    dense = torch.ones(NODES, 4)
    dense[6, 3] = float("nan")
    data.x = dense.to_sparse(1)
    refused(data, "1 row, the first at node 6;")


def changed(key: str, *positions: int, to: Any) -> Callable[[Data], None]:
    def change(data: Data) -> None:
        data[key][list(positions)] = to

    return change


def replaced(key: str, by: Callable[[Data], Any]) -> Callable[[Data], None]:
    def replace(data: Data) -> None:
        data[key] = by(data)

    return replace


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (replaced("x", lambda _: None), "data.x must hold the features [N, F], but it is missing;"),
        (replaced("x", lambda d: d.x.tolist()), "x must be a dense, COO or CSR tensor, but list came;"),
        (
            replaced("x", lambda d: d.x.to_sparse_csc()),
            "x must be a dense, COO or CSR tensor, but torch.sparse_csc came;",
        ),
        (replaced("x", lambda d: d.x[0]), "x must be numbers [N, F], but float32 [4] came;"),
        (replaced("x", lambda d: d.x + 1j), "x must be numbers [N, F], but complex64 [12, 4] came;"),
        (replaced("x", lambda d: d.x[:, :0]), "x must have nodes and features, but float32 [12, 0] came;"),
        (replaced("x", lambda d: d.x[:0]), "x must have nodes and features, but float32 [0, 4] came;"),
        (replaced("y", lambda _: None), "data.y must hold the labels [N], but it is missing;"),
        (replaced("y", lambda d: d.y + 0.5), "y must name classes, but measurements came, the first 0.5 in row 0 "),
        (replaced("y", lambda d: d.y > 9), "labels must be of at least 2 classes, but 1 came"),
        (replaced("y", lambda d: d.y[:-1]), "y must be integer [12], one label per row of x, but int64 [11] came;"),
        (
            replaced("y", lambda d: d.y[:, None, None]),
            "y must be integer [12], one label per node, but int64 [12, 1, 1] came;",
        ),
        (replaced("y", lambda d: d.y[:9].tolist()), "y must be integer [12], one label per row of x, but list came;"),
        (
            changed("y", 4, 9, to=3),
            "y must lie in 0 … 2, or be -1 where unlabelled, but other values came in 2 rows, the first at node 4 with",
        ),
        (changed("y", 11, to=-2), "or -1 where unlabelled, but -2 came in 1 row, the first at node 11;"),
        (
            changed("y", 2, 3, to=-1),
            "val_mask must select labelled nodes, but y = -1 came in 2 rows, the first at node 2;",
        ),
        (
            changed("y", 0, to=-1),
            "train_mask must select labelled nodes, but y = -1 came in 1 row, the first at node 0;",
        ),
        (changed("test_mask", 4, 5, to=True), "masks must be disjoint, but es_mask and test_mask share 2 nodes;"),
        (changed("val_mask", 0, to=True), "masks must be disjoint, but train_mask and val_mask share 1 node;"),
        *(
            (changed(name, *range(NODES), to=False), f"{name} must select at least one node, but it is empty;")
            for name in MASKS
        ),
        *((replaced(name, lambda _: None), f"data.{name} must select nodes, but it is missing; set") for name in MASKS),
        (replaced("es_mask", lambda _: None), "or have them made by data.update(lds.data.complete_masks(data))"),
        (
            replaced("es_mask", lambda d: 2 * d.es_mask.int()),
            "es_mask must be bool [12], or 0 and 1, but int32 [12] with other numbers came;",
        ),
        (
            replaced("es_mask", lambda d: d.es_mask[1:]),
            "es_mask must be bool [12], one entry per row of x, but bool [11]",
        ),
        (
            replaced("es_mask", lambda d: d.es_mask[:, None, None]),
            "es_mask must be bool [12], one entry per row of x, but bool [12, 1, 1]",
        ),
        (
            replaced("edge_index", lambda d: d.edge_index.float()),
            "edge_index must be int64 [2, E], but float32 [2, 12] came;",
        ),
        (replaced("edge_index", lambda d: d.edge_index.T), "edge_index must be int64 [2, E], but int64 [12, 2] came;"),
        (replaced("edge_index", lambda d: d.edge_index[0]), "edge_index must be int64 [2, E], but int64 [12] came;"),
        (replaced("edge_index", lambda d: d.edge_index.tolist()), "edge_index must be int64 [2, E], but list came;"),
        (
            replaced("edge_index", lambda d: d.edge_index + 1),
            "edge_index must lie in 0 … 11, but 2 of 12 edges do not, the first is (1, 12);",
        ),
        (replaced("edge_index", lambda d: d.edge_index - 1), "edge_index must lie in 0 … 11, but 2 of 12 edges do not"),
        (replaced("num_classes", lambda _: 0), "num_classes must be a positive integer, but 0 came;"),
        (replaced("num_classes", lambda _: 2.5), "num_classes must be a positive integer, but 2.5 came;"),
    ],
)
def test_every_fault_is_named(data: Data, fault: Callable[[Data], None], message: str) -> None:
    fault(data)
    refused(data, message)


def refused(data: Data, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as error:
        validate(data)
    assert "\n" not in str(error.value)
