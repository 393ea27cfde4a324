"""Readers of data sets: raw Planetoid files, and a user's own."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch_geometric.data import Data

from lds.data import load
from tests.data.own.problems import DATA
from tests.fuzz.base import Contents, Trap, huge_npz, npz_bytes, saved_bytes, tensor_bomb
from tests.fuzz.mutations import archive_of

# Raw files of Planetoid, as Python 2 wrote them.

PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
_OLD_NAMES = {
    b"cnumpy._core.multiarray\n": b"cnumpy.core.multiarray\n",
    b"cnumpy._core.numeric\n": b"cnumpy.core.multiarray\n",
    b"cscipy.sparse._csr\n": b"cscipy.sparse.csr\n",
    b"cbuiltins\nlist\n": b"c__builtin__\nlist\n",
}


def _old_pickle(value: Any) -> bytes:
    content = pickle.dumps(value, protocol=3)
    for new, old in _OLD_NAMES.items():
        content = content.replace(new, old)
    return b"\x80\x02" + content[2:]


def make_planetoid(folder: Path) -> None:
    random = np.random.default_rng(0)
    train, known, test = 6, 520, 12
    x = scipy.sparse.csr_matrix((random.random((known + test, 4)) < 0.5).astype(np.float32))
    y = np.eye(3, dtype=np.int32)[random.integers(0, 3, known + test)]
    graph = defaultdict(list, {i: random.integers(0, known + test, 2).tolist() for i in range(known + test)})
    values = (x[:train], x[known:], x[:known], y[:train], y[known:], y[:known], graph)
    for part, value in zip(PARTS, values, strict=False):
        (folder / f"ind.pubmed.{part}").write_bytes(_old_pickle(value))
    order = random.permutation(np.arange(known, known + test))
    (folder / "ind.pubmed.test.index").write_text("".join(f"{i}\n" for i in order))
    _write_sums(folder)


def _write_sums(folder: Path) -> None:
    names = [f"ind.pubmed.{part}" for part in PARTS]
    sums = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]
    text = "".join(f"{digest}  PubMed/raw/{name}\n" for digest, name in zip(sums, names, strict=True))
    (folder / "SHA256SUMS").write_text(text)


def read_planetoid(folder: Path, *, trusted: bool) -> Data:
    if trusted:  # A file that was damaged, or forged, before its sum was noted.
        _write_sums(folder)
    raw = folder / "planetoid" / "PubMed" / "raw"
    raw.mkdir(parents=True)
    (folder / "SHA256SUMS").rename(folder / "planetoid" / "SHA256SUMS")
    for part in PARTS:
        (folder / f"ind.pubmed.{part}").rename(raw / f"ind.pubmed.{part}")
    return load("pubmed", root=folder)


def hostile_planetoid(folder: Path) -> Contents:
    array = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01bt\x52."
    huge = array.replace(b"(K\x00t", b"(\x8a\x06\x00\x00\x00\x00\x00\x01t")
    objects = array.replace(b"U\x01b", b"U\x01O").replace(b"(K\x00t", b"(K\x08t")
    nested = b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b"."
    claims = b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"x."
    contents = (
        pickle.dumps(Trap(), 2),
        _old_pickle([Trap()]),
        array,
        huge,
        objects,
        nested,
        claims,
        b"\x80\x02N.",
        b"",
    )
    texts = (b"1e999\n" * 12, b"999999999999\n" * 12, b"-1\n" * 12, b"0\n" * 12, b"", b"1\n", b"nan\n" * 12, b"x")
    return [("ind.pubmed.x", c) for c in contents] + [("ind.pubmed.graph", c) for c in contents] + [
        ("ind.pubmed.test.index", text) for text in texts
    ]  # fmt: skip


# A user's own data.


def good_parts() -> dict[str, Any]:
    return {"x": DATA.x, "y": DATA.y, "edge_index": DATA.edge_index, "train_mask": DATA.train_mask,
            "val_mask": DATA.val_mask, "es_mask": DATA.es_mask, "test_mask": DATA.test_mask}  # fmt: skip


def hostile_pt(folder: Path) -> Contents:
    x, y = DATA.x, DATA.y
    sparse = torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 2]]), torch.ones(2), (48, 8))
    bad = torch.sparse_coo_tensor(torch.tensor([[0, 99], [1, 2]]), torch.ones(2), (48, 8), check_invariants=False)
    values: list[Any] = [
        Trap(), {"x": Trap()}, {"x": x, "y": y, "edge_index": Trap()}, [x], x, 7, {}, Data(), {"x": x},
        {"x": x, "y": None},
        {"x": torch.zeros(1).expand(10**6, 10**6), "y": y}, {"x": torch.zeros(1).expand(10**12, 8), "y": y},
        {"x": x, "y": torch.zeros(1, dtype=torch.long).expand(10**12)}, {"x": x, "y": y.to_sparse()},
        {"x": x, "y": y, "edge_index": torch.zeros(1, dtype=torch.long).expand(2, 10**12)},
        {"x": x, "y": y, "edge_index": DATA.edge_index.to_sparse()},
        {"x": x, "y": y, "train_mask": DATA.train_mask.to_sparse()},
        {"x": x.to("meta"), "y": y}, {"x": x, "y": y.to("meta")}, {"x": sparse, "y": y}, {"x": bad, "y": y},
        {"x": x.to_sparse_csc(), "y": y}, {"x": x.to_sparse_bsr((2, 2)), "y": y}, {"x": x.half(), "y": y},
        {"x": x.bfloat16(), "y": y}, {"x": x.to(torch.complex64), "y": y}, {"x": x.to(torch.float8_e4m3fn), "y": y},
        {"x": torch.quantize_per_tensor(x, 0.1, 0, torch.quint8), "y": y},
        {"x": x, "y": y, "num_classes": 10**30}, {"x": x, "y": y, "num_classes": "3"},
        {"x": x, "y": y, "num_classes": 3.0},
        {"x": x, "y": y, "num_classes": torch.tensor(3)}, {"x": x, "y": y * 10**15}, {"x": x, "y": y - 2**62},
        {"x": x, "y": y.bool()}, {"x": x, "y": y[:, None]}, {"x": x, "y": y[:0]}, {"x": x[:0], "y": y[:0]},
        {"x": x, "y": y, "num_nodes": 3}, {1: 2}, {"x": torch.nn.Parameter(x), "y": y},
        {"x": x, "y": y.to(torch.uint16)},
        Data(x=x, y=y, edge_attr=x), {"x": torch.nested.nested_tensor([x[0], x[1, :3]]), "y": y},
        Data(x=x, y=y, train_mask=y),
        {"x": sparse.to_sparse_csr(), "y": y}, {"x": torch.sparse_coo_tensor(size=(10**12, 8)), "y": y},
        {"x": torch.sparse_coo_tensor(size=(48, 10**14)), "y": y},
        {"x": x, "y": y, "edge_index": DATA.edge_index.int()},
    ]  # fmt: skip
    raw = [
        pickle.dumps(Trap()),
        pickle.dumps({"x": Trap()}, 2),
        b"",
        b"\x80\x02.",
        tensor_bomb(),
    ]
    raw.append(_with_member(saved_bytes(good_parts()), "data/0", lambda part: part[:4]))
    raw.append(_with_member(saved_bytes(good_parts()), "data.pkl", lambda part: b"\x80\x02" + b"(" * 200_000))
    legacy = io.BytesIO()
    torch.save(good_parts(), legacy, _use_new_zipfile_serialization=False)
    raw.append(legacy.getvalue())
    return [("data.pt", content) for content in [*map(saved_bytes, values), *raw]]


def _with_member(content: bytes, end: str, change: Callable[[bytes], bytes]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(i.filename, archive.read(i)) for i in archive.infolist()]
    return archive_of([(name, change(part) if name.endswith(end) else part) for name, part in members])


def _csr_parts() -> dict[str, Any]:
    matrix = scipy.sparse.csr_matrix(DATA.x.numpy())
    return {"x_data": matrix.data, "x_indices": matrix.indices, "x_indptr": matrix.indptr, "x_shape": matrix.shape}


def good_arrays() -> dict[str, Any]:
    return {name: value.numpy() for name, value in good_parts().items()}


def hostile_npz(folder: Path) -> Contents:
    x, y = DATA.x.numpy(), DATA.y.numpy()
    csr = _csr_parts()
    made = [npz_bytes(**arrays) for arrays in (
        {"x": x, "y": y}, {"x": x.astype(np.longdouble), "y": y}, {"x": x.astype(">f4"), "y": y.astype(">i2")},
        {"x": x, "y": y.astype(str)}, {"x": x, "y": np.array(["é", "-1", "9" * 5000, "²"] * 12)},
        {"x": x, "y": y.astype("S")},
        {"x": x.astype(complex), "y": y}, {"x": x, "y": y.astype(np.uint64) + 2**63},
        {"x": x, "y": y, "num_classes": [3]},
        {"x": x, "y": y, "num_classes": "3"}, {"x": x, "y": y, "num_classes": np.float64("nan")},
        {"x": x, "y": y.astype("M8[D]")},
        {"x": x, "y": np.frombuffer(b"\xff\xff\xff\xff" * 48, "<U1")}, {"x": x[0], "y": y}, {"x": x * 1e300, "y": y},
        csr | {"y": y}, csr | {"y": y, "x_data": csr["x_data"].astype(complex)}, csr | {"y": y, "x_shape": (10**12, 8)},
        csr | {"y": y, "x_shape": (48, 10**15)}, csr | {"y": y, "x_shape": (48.0, 8.0)}, csr | {"y": y, "x_shape": 48},
        csr | {"y": y, "x_shape": (48, 8, 1)}, csr | {"y": y, "x_shape": ("a", "b")},
        csr | {"y": y, "x_indices": csr["x_indices"] - 9},
        csr | {"y": y, "x_indptr": csr["x_indptr"][::-1]}, csr | {"y": y, "x_data": csr["x_data"].astype(str)},
        csr | {"y": y, "x_data": csr["x_data"].astype("M8[D]")}, csr | {"y": y, "x_indices": csr["x_indices"] * 1.5},
        csr | {"y": y, "x_indptr": np.zeros(49, dtype=np.uint64)}, csr | {"y": y, "x_data": csr["x_data"][:3]},
        csr | {"y": y, "x_data": csr["x_data"].astype(np.float64) * 1e300},
        csr | {"y": y, "x_shape": (2**63 - 1, 2**63 - 1)},
        csr | {"y": y, "x_shape": (-48, 8)}, {"x": x, "y": y, "edge_index": np.zeros((2, 3), dtype=np.uint64) + 2**63},
        {"x": x, "y": y, "edge_index": y}, {"x": x, "y": y, "train_mask": y},
        {"x": x, "y": y, "val_mask": y.astype(str)},
    )]  # fmt: skip
    return [("data.npz", content) for content in made] + [("data.npz", c) for _, c in huge_npz(good_arrays(), "x")]


def make_graph(folder: Path) -> None:
    """A graph of networkx and its edges as other files."""
    import networkx
    import scipy.io

    graph = networkx.Graph()
    for node in range(48):
        graph.add_node(f"n{node}", kind="abc"[int(DATA.y[node])], f=float(DATA.x[node, 0]), g=float(DATA.x[node, 1]))
    graph.add_edges_from((f"n{a}", f"n{b}") for a, b in DATA.edge_index.T.tolist())
    networkx.write_gml(graph, folder / "data.gml")
    networkx.write_graphml_xml(graph, folder / "data.graphml")
    adjacency = scipy.sparse.csr_array((np.ones(DATA.edge_index.shape[1]), DATA.edge_index.numpy()), shape=(48, 48))
    scipy.io.mmwrite(folder / "edges.mtx", adjacency)
    scipy.io.savemat(
        folder / "data.mat",
        {"node_feat": DATA.x.numpy(), "label": DATA.y.numpy(), "edge_index": DATA.edge_index.numpy()},
    )
    make_csv(folder)


def hostile_graph(folder: Path) -> Contents:
    bomb = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9)
    )
    xml = [
        b"", b"<graphml/>", b"<graphml><graph/></graphml>", (bomb + "]><graphml>&j;</graphml>").encode(), b"<a" *
        10_000, (folder / "data.graphml").read_bytes().replace(b"double", b"boolean"), pickle.dumps(Trap()),
    ]  # fmt: skip
    gml = [
        b"", b"graph [ ]", b"graph [ node [ id 0 ] ]", b"graph [ " * 5000, b"graph [ node [ id " + b"9" * 5000 +
        b" ] ]", b"\xff\xfe", b'graph [ node [ id 0 label "a" ] node [ id 1 label "a" ] ]', pickle.dumps(Trap()),
    ]  # fmt: skip
    head = b"%%MatrixMarket matrix coordinate real general\n"
    matrices = [
        b"",
        head,
        head + b"48 48 1\n1 99 1\n",
        head + b"999999999 999999999 1\n1 1 1\n",
        b"48 48",
        head + b"-1 2 3\n",
    ]
    return [("data.graphml", c) for c in xml] + [("data.gml", c) for c in gml] + [("edges.mtx", c) for c in matrices]


def make_csv(folder: Path) -> None:
    names = [f"n{i}" for i in range(48)]
    rows = [",".join([n, str(int(y)), *(f"{v:.3g}" for v in x)]) for n, y, x in zip(names, DATA.y, DATA.x, strict=True)]
    (folder / "data.csv").write_text("\n".join(["id,label," + ",".join("abcdefgh"), *rows]) + "\n")
    row, col = DATA.edge_index
    edges = [f"n{i},n{j}" for i, j in zip(row.tolist(), col.tolist(), strict=True)]
    (folder / "edges.csv").write_text("\n".join(["source,target", *edges]) + "\n")


def hostile_csv(folder: Path) -> Contents:
    wide = ",".join(["label", *(f"c{i}" for i in range(40_000))])
    good = (folder / "data.csv").read_text()
    contents = [
        b"", b"\n\n\n", b"\xff\xfe", b"label", b"id,label,a\n", wide.encode() + b"\n1\n",
        b"label,a\n" + b"1" * 5000 + b",1\n",
        b"label,a\n" + b"-" * 5000 + b",1\n", b'label,a\n"' + b"x" * 200_000, b"label,a\n\x00,1\n",
        b"label,a\r1,2\r3,4\r",
        "label,a\n٣,1\n".encode(), "label,a\n²,1\n1,2\n".encode(), b"label,a\n1,1e999\n", b"label,a\n1,nan\n",
        b"label,a\n1,1_0\n",
        good.replace("n1,", "n" * 100_000 + ",").encode(), good.replace(",", ";").encode(), good.encode("utf-16"),
        ("label,a\n" + "1,2\n" * 30 + "-9223372036854775809,1\n" * 30).encode(), pickle.dumps(Trap()),
        ("label,a,train_mask\n" + "1,2,2\n" * 30).encode(), "\ufefflabel,a\n".encode() + b"1,1\n2,1\n" * 30,
    ]  # fmt: skip
    edges = [
        b"",
        b"n0,n1\n",
        b"a,b,c\nn0,n1,1\n",
        b"a,b,weight\nn0,n1,1\nn0,n2,nan\n",
        b"a,b,weight\nn0,n1,1_0\n",
        b"a,b\nn0,x\n",
        b"\xff",
        b'a,b\n"n0',
        b"a\nn0\n",
        b"a,b\n" + b"n0,n0\n" * 10,
    ]
    return [("data.csv", c) for c in contents] + [("edges.csv", c) for c in edges]
