import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
TITLES = {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}


@pytest.fixture
def cora_copy(data_root: Path, tmp_path: Path) -> Path:
    """A root of its own with the real Cora, free to be damaged."""
    shutil.copytree(data_root / "planetoid" / "Cora" / "raw", raw_folder(tmp_path, "cora"))
    return tmp_path


@pytest.fixture
def cora_as_pubmed(data_root: Path, tmp_path: Path) -> Path:
    """A root where the files of Cora bear PubMed's names: right in form, and without pinned sums."""
    raw = raw_folder(tmp_path, "pubmed")
    raw.mkdir(parents=True)
    for part in PARTS:
        shutil.copy(data_root / "planetoid" / "Cora" / "raw" / f"ind.cora.{part}", raw / f"ind.pubmed.{part}")
    return tmp_path


class Trap:
    """A pickle whose reading creates the file `sprung`."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung
        self.content = pickle.dumps(self, protocol=2)

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.sprung,)


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path / "sprung")


@pytest.fixture
def no_unpickling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test as soon as anything is unpickled."""

    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("a file was unpickled before its checksum had matched")

    monkeypatch.setattr("pickle.load", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    monkeypatch.setattr("torch_geometric.io.read_planetoid_data", refuse)
    monkeypatch.setattr("lds.data.citation.require_plain", refuse)


@pytest.fixture
def raw() -> Callable[[Path, str], Path]:
    return raw_folder


def raw_folder(root: Path, name: str) -> Path:
    return root / "planetoid" / TITLES[name] / "raw"
