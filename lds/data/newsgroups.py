"""Ten of the 20 newsgroups as one data set, from the loader of scikit-learn.

That loader keeps what it downloads in a pickle. `fetch` has it do so in a temporary folder, makes the features, and
keeps these as plain arrays, so that `load` opens no pickle.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse
import torch

from lds._files import write_atomically
from lds._read import reason
from lds._sparse import from_scipy
from lds.data.checksums import FileStatus, record, recorded, status
from lds.data.edges import check_retain
from lds.data.splits import stratified
from lds.errors import DataError, InputError

if TYPE_CHECKING:
    from torch_geometric.data import Data

# The ten of Franceschi et al., table 1.
CATEGORIES = (
    *("alt.atheism", "comp.sys.ibm.pc.hardware", "misc.forsale", "rec.autos", "rec.sport.hockey"),
    *("sci.crypt", "sci.electronics", "sci.med", "sci.space", "talk.politics.guns"),
)
# Words in less than 5 % of the texts are left out.
_RARE = 0.05
_FILE = "20newsgroups.npz"


@dataclass(frozen=True)
class Newsgroups:
    """Texts as nodes, TF-IDF of frequent words as features, newsgroups as classes; 100 nodes each to train and stop on.

    The selection of Franceschi et al., `Learning Discrete Structures for Graph Neural Networks
    <https://arxiv.org/abs/1903.11960>`_ (ICML 2019), table 1.
    """

    nodes: int = 9607
    edges: int = 0
    features: int = 236
    classes: int = 10
    splits: int = 0
    homophily: float | None = None
    licence: str = "none stated"
    origin: str = "scikit-learn's loader, downloads"
    built_in: bool = False
    split_size: int = 100

    def load(self, root: Path, retain: float, split: int | None, seed: int) -> Data:
        """Return the data with sparse features and an empty edge_index.

        Raises:
            InputError: `retain` is not 1, since there is no edge to delete, or a split came, since the seed makes it.
            DataError: the file is missing, altered or damaged.
        """
        from torch_geometric.data import Data

        check_retain(retain)
        if retain != 1.0:
            raise InputError(f"20newsgroups has no edges to delete, but retain={retain} came; leave it at 1.0")
        if split is not None:
            raise InputError(f"20newsgroups brings no splits, but split={split!r} came; drop it, the seed makes one")
        (file,) = self.verify(root)
        if file.state in ("missing", "wrong checksum"):
            raise DataError(
                f"20newsgroups needs the file {file.path}, but it is {file.state}; run `lds data fetch 20newsgroups`"
            )
        try:
            with np.load(file.path, allow_pickle=False) as found:
                parts = tuple(found[name] for name in ("data", "indices", "indptr"))
                x = scipy.sparse.csr_matrix(parts, shape=tuple(found["shape"]))
                y = np.asarray(found["y"], np.int64)
                x.check_format()
                masks = stratified(y, self.split_size, seed)
                if len(y) != x.shape[0]:
                    raise ValueError(f"{len(y)} labels came for {x.shape[0]} texts")
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{file.path} must be what `lds data fetch 20newsgroups` writes, but {reason(error)}; fetch it anew"
            ) from error
        return Data(
            x=from_scipy(x.astype(np.float64)),
            y=torch.from_numpy(y),
            edge_index=torch.empty(2, 0, dtype=torch.long),
            num_classes=self.classes,
            class_names=list(CATEGORIES),
            **masks,
        )

    def verify(self, root: Path) -> list[FileStatus]:
        """Compare the file with the sum that was recorded when it was fetched."""
        return [status(self._file(root), recorded(self._sums(root)).get(_FILE))]

    def fetch(self, root: Path) -> list[FileStatus]:
        """Download the texts with scikit-learn, and keep their features and newsgroups.

        Raises:
            DataError: the source cannot be reached, or the folder cannot be written.
        """
        if self.verify(root)[0].state != "ok":
            from sklearn.datasets import fetch_20newsgroups
            from sklearn.feature_extraction.text import TfidfVectorizer

            try:
                self._file(root).parent.mkdir(parents=True, exist_ok=True)
                with TemporaryDirectory(dir=self._file(root).parent, prefix=".fetch-") as staging:
                    texts = fetch_20newsgroups(data_home=staging, subset="all", categories=list(CATEGORIES))
                x = TfidfVectorizer(stop_words="english", min_df=_RARE).fit_transform(texts.data).tocsr()
                buffer = io.BytesIO()
                parts = {"data": x.data, "indices": x.indices, "indptr": x.indptr, "shape": np.array(x.shape)}
                np.savez_compressed(buffer, y=np.asarray(texts.target, np.int64), **parts)
                write_atomically(self._file(root), buffer.getvalue())
            except Exception as error:  # What downloads raise is not documented.
                raise DataError(
                    f"20newsgroups could not be fetched into {root}: {reason(error)}; go online and try again"
                ) from error
            found = status(self._file(root), None).found
            assert found is not None
            record(self._sums(root), {_FILE: found})
        return self.verify(root)

    def is_present(self, root: Path) -> bool:
        """Return whether the file is there."""
        return self._file(root).is_file()

    def _file(self, root: Path) -> Path:
        return root / "20newsgroups" / _FILE

    def _sums(self, root: Path) -> Path:
        return root / "20newsgroups" / "SHA256SUMS"
