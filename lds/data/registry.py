"""The registry of data sets by name, and what one can do with a name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lds._checks import meant
from lds.data.checksums import FileStatus, Verification
from lds.data.citation import Citation
from lds.data.features import Features, Scale, check_features, made_features, scaled
from lds.data.named import NAMED
from lds.data.newsgroups import Newsgroups
from lds.data.splits import check_seed
from lds.data.tabular import Tabular
from lds.errors import DataError

if TYPE_CHECKING:
    from torch_geometric.data import Data


class Source(Protocol):
    """What a registered data set must offer.

    Example:
        >>> from lds.data import DATASETS
        >>> "cora" in DATASETS
        True
    """

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
    def splits(self) -> int:
        """Number of splits that the data bring; 0 where the seed makes one."""

    @property
    def homophily(self) -> float | None:
        """Share of the edges within classes; None where it is not known, or there is no edge."""

    @property
    def licence(self) -> str:
        """Licence of the data, as their source states it."""

    @property
    def built_in(self) -> bool:
        """Whether a dependency brings the files."""

    def load(self, root: Path, retain: float, split: int | None, seed: int) -> Data:
        """Return the data with its four masks."""

    def verify(self, root: Path) -> list[FileStatus]:
        """Compare every raw file with its sum."""

    def fetch(self, root: Path) -> list[FileStatus]:
        """Download what is missing, and verify."""

    def is_present(self, root: Path) -> bool:
        """Return whether the raw files are there."""


@dataclass(frozen=True)
class Listing:
    """One line of `lds data list`; `edges` counts undirected ones, `homophily` is the share of them within classes.

    Example:
        >>> from lds.data import listing
        >>> next((row.nodes, row.classes) for row in listing() if row.name == "wine")
        (178, 3)
    """

    name: str
    nodes: int
    edges: int
    features: int
    classes: int
    origin: str
    present: bool
    splits: int
    homophily: float | None
    licence: str


DATASETS: dict[str, Source] = {
    "cora": Citation("Cora", nodes=2708, edges=5278, features=1433, classes=7, homophily=0.81),
    "citeseer": Citation("CiteSeer", nodes=3327, edges=4552, features=3703, classes=6, homophily=0.74),
    "pubmed": Citation("PubMed", nodes=19717, edges=44324, features=500, classes=3, homophily=0.80),
    "wine": Tabular("wine", nodes=178, features=13, classes=3, split_size=10),
    "breast_cancer": Tabular("breast_cancer", nodes=569, features=30, classes=2, split_size=10),
    "digits": Tabular("digits", nodes=1797, features=64, classes=10, split_size=50, largest=16.0, scale="none"),
    "iris": Tabular("iris", nodes=150, features=4, classes=3, split_size=10, scale="none"),
    "20newsgroups": Newsgroups(),
    **NAMED,
}


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of the data sets: `root`, else ``$LDS_DATA_ROOT``, else ``data``.

    Example:
        >>> from lds.data import data_root
        >>> data_root("my/data").name  # without an argument: LDS_DATA_ROOT, or data/
        'data'
    """
    return Path(root if root is not None else os.environ.get("LDS_DATA_ROOT") or "data")


def load(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    retain: float = 1.0,
    split: int | None = None,
    scale: Scale | None = None,
    features: Features = "given",
    seed: int = 0,
) -> Data:
    """Load a registered data set as a PyTorch Geometric ``Data`` with a train, val, es and test mask.

    N nodes, F features, E undirected edges. The result holds ``x`` float32 [N, F], ``y`` int64 [N],
    ``edge_index`` int64 [2, 2·round(retain·E)] (both directions, sorted, no self loops), ``train_mask``, ``val_mask``,
    ``es_mask`` and ``test_mask`` bool [N], and ``num_classes``. The seed draws the splits, half of the validation nodes
    for early stopping, and the edges kept; the global random state stays as it is.

    Args:
        name: see `listing`; "-" stands for "_".
        root: folder of the data sets; see `data_root`.
        retain: share of the edges to keep, in [0, 1].
        split: which of the splits that the data bring; the first when None.
        scale: see `lds.data.prepare`; what does best on the early-stopping nodes when None: "standard" for
            wine and breast_cancer, "none" for the others.
        features: see `lds.data.prepare`; "tfidf" for bags of words.
        seed: seed of what is drawn.

    Raises:
        DataError: the name is unknown, or a raw file is missing, altered or of unknown origin.
        InputError: `retain` lies outside of [0, 1], or is not 1 where there are no edges; there is no such split;
            `seed` is no integer in [0, 2³²), the range of scikit-learn.

    Example:
        >>> from lds.data import load
        >>> load("wine", seed=0).num_nodes
        178
    """
    source = _source(name)
    check_features(features)
    data = source.load(data_root(root), retain, split, check_seed(seed))
    if scale is None:
        scale = source.scale if isinstance(source, Tabular) else "none"
    if features != "given":
        data.x = made_features(features, data.x, data.edge_index, data.num_nodes)
    if scale != "none":
        data.x = scaled(data.x, scale)
    data.x = data.x.float()
    return data


def fetch(name: str, root: str | os.PathLike[str] | None = None) -> Verification:
    """Download the raw files of a data set that are missing or damaged, and verify all of them.

    Raises:
        DataError: the name is unknown, the source cannot be reached, or a file came with a wrong sum.

    Example:
        >>> from lds.data import fetch
        >>> fetch("cora", root="data")  # doctest: +SKIP
    """
    source = _source(name)
    return Verification(name, source.built_in, tuple(source.fetch(data_root(root))), _package(source))


def verify(name: str, root: str | os.PathLike[str] | None = None) -> Verification:
    """Compare the raw files of a data set with their SHA-256 sums; nothing is unpickled.

    Raises:
        DataError: the name is unknown, or a file cannot be read.

    Example:
        >>> from lds.data import verify
        >>> found = verify("wine")
        >>> found.built_in, found.files  # wine is part of scikit-learn; of "cora" there is a FileStatus a file
        (True, ())
    """
    source = _source(name)
    return Verification(name, source.built_in, tuple(source.verify(data_root(root))), _package(source))


def listing(root: str | os.PathLike[str] | None = None) -> list[Listing]:
    """List the registered data sets, and whether their files are there; no file is opened.

    Example:
        >>> from lds.data import listing
        >>> next((row.nodes, row.classes) for row in listing() if row.name == "wine")
        (178, 3)
    """
    folder = data_root(root)
    return [
        Listing(
            name,
            s.nodes,
            s.edges,
            s.features,
            s.classes,
            s.origin,
            s.is_present(folder),
            s.splits,
            s.homophily,
            s.licence,
        )
        for name, s in DATASETS.items()
    ]


def _package(source: Source) -> str:
    """Return the package that brings the files."""
    return "scikit-learn" if isinstance(source, Tabular) else "PyTorch Geometric"


def _source(name: str) -> Source:
    try:
        return DATASETS[name.replace("-", "_").lower()]
    except (KeyError, AttributeError):
        raise DataError(
            f"name must be one of {', '.join(DATASETS)}, but {name!r} came{meant(name, DATASETS)}"
        ) from None
