"""The citation networks of Planetoid: Cora, CiteSeer and PubMed.

Their raw files are Python pickles, and a pickle can run code when it is read. Hence two rules:

* No file is unpickled before its SHA-256 sum has matched. For Cora and CiteSeer the sums are pinned in
  `lds.data.checksums`; a sum recorded elsewhere never replaces a pinned one.
* For PubMed no sum is pinned. `fetch` takes it over HTTPS from the source that PyTorch Geometric names and records
  the sums in ``<root>/planetoid/SHA256SUMS``. That is trust on first use: it shows later damage, not a
  forged first copy. Such files are therefore also read with an allow-list of classes (`lds.data.pickles`) first.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from lds._read import reason
from lds.data.checksums import PINNED, FileStatus, record, recorded, status
from lds.data.edges import retain_edges
from lds.data.pickles import require_plain
from lds.data.splits import halve
from lds.errors import DataError, InputError

if TYPE_CHECKING:
    from torch_geometric.data import Data

_PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")


@dataclass(frozen=True)
class Citation:
    """A Planetoid data set under the name that PyTorch Geometric gives it, in its public split."""

    title: str
    nodes: int
    edges: int
    features: int
    classes: int
    homophily: float | None = None
    splits: int = 1
    licence: str = "MIT"
    origin: str = "Planetoid (Yang et al., 2016), as in PyTorch Geometric"
    built_in: bool = False

    @property
    def name(self) -> str:
        """Return the name in lower case, as the raw files carry it."""
        return self.title.lower()

    def folder(self, root: Path) -> Path:
        """Return the folder of the raw files, the one PyTorch Geometric uses."""
        return root / "planetoid" / self.title / "raw"

    def load(self, root: Path, retain: float, split: int | None, seed: int) -> Data:
        """Return the data with row-normalised features and the 500 validation nodes halved into val and es.

        Nothing is written below `root`.

        Raises:
            InputError: `retain` lies outside of [0, 1] or is NaN, or there is no such split.
            DataError: a raw file is missing, altered, of unknown origin, or not plain data.
        """
        if split not in (None, 0):
            raise InputError(f"{self.name} has one split, 0, but split={split!r} came; drop it")
        self._require_verified(root)
        data = self._read(root)
        val_mask, es_mask = halve(data.val_mask, seed)
        edge_index = retain_edges(data.edge_index, data.num_nodes, retain, seed)
        # Its floor under the norm keeps all-zero rows zero (CiteSeer has some).
        data.x = torch.nn.functional.normalize(data.x, p=1.0, dim=1)
        data.update({"edge_index": edge_index, "val_mask": val_mask, "es_mask": es_mask})
        data.num_classes = self.classes
        return data

    def verify(self, root: Path) -> list[FileStatus]:
        """Compare every raw file with its sum; nothing is unpickled."""
        folder = self.folder(root)
        known = recorded(self._sums(root)) | dict(PINNED)
        names = [f"ind.{self.name}.{part}" for part in _PARTS]
        return [status(folder / name, known.get(self._key(name))) for name in names]

    def fetch(self, root: Path) -> list[FileStatus]:
        """Download the raw files that are not there with the right sum, and return how all of them stand.

        Raises:
            DataError: the source cannot be reached, the folder cannot be written, or a file came with a wrong sum.
        """
        import aiohttp

        wanted = [file for file in self.verify(root) if file.state != "ok"]
        if wanted:
            try:
                self._download(root, wanted)
            except (OSError, aiohttp.ClientError, asyncio.TimeoutError) as error:
                raise DataError(
                    f"{self.name} could not be fetched into {self.folder(root)}: {reason(error)}; "
                    "go online, or copy the raw files there by hand"
                ) from error
        return self.verify(root)

    def is_present(self, root: Path) -> bool:
        """Return whether all raw files exist, whatever they hold."""
        return all(os.path.isfile(self.folder(root) / f"ind.{self.name}.{part}") for part in _PARTS)

    def _sums(self, root: Path) -> Path:
        return root / "planetoid" / "SHA256SUMS"

    def _key(self, file_name: str) -> str:
        return f"{self.title}/raw/{file_name}"

    def _read(self, root: Path) -> Data:
        from torch_geometric.io import read_planetoid_data

        with warnings.catch_warnings():  # the reader adds a filter of its own, for good
            try:
                return read_planetoid_data(str(self.folder(root)), self.title)
            # Files may have the sums that were recorded for them, and yet hold something else: any exception.
            except Exception as error:
                raise DataError(
                    f"the files in {self.folder(root)} must be those of {self.name}, but {reason(error)}; "
                    "get them from their official source"
                ) from error

    def _require_verified(self, root: Path) -> None:
        files = self.verify(root)
        for file in files:
            if file.state != "ok":
                raise DataError(self._complaint(file, root))
        for file in files:
            if self._key(file.path.name) not in PINNED:
                _require_plain(file.path)

    def _complaint(self, file: FileStatus, root: Path) -> str:
        if file.state == "missing":
            return (
                f"{self.name} needs the file {file.path.name}, which is not in {self.folder(root)}; run `lds data "
                f"fetch {self.name}`, or name the folder that holds planetoid/ with --data-root or $LDS_DATA_ROOT"
            )
        if file.state == "wrong checksum":
            return (
                f"{file.path} must have the SHA-256 sum {file.expected:.80}, but it has {file.found}; the file is "
                f"damaged or was altered and was not read, run `lds data fetch {self.name}` to replace it"
            )
        return (
            f"{file.path} must have a known SHA-256 sum before it is read, since a pickle can run code, but none is "
            f"recorded; run `lds data fetch {self.name}`, or, if you trust the files, in {self._sums(root).parent} "
            f"`sha256sum {self._key('ind.*')} >> SHA256SUMS`"
        )

    def _download(self, root: Path, wanted: list[FileStatus]) -> None:
        # Not by constructing Planetoid: that unpickles what it downloaded before anyone could check it.
        from torch_geometric.datasets import Planetoid
        from torch_geometric.io import fs

        folder = self.folder(root)
        folder.mkdir(parents=True, exist_ok=True)
        # A folder beside the target: a file moves into place whole and checked, or not at all.
        with TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as staging:
            received = []
            for file in wanted:
                fs.cp(f"{Planetoid.url}/{file.path.name}", staging)
                received.append(status(Path(staging) / file.path.name, file.expected))
            for came in received:
                if came.state in ("missing", "wrong checksum"):
                    raise DataError(
                        f"{came.path.name} must have the SHA-256 sum {came.expected}, but the download has "
                        f"{came.found}; nothing was kept, try again later"
                    )
                if came.expected is None:
                    _require_plain(came.path)
            for came in received:
                came.path.replace(folder / came.path.name)
        record(
            self._sums(root),
            {self._key(came.path.name): came.found for came in received if came.expected is None and came.found},
        )


def _require_plain(path: Path) -> None:
    if not path.name.endswith("test.index"):  # the one text file among the pickles
        require_plain(path)
