"""The registry of data sets by name, and what one can do with a name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lds.data.checksums import FileStatus, Verification
from lds.data.citation import Citation
from lds.data.splits import check_seed
from lds.data.tabular import Tabular
from lds.errors import DataError

if TYPE_CHECKING:
    from torch_geometric.data import Data


class Source(Protocol):
    """What a registered data set must offer."""

    @property
    def nodes(self) -> int:
        """Number of nodes."""

    @property
    def edges(self) -> int:
        """Number of undirected edges."""

    @property
    def features(self) -> int:
        """Number of features."""

    @property
    def classes(self) -> int:
        """Number of classes."""

    @property
    def origin(self) -> str:
        """Where the data come from, for people."""

    @property
    def built_in(self) -> bool:
        """Whether a dependency brings the files."""

    def load(self, root: Path, retain: float, seed: int) -> Data:
        """Return the data with its four masks."""

    def verify(self, root: Path) -> list[FileStatus]:
        """Compare every raw file with its sum."""

    def fetch(self, root: Path) -> list[FileStatus]:
        """Download what is missing, and verify."""

    def is_present(self, root: Path) -> bool:
        """Return whether the raw files are there."""


@dataclass(frozen=True)
class Listing:
    """One line of `lds data list`; `edges` counts undirected ones."""

    name: str
    nodes: int
    edges: int
    features: int
    classes: int
    origin: str
    present: bool


DATASETS: dict[str, Source] = {
    "cora": Citation("Cora", nodes=2708, edges=5278, features=1433, classes=7),
    "citeseer": Citation("CiteSeer", nodes=3327, edges=4552, features=3703, classes=6),
    "pubmed": Citation("PubMed", nodes=19717, edges=44324, features=500, classes=3),
    "wine": Tabular("wine", nodes=178, features=13, classes=3, split_size=10),
    "breast_cancer": Tabular("breast_cancer", nodes=569, features=30, classes=2, split_size=10),
    "digits": Tabular("digits", nodes=1797, features=64, classes=10, split_size=50),
    "iris": Tabular("iris", nodes=150, features=4, classes=3, split_size=10),
}


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of the data sets: `root`, else ``$LDS_DATA_ROOT``, else ``data``."""
    return Path(root if root is not None else os.environ.get("LDS_DATA_ROOT") or "data")


def load(name: str, *, root: str | os.PathLike[str] | None = None, retain: float = 1.0, seed: int = 0) -> Data:
    """Load a registered data set as a PyTorch Geometric ``Data`` with a train, val, es and test mask.

    N nodes, F features, E undirected edges. The result holds ``x`` float32 [N, F], ``y`` int64 [N],
    ``edge_index`` int64 [2, 2·round(retain·E)] (both directions, sorted, no self loops), ``train_mask``, ``val_mask``,
    ``es_mask`` and ``test_mask`` bool [N], and ``num_classes``. The seed draws the splits and the edges kept; the
    global random state stays as it is.

    Raises:
        DataError: the name is unknown, or a raw file is missing, altered or of unknown origin.
        InputError: `retain` lies outside of [0, 1], or is not 1 where there are no edges; `seed` is no integer in
            [0, 2³²), the range of scikit-learn.
    """
    source = _source(name)
    return source.load(data_root(root), retain, check_seed(seed))


def fetch(name: str, root: str | os.PathLike[str] | None = None) -> Verification:
    """Download the raw files of a data set that are missing or damaged, and verify all of them.

    Raises:
        DataError: the name is unknown, the source cannot be reached, or a file came with a wrong sum.
    """
    source = _source(name)
    return Verification(name, source.built_in, tuple(source.fetch(data_root(root))))


def verify(name: str, root: str | os.PathLike[str] | None = None) -> Verification:
    """Compare the raw files of a data set with their SHA-256 sums; nothing is unpickled.

    Raises:
        DataError: the name is unknown, or a file cannot be read.
    """
    source = _source(name)
    return Verification(name, source.built_in, tuple(source.verify(data_root(root))))


def listing(root: str | os.PathLike[str] | None = None) -> list[Listing]:
    """List the registered data sets, and whether their files are there; no file is opened."""
    folder = data_root(root)
    return [
        Listing(name, s.nodes, s.edges, s.features, s.classes, s.origin, s.is_present(folder))
        for name, s in DATASETS.items()
    ]


def _source(name: str) -> Source:
    try:
        return DATASETS[name]
    except KeyError:
        raise DataError(f"name must be one of {', '.join(DATASETS)}, but {name!r} came") from None
