import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from torch_geometric.datasets import Planetoid

from lds.data import fetch, load, verify
from lds.errors import DataError

from .damage import flip_a_bit

Raw = Callable[[Path, str], Path]


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A local folder in the place of the official source."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setattr(Planetoid, "url", str(folder))
    return folder


def fill(mirror: Path, data_root: Path, name: str = "cora") -> None:
    for file in (data_root / "planetoid" / "Cora" / "raw").iterdir():
        shutil.copy(file, mirror / file.name.replace("cora", name))


def test_fetch_brings_all_files(mirror: Path, data_root: Path, tmp_path: Path, raw: Raw) -> None:
    fill(mirror, data_root)
    result = fetch("cora", tmp_path / "root")
    assert result.ok
    assert len(result.files) == 8
    assert load("cora", root=tmp_path / "root").num_nodes == 2708
    assert sorted(path.name for path in raw(tmp_path / "root", "cora").parent.iterdir()) == ["raw"]


def test_fetch_replaces_the_bad_files_only(mirror: Path, data_root: Path, cora_copy: Path, raw: Raw) -> None:
    shutil.copy(data_root / "planetoid" / "Cora" / "raw" / "ind.cora.x", mirror)
    flip_a_bit(raw(cora_copy, "cora") / "ind.cora.x")
    assert not verify("cora", cora_copy).ok
    assert fetch("cora", cora_copy).ok  # the mirror has no other file


@pytest.mark.usefixtures("no_unpickling")
def test_fetch_keeps_nothing_of_a_wrong_download(mirror: Path, data_root: Path, tmp_path: Path, raw: Raw) -> None:
    fill(mirror, data_root)
    flip_a_bit(mirror / "ind.cora.graph")
    with pytest.raises(DataError, match=r"ind\.cora\.graph must have the SHA-256 sum .*; nothing was kept"):
        fetch("cora", tmp_path / "root")
    assert list(raw(tmp_path / "root", "cora").iterdir()) == []


def test_fetch_records_sums_where_none_is_pinned(mirror: Path, data_root: Path, tmp_path: Path) -> None:
    fill(mirror, data_root, "pubmed")
    root = tmp_path / "root"
    assert fetch("pubmed", root).ok
    lines = (root / "planetoid" / "SHA256SUMS").read_text().splitlines()
    assert len(lines) == 8
    assert all("  PubMed/raw/ind.pubmed." in line for line in lines)
    shutil.rmtree(mirror)
    assert fetch("pubmed", root).ok  # nothing left to download


def test_fetch_does_not_record_what_is_no_data(mirror: Path, data_root: Path, tmp_path: Path) -> None:
    fill(mirror, data_root, "pubmed")
    (mirror / "ind.pubmed.ally").write_text("<html>log in first</html>")
    with pytest.raises(DataError, match=r"ind\.pubmed\.ally must be a pickle of plain arrays"):
        fetch("pubmed", tmp_path / "root")
    assert not verify("pubmed", tmp_path / "root").ok
    assert not (tmp_path / "root" / "planetoid" / "SHA256SUMS").exists()


# Sources that answer nothing: a closed port of this machine, and a folder that is not there.
@pytest.mark.parametrize("url", ["http://127.0.0.1:9/data", "nowhere/data"])
def test_fetch_without_a_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str) -> None:
    monkeypatch.setattr(Planetoid, "url", url)
    with pytest.raises(
        DataError, match=r"cora could not be fetched into .*; go online, or copy the raw files"
    ) as error:
        fetch("cora", tmp_path)
    assert "\n" not in str(error.value)
    assert not verify("cora", tmp_path).ok


def test_fetch_into_a_place_that_cannot_be_written(mirror: Path, data_root: Path, tmp_path: Path) -> None:
    fill(mirror, data_root)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"could not be fetched into .*: .*Not a directory"):
        fetch("cora", tmp_path / "file")
