"""SHA-256 sums of raw files: pinned here, or recorded beside the files when they were fetched."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lds._files import read_file, write_atomically
from lds.errors import DataError

State = Literal["ok", "missing", "wrong checksum", "no checksum known"]

# Keyed by the path below <root>/planetoid, as in a SHA256SUMS file; of other sets by collection, folder and name.
PINNED: Mapping[str, str] = {
    "CiteSeer/raw/ind.citeseer.allx": "2ac30345d95c9ec933a817ee0bdd6a5f077f8c184a20e696910192d534414668",
    "CiteSeer/raw/ind.citeseer.ally": "f704b2d986dde6c2669934de1f3ae5696a6cf9455c0f6b2646a2d135ea0a1c95",
    "CiteSeer/raw/ind.citeseer.graph": "d79a4ef9d3e7169aee8946145f6b7306e35bc79bffad26346cfb94e10e9912a7",
    "CiteSeer/raw/ind.citeseer.test.index": "2af990671580b6b2df5d158d1038f8292e30c9cd821b5453f399659b25b723d4",
    "CiteSeer/raw/ind.citeseer.tx": "539a8906a2da97628d212f2fdd668c109a8b3f0d36574b59e5d3fd5b5303da21",
    "CiteSeer/raw/ind.citeseer.ty": "55e5bd1ba1e733a04598753ad1a8d57957f4b8f89e74519f41f4f4938767e4ce",
    "CiteSeer/raw/ind.citeseer.x": "d20de19150741e555de0ed037195630fc194114ebc7fd72ced62810148aa22f6",
    "CiteSeer/raw/ind.citeseer.y": "8ba87e515d8e3ee3cf52f6d2c5b86aa73f11ecad825a808455209ec26cd54924",
    "Cora/raw/ind.cora.allx": "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543",
    "Cora/raw/ind.cora.ally": "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71",
    "Cora/raw/ind.cora.graph": "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d",
    "Cora/raw/ind.cora.test.index": "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875",
    "Cora/raw/ind.cora.tx": "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a",
    "Cora/raw/ind.cora.ty": "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad",
    "Cora/raw/ind.cora.x": "23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab",
    "Cora/raw/ind.cora.y": "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1",
    "geom-gcn/film/film_split_0.6_0.2_0.npz": "4505a41d4e90abd94d1ec22571ce528b09ad7cf20d87f764aebd4177590767f5",
    "geom-gcn/film/out1_graph_edges.txt": "997cdce67ea9c29257d3ffe796328391931901cf823830affa453178b60e2c3e",
    "geom-gcn/film/out1_node_feature_label.txt": "1d5cdd094f8b91e770f6decfca85b35cf42f75d1efb51055fd6af16e11820ff8",
    "geom-gcn/texas/out1_graph_edges.txt": "0fe85183243a78cbee9b85a684f8240963d04d1020d10e9cd2b8cfb25e33b476",
    "geom-gcn/texas/out1_node_feature_label.txt": "cf5a3ca346cdd1210b8342e22517fcbbdae658065b7a3145f59350e50e6236a3",
    "geom-gcn/texas/texas_split_0.6_0.2_0.npz": "7ba77bf7a8856fcc0ab15623a611b8cdce994e820f577da914123fb4f45272b0",
    "heterophilous/minesweeper/minesweeper.npz": "e664c8dacf1e8ac466c2c09ed4b237bd2c5541f47a6eae9c6092cb87f16412b3",
}


@dataclass(frozen=True)
class FileStatus:
    """A raw file with the SHA-256 sum it must have and the one it has; None where there is none.

    Example:
        >>> from lds.data import verify
        >>> found = verify("wine")
        >>> found.built_in, found.files  # wine is part of scikit-learn; of "cora" there is a FileStatus a file
        (True, ())
    """

    path: Path
    expected: str | None
    found: str | None

    @property
    def state(self) -> State:
        """Return in one word or two how the file stands."""
        if self.found is None:
            return "missing"
        if self.expected is None:
            return "no checksum known"
        return "ok" if self.found == self.expected else "wrong checksum"


@dataclass(frozen=True)
class Verification:
    """How the raw files of a data set stand; those built into a package have none.

    Example:
        >>> from lds.data import verify
        >>> found = verify("wine")
        >>> found.built_in, found.files  # wine is part of scikit-learn; of "cora" there is a FileStatus a file
        (True, ())
    """

    name: str
    built_in: bool
    files: tuple[FileStatus, ...]
    package: str = "scikit-learn"

    @property
    def ok(self) -> bool:
        """Return whether every file is there and has its sum."""
        return all(file.state == "ok" for file in self.files)

    @property
    def message(self) -> str:
        """Return one line that sums up the files."""
        if self.built_in:
            return f"{self.name} is built into {self.package}: nothing to fetch, nothing to verify"
        good = sum(file.state == "ok" for file in self.files)
        return f"{self.name}: {good} of {len(self.files)} files are there with the right checksum"


def status(path: Path, expected: str | None) -> FileStatus:
    """Compare a file with its expected sum.

    Raises:
        DataError: the file exists and cannot be read.
    """
    content = _read(path)
    return FileStatus(path, expected, None if content is None else hashlib.sha256(content).hexdigest())


def recorded(sums: Path) -> dict[str, str]:
    """Read a SHA256SUMS file, as the program sha256sum writes it; of two sums for a file the later counts.

    Raises:
        DataError: the file exists and cannot be read.
    """
    lines = (_read(sums) or b"").decode("utf-8", errors="replace").splitlines()
    fields = (line.split(maxsplit=1) for line in lines)
    return {field[1].strip().removeprefix("*"): field[0] for field in fields if len(field) == 2}


def record(sums: Path, new: Mapping[str, str]) -> None:
    """Add sums to a SHA256SUMS file, in one atomic step."""
    merged = recorded(sums) | dict(new)
    write_atomically(sums, "".join(f"{digest}  {name}\n" for name, digest in sorted(merged.items())).encode())


def _read(path: Path) -> bytes | None:
    try:
        return read_file(path, links=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{path} must be a readable file, but: {error.strerror}; check what it is") from error
