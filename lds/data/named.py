"""Data sets by name through the classes of PyTorch Geometric, from their raw files.

These files are texts, JSON and plain arrays: none runs code when it is read, so that files without a known SHA-256 sum
are read too. Where a sum is pinned in `lds.data.checksums`, or was recorded when the file was fetched, another is
refused. What PyTorch Geometric makes of the files goes to a temporary folder: nothing is written beside them but by
`fetch`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lds._read import reason
from lds.data.checksums import PINNED, FileStatus, record, recorded, status
from lds.data.prepare import prepare
from lds.errors import DataError, InputError

if TYPE_CHECKING:
    from torch_geometric.data import Data

_SPLIT = re.compile(r"_split_0\.6_0\.2_(\d)\.npz$")


@dataclass(frozen=True)
class Named:
    """A data set of a class of `torch_geometric.datasets`.

    Attributes:
        cls: name of the class.
        title: name of the data set there; None for a class of one.
        collection: folder of the raw files below the root, `<root>/<collection>/<folder>/raw`, as that class has it;
            they may also lie in `<root>/raw/<collection>/<folder>` or `<root>/raw/<collection>`.
        folder: see `collection`.
        raw: names of the raw files.
        splits: number of splits that it brings; 0 where they are made.
        homophily: share of edges within classes; None where it is not known here.
    """

    cls: str
    title: str | None
    collection: str
    folder: str
    raw: tuple[str, ...]
    nodes: int
    edges: int
    features: int
    classes: int
    splits: int
    homophily: float | None
    licence: str
    options: tuple[tuple[str, Any], ...] = ()
    built_in: bool = False

    @property
    def origin(self) -> str:
        """Return where the data come from, for people."""
        return f"{self.cls} of PyTorch Geometric"

    @property
    def name(self) -> str:
        """Return what to call it in messages."""
        return self.title or self.folder

    def load(self, root: Path, retain: float, split: int | None, seed: int) -> Data:
        """Return the data with four masks; nothing is written below `root`.

        Raises:
            InputError: `retain` lies outside of [0, 1], or there is no such split.
            DataError: a raw file is missing, altered, or not what it must be.
        """
        folder = self.place(root)
        for file in self.verify(root):
            if file.state == "wrong checksum":
                raise DataError(
                    f"{file.path} must have the SHA-256 sum {file.expected:.80}, but it has {file.found}; the file is "
                    f"damaged or was altered, run `lds data fetch {self.name}` to replace it"
                )
            if file.state == "missing" and not _SPLIT.search(file.path.name):
                raise DataError(
                    f"{self.name} needs the file {file.path.name}, which is not in {folder}; run `lds data fetch "
                    f"{self.name}`, or name the folder that holds {self.collection}/ with --data-root or $LDS_DATA_ROOT"
                )
        files = [name for name in self.raw if (folder / name).is_file()]
        there = [int(match[1]) for name in files if (match := _SPLIT.search(name))]
        if self.splits and there and (split or 0) not in there:
            raise InputError(f"split must be one of {there}, which are in {folder}, got {split or 0}")
        with TemporaryDirectory(prefix="lds-") as made:
            data = self._make(folder, files, Path(made))
        if self.splits == 0:
            if split is not None:
                raise InputError(f"{self.name} brings no splits, but split={split!r} came; drop it, the seed makes one")
            for name in [name for name in data.to_dict() if name.endswith("_mask")]:
                del data[name]
        if data.get("stopping_mask") is not None:  # WikiCS.
            data.es_mask = data.stopping_mask
            del data.stopping_mask
        place = there.index(split or 0) if there else split
        return prepare(data, retain=retain, split=place if _several(data) else None, seed=seed)

    def verify(self, root: Path) -> list[FileStatus]:
        """Compare every raw file with its sum, where one is known."""
        folder = self.place(root)
        known = recorded(self._sums(root)) | dict(PINNED)
        return [status(folder / name, known.get(self._key(name))) for name in self.raw]

    def fetch(self, root: Path) -> list[FileStatus]:
        """Download the raw files that are missing or altered, and return how all of them stand.

        Raises:
            DataError: the source cannot be reached, the folder cannot be written, or a file came with a wrong sum.
        """
        wanted = {file.path.name for file in self.verify(root) if file.state in ("missing", "wrong checksum")}
        if wanted:
            target = root / self.collection / self.folder / "raw"
            try:
                target.mkdir(parents=True, exist_ok=True)
                with TemporaryDirectory(dir=target.parent, prefix=".fetch-") as staging:
                    self._dataset(Path(staging), self.raw, Path(staging), download=True)
                    self._keep(root, Path(staging), target)
            except DataError:
                raise
            except Exception as error:  # What fetches files for PyTorch Geometric raises exceptions of its own.
                raise DataError(
                    f"{self.name} could not be fetched into {target}: {reason(error)}; go online, or copy the raw "
                    "files there by hand"
                ) from error
        return self.verify(root)

    def is_present(self, root: Path) -> bool:
        """Return whether the raw files are there, whatever they hold; of several splits one will do."""
        folder = self.place(root)
        there = [(folder / name).is_file() for name in self.raw]
        needed = [found for name, found in zip(self.raw, there, strict=True) if not _SPLIT.search(name)]
        return all(needed) and (len(needed) == len(there) or sum(there) > len(needed))

    def place(self, root: Path) -> Path:
        """Return the first folder that holds one of the raw files, or that where `fetch` puts them."""
        usual = root / self.collection / self.folder / "raw"
        places = (usual, root / "raw" / self.collection / self.folder, root / "raw" / self.collection)
        return next((place for place in places if (place / self.raw[0]).is_file()), usual)

    def _sums(self, root: Path) -> Path:
        return root / self.collection / "SHA256SUMS"

    def _key(self, file: str) -> str:
        return f"{self.collection}/{self.folder}/{file}"

    def _keep(self, root: Path, staging: Path, target: Path) -> None:
        known = recorded(self._sums(root)) | dict(PINNED)
        received = [status(staging / name, known.get(self._key(name))) for name in self.raw]
        for came in received:
            if came.state in ("missing", "wrong checksum"):
                raise DataError(
                    f"{came.path.name} must have the SHA-256 sum {came.expected}, but the download has {came.found}; "
                    "nothing was kept, try again later"
                )
        for came in received:
            came.path.replace(target / came.path.name)
        record(self._sums(root), {self._key(came.path.name): came.found for came in received if came.found})

    def _make(self, folder: Path, files: list[str], made: Path) -> Data:
        with _quiet():
            try:
                return self._dataset(folder, tuple(files), made, download=False)[0]
            # Files may hold something else: any exception.
            except Exception as error:
                raise DataError(
                    f"the files in {folder} must be those of {self.name}, but {reason(error)}; get them from their "
                    "official source"
                ) from error

    def _dataset(self, raw: Path, files: tuple[str, ...], made: Path, *, download: bool) -> Any:
        """Return the data set of raw files in one folder, made in another; or only download them."""
        cls = getattr(importlib.import_module("torch_geometric.datasets"), self.cls)
        changes: dict[str, Any] = {
            "raw_dir": property(lambda _: str(raw)),
            "raw_file_names": property(lambda _: list(files)),
            "processed_dir": property(lambda _: str(made)),
        }
        if download:
            changes |= {"process": lambda _: None, "load": lambda *_: None}
        here = type(self.cls, (cls,), changes)
        title = () if self.title is None or self.cls in ("Actor", "WikiCS", "CoraFull") else (self.title,)
        with _quiet():
            return here(str(made), *title, **dict(self.options))


@dataclass(frozen=True)
class Karate:
    """Zachary's karate club, inside PyTorch Geometric: a column per node as features, and a split that is made."""

    nodes: int = 34
    edges: int = 78
    features: int = 34
    classes: int = 4
    splits: int = 0
    homophily: float | None = 0.76
    licence: str = "none stated"
    origin: str = "KarateClub of PyTorch Geometric"
    built_in: bool = True

    def load(self, root: Path, retain: float, split: int | None, seed: int) -> Data:
        """Return the data with four masks.

        Raises:
            InputError: `retain` lies outside of [0, 1], or a split came.
        """
        from torch_geometric.datasets import KarateClub

        if split is not None:
            raise InputError(f"karate brings no splits, but split={split!r} came; drop it, the seed makes one")
        data = KarateClub()[0]
        del data.train_mask
        return prepare(data, retain=retain, seed=seed)

    def verify(self, root: Path) -> list[FileStatus]:
        """Return no file: PyTorch Geometric brings it."""
        return []

    def fetch(self, root: Path) -> list[FileStatus]:
        """Return no file: PyTorch Geometric brings it."""
        return []

    def is_present(self, root: Path) -> bool:
        """Return True: PyTorch Geometric brings it."""
        return True


@dataclass(frozen=True)
class Arxiv:
    """ogbn-arxiv, through the package ogb, in its own split."""

    nodes: int = 169_343
    edges: int = 1_157_799
    features: int = 128
    classes: int = 40
    splits: int = 1
    homophily: float | None = 0.65
    licence: str = "ODC-BY"
    origin: str = "OGB, needs pip install ogb"
    built_in: bool = False

    def load(self, root: Path, retain: float, split: int | None, seed: int) -> Data:
        """Return the data with four masks; ogb writes what it makes of the raw files beside them.

        Raises:
            InputError: `retain` lies outside of [0, 1], or a split came.
            DataError: ogb is not installed, or the files are not there.
        """
        if not self.is_present(root):
            raise DataError(
                f"ogbn_arxiv is not in {self._folder(root)}; run `lds data fetch ogbn_arxiv`, with ogb installed"
            )
        data, index = self._open(root)
        parts = {"x": data.x, "y": data.y, "edge_index": data.edge_index}
        return prepare(
            parts | {f"{name}_idx": nodes for name, nodes in index.items()}, retain=retain, split=split, seed=seed
        )

    def verify(self, root: Path) -> list[FileStatus]:
        """Return the one file that says that the others are there; ogb checks none."""
        return [status(self._folder(root) / "raw" / "edge.csv.gz", None)]

    def fetch(self, root: Path) -> list[FileStatus]:
        """Download the data with ogb.

        Raises:
            DataError: ogb is not installed, or its source cannot be reached.
        """
        self._open(root)
        return self.verify(root)

    def is_present(self, root: Path) -> bool:
        """Return whether the raw files are there."""
        return (self._folder(root) / "raw" / "edge.csv.gz").is_file()

    def _folder(self, root: Path) -> Path:
        return root / "ogb" / "ogbn_arxiv"

    def _open(self, root: Path) -> Any:
        try:
            package = importlib.import_module("ogb.nodeproppred")
        except ImportError as error:
            raise DataError("ogbn_arxiv needs the package ogb to be read; pip install ogb") from error
        try:
            dataset = package.PygNodePropPredDataset("ogbn-arxiv", str(root / "ogb"))
            return dataset[0], dataset.get_idx_split()
        except Exception as error:  # What ogb raises is not documented.
            raise DataError(f"ogbn_arxiv cannot be read from {root / 'ogb'}: {reason(error)}; fetch it anew") from error


def _several(data: Data) -> bool:
    return any(data[name].dim() == 2 for name in data.to_dict() if name.endswith("_mask"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what PyTorch Geometric prints and warns of on its way from the terminal."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


# Nodes, undirected edges, features, classes, splits, homophily.
_Size = tuple[int, int, int, int, int, float | None]


def _geom_gcn(title: str, prefix: str | None = None) -> tuple[str, ...]:
    splits = tuple(f"{prefix or title}_split_0.6_0.2_{number}.npz" for number in range(10))
    return ("out1_node_feature_label.txt", "out1_graph_edges.txt", *splits)


def _web(title: str, size: _Size) -> Named:
    return Named("WebKB", title, "geom-gcn", title, _geom_gcn(title), *size, "none stated")


def _wikipedia(title: str, size: _Size) -> Named:
    return Named("WikipediaNetwork", title, "geom-gcn", title, _geom_gcn(title), *size, "none stated")


def _heterophilous(title: str, size: _Size) -> Named:
    return Named("HeterophilousGraphDataset", title, "heterophilous", title, (f"{title}.npz",), *size, "MIT")


def _shchur(cls: str, title: str, file: str, size: _Size) -> Named:
    return Named(cls, title, "gnn-benchmark", title, (f"{file}.npz",), *size, "MIT")


def _citation(title: str, folder: str, size: _Size) -> Named:
    return Named("CitationFull", title, "citation-full", folder, (f"{title}.npz",), *size, "MIT")


NAMED: dict[str, Named | Karate | Arxiv] = {
    "cornell": _web("cornell", (183, 277, 1703, 5, 10, None)),
    "texas": _web("texas", (183, 279, 1703, 5, 10, 0.06)),
    "wisconsin": _web("wisconsin", (251, 450, 1703, 5, 10, 0.18)),
    "actor": Named("Actor", "actor", "geom-gcn", "film", _geom_gcn("film"), 7600, 26659, 932, 5, 10, 0.22, "none "
    "stated"),
    "chameleon": _wikipedia("chameleon", (2277, 31371, 2325, 5, 10, 0.23)),
    "squirrel": _wikipedia("squirrel", (5201, 198353, 2089, 5, 10, 0.22)),
    "roman_empire": _heterophilous("roman_empire", (22662, 32927, 300, 18, 10, 0.05)),
    "amazon_ratings": _heterophilous("amazon_ratings", (24492, 93050, 300, 5, 10, 0.38)),
    "minesweeper": _heterophilous("minesweeper", (10000, 39402, 7, 2, 10, 0.68)),
    "tolokers": _heterophilous("tolokers", (11758, 519000, 10, 2, 10, 0.59)),
    "questions": _heterophilous("questions", (48921, 153540, 301, 2, 10, 0.84)),
    "computers": _shchur("Amazon", "computers", "amazon_electronics_computers", (13752, 245861, 767, 10, 0, 0.78)),
    "photo": _shchur("Amazon", "photo", "amazon_electronics_photo", (7650, 119081, 745, 8, 0, 0.83)),
    "cs": _shchur("Coauthor", "cs", "ms_academic_cs", (18333, 81894, 6805, 15, 0, 0.81)),
    "physics": _shchur("Coauthor", "physics", "ms_academic_phy", (34493, 247962, 8415, 5, 0, 0.93)),
    "wikics": Named(
        "WikiCS", "wikics", "wikics", "wikics", ("data.json",), 11701, 215603, 300, 10, 20, 0.65, "MIT",
        (("is_undirected", True),),
    ),
    "cora_full": _citation("cora", "cora_full", (19793, 63421, 8710, 70, 0, 0.57)),
    "cora_ml": _citation("cora_ml", "cora_ml", (2995, 8158, 2879, 7, 0, 0.79)),
    "dblp": _citation("dblp", "dblp", (17716, 52867, 1639, 4, 0, 0.83)),
    "karate": Karate(),
    "ogbn_arxiv": Arxiv(),
}  # fmt: skip
