import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_geometric.utils import degree

from lds.data import DATASETS, MASKS, canonical_edges, load, validate, verify
from lds.errors import DataError, InputError

from .damage import flip_a_bit

Raw = Callable[[Path, str], Path]
EDGES = {"cora": 5278, "citeseer": 4552}

needs_sha256sum = pytest.mark.skipif(shutil.which("sha256sum") is None, reason="the program sha256sum is not installed")


@pytest.mark.parametrize(
    ("name", "nodes", "features", "sizes"),
    [("cora", 2708, 1433, [140, 250, 250, 1000]), ("citeseer", 3327, 3703, [120, 250, 250, 1000])],
)
def test_the_published_data(data_root: Path, name: str, nodes: int, features: int, sizes: list[int]) -> None:
    data = load(name, root=data_root)
    assert data.x.shape == (nodes, features)
    assert data.x.dtype == torch.float32
    assert data.y.shape == (nodes,)
    assert data.y.dtype == torch.int64
    assert data.edge_index.shape == (2, 2 * EDGES[name])
    assert torch.equal(data.edge_index, canonical_edges(data.edge_index, nodes))
    assert [int(data[mask].sum()) for mask in MASKS] == sizes
    assert sum(data[mask].int() for mask in MASKS).max() == 1
    assert data.y[data.train_mask].bincount().tolist() == [20] * data.num_classes
    validate(data)
    source = DATASETS[name]
    assert (source.nodes, source.features, source.classes, source.edges) == (
        nodes,
        features,
        int(data.y.max()) + 1,
        EDGES[name],
    )


def test_the_public_split_is_the_one_of_planetoid(data_root: Path) -> None:
    data = load("cora", root=data_root)
    assert data.train_mask[:140].all()
    assert (data.val_mask | data.es_mask)[140:640].all()
    assert data.test_mask[1708:].all()


def test_rows_sum_to_one_and_empty_rows_stay_empty(data_root: Path) -> None:
    data = load("citeseer", root=data_root)
    sums = data.x.sum(dim=1)
    empty = sums == 0
    assert int(empty.sum()) == 15
    assert (data.x >= 0).all()
    torch.testing.assert_close(sums[~empty], torch.ones(int((~empty).sum())))
    assert int((degree(data.edge_index[0], data.num_nodes) == 0).sum()) == 48


@pytest.mark.parametrize(("retain", "kept"), [(0.0, 0), (0.25, 1320), (0.5, 2639), (0.75, 3958)])
def test_retain(data_root: Path, retain: float, kept: int) -> None:
    whole, part = load("cora", root=data_root), load("cora", root=data_root, retain=retain)
    assert part.edge_index.shape == (2, 2 * kept)
    assert torch.equal(part.edge_index, canonical_edges(part.edge_index, part.num_nodes))
    assert set(map(tuple, part.edge_index.T.tolist())) < set(map(tuple, whole.edge_index.T.tolist()))
    assert torch.equal(part.val_mask, whole.val_mask)


def test_retain_outside_of_0_to_1(data_root: Path) -> None:
    with pytest.raises(InputError, match=r"in \[0, 1\], but 1.5 came"):
        load("cora", root=data_root, retain=1.5)


def test_the_seed_draws_halves_and_edges(data_root: Path) -> None:
    first, again, other = (load("cora", root=data_root, retain=0.5, seed=seed) for seed in (1, 1, 2))
    for key in ("val_mask", "es_mask", "edge_index"):
        assert torch.equal(first[key], again[key])
        assert not torch.equal(first[key], other[key])
    assert torch.equal(first.val_mask | first.es_mask, other.val_mask | other.es_mask)
    assert torch.equal(first.train_mask, other.train_mask)
    assert torch.equal(first.test_mask, other.test_mask)


def snapshot(root: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in root.rglob("*")}


def test_nothing_is_written_below_the_root(cora_copy: Path) -> None:
    before = snapshot(cora_copy)
    load("cora", root=cora_copy, retain=0.5)
    verify("cora", cora_copy)
    assert snapshot(cora_copy) == before


@pytest.fixture
def read_only(cora_copy: Path) -> Iterator[Path]:
    folders = [cora_copy, *(path for path in cora_copy.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield cora_copy
    for folder in folders:
        folder.chmod(0o755)


def test_a_read_only_root(read_only: Path) -> None:
    try:
        (read_only / "probe").touch()
    except PermissionError:
        assert load("cora", root=read_only).num_nodes == 2708
    else:
        (read_only / "probe").unlink()
        pytest.skip("this user may write into a read-only folder; test_nothing_is_written_below_the_root stands in")


def test_the_warning_filters_stay_as_they_are(data_root: Path) -> None:
    before = list(warnings.filters)
    load("cora", root=data_root)
    assert warnings.filters == before


@pytest.mark.parametrize("part", ["x", "graph", "test.index"])
@pytest.mark.usefixtures("no_unpickling")
def test_a_missing_file_is_named(cora_copy: Path, raw: Raw, part: str) -> None:
    (raw(cora_copy, "cora") / f"ind.cora.{part}").unlink()
    with pytest.raises(DataError) as error:
        load("cora", root=cora_copy)
    message = str(error.value)
    for needed in (
        f"ind.cora.{part},",
        str(raw(cora_copy, "cora")),
        "lds data fetch cora",
        "--data-root",
        "LDS_DATA_ROOT",
    ):
        assert needed in message
    assert "\n" not in message


@pytest.mark.usefixtures("no_unpickling")
def test_a_root_without_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cora needs the file ind\.cora\.x, which is not in .*; run"):
        load("cora", root=tmp_path / "nowhere")


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip_a_bit, truncate])
@pytest.mark.parametrize("part", ["x", "graph", "test.index"])
@pytest.mark.usefixtures("no_unpickling")
def test_a_damaged_file_is_named_with_both_sums(
    cora_copy: Path, raw: Raw, part: str, damage: Callable[[Path], None]
) -> None:
    file = raw(cora_copy, "cora") / f"ind.cora.{part}"
    (good,) = (status.found for status in verify("cora", cora_copy).files if status.path == file)
    damage(file)
    (found,) = (status.found for status in verify("cora", cora_copy).files if status.path == file)
    assert good is not None
    assert found is not None
    assert found != good
    with pytest.raises(DataError) as error:
        load("cora", root=cora_copy)
    message = str(error.value)
    assert str(file) in message
    assert f"must have the SHA-256 sum {good}, but it has {found}" in message
    assert "\n" not in message


def test_the_guard_against_unpickling_can_fail(data_root: Path, no_unpickling: None) -> None:
    with pytest.raises(pytest.fail.Exception, match="before its checksum"):
        load("cora", root=data_root)


@needs_sha256sum
@pytest.mark.parametrize("name", ["cora", "pubmed"])
def test_a_malicious_pickle_does_not_run(trap: Any, tmp_path: Path, raw: Raw, name: str) -> None:
    """Not even where a SHA256SUMS file beside the data vouches for it."""
    folder = raw(tmp_path, name)
    folder.mkdir(parents=True)
    for part in ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index"):
        (folder / f"ind.{name}.{part}").write_bytes(trap.content)
    with pytest.raises(DataError, match="SHA-256"):
        load(name, root=tmp_path)
    vouch(tmp_path, name, raw)
    with pytest.raises(DataError, match="SHA-256" if name == "cora" else "plain arrays and lists, but it names"):
        load(name, root=tmp_path)
    assert not trap.sprung.exists()


def vouch(root: Path, name: str, raw: Raw) -> None:
    """Record the sums as the error message tells a user to."""
    folder = raw(root, name).relative_to(root / "planetoid")
    subprocess.run(
        f"sha256sum {folder}/ind.* >> SHA256SUMS", shell=True, check=True, cwd=root / "planetoid", timeout=60
    )


@pytest.mark.usefixtures("no_unpickling")
def test_files_without_a_known_sum_are_not_read(cora_as_pubmed: Path) -> None:
    assert {file.state for file in verify("pubmed", cora_as_pubmed).files} == {"no checksum known"}
    with pytest.raises(DataError, match=r"none is recorded; run `lds data fetch pubmed`, or, if you trust the files"):
        load("pubmed", root=cora_as_pubmed)


@needs_sha256sum
def test_files_with_recorded_sums_are_read(cora_as_pubmed: Path, raw: Raw) -> None:
    vouch(cora_as_pubmed, "pubmed", raw)
    assert verify("pubmed", cora_as_pubmed).ok
    assert load("pubmed", root=cora_as_pubmed).edge_index.shape == (2, 2 * EDGES["cora"])
    flip_a_bit(raw(cora_as_pubmed, "pubmed") / "ind.pubmed.x")
    with pytest.raises(DataError, match=r"ind\.pubmed\.x must have the SHA-256 sum"):
        load("pubmed", root=cora_as_pubmed)


@needs_sha256sum
@pytest.mark.usefixtures("no_unpickling")
def test_a_recorded_sum_does_not_replace_a_pinned_one(cora_copy: Path, raw: Raw) -> None:
    flip_a_bit(raw(cora_copy, "cora") / "ind.cora.x")
    vouch(cora_copy, "cora", raw)
    with pytest.raises(DataError, match=r"ind\.cora\.x must have the SHA-256 sum"):
        load("cora", root=cora_copy)


def test_a_bare_process_loads_without_warnings(data_root: Path) -> None:
    code = (
        "import sys, warnings\n"
        "import torch_geometric\n"  # warns by itself
        "warnings.simplefilter('error')\n"
        "import lds.data\n"
        "lds.data.load('citeseer', root=sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(data_root)], check=True, timeout=120)
