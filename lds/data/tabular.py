"""The small tabular data sets inside scikit-learn: no edges and nothing to download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lds.data.checksums import FileStatus
from lds.data.edges import check_retain
from lds.data.features import Scale
from lds.data.splits import stratified
from lds.errors import InputError

if TYPE_CHECKING:
    from torch_geometric.data import Data


@dataclass(frozen=True)
class Tabular:
    """A data set of scikit-learn, with `split_size` nodes each to train, validate and stop early on.

    Attributes:
        largest: what features are divided by, such as the largest value of a pixel.
        scale: how features are scaled where nobody says, see `lds.data.prepare`.
    """

    name: str
    nodes: int
    features: int
    classes: int
    split_size: int
    largest: float = 1.0
    scale: Scale = "standard"
    edges: int = 0
    homophily: float | None = None
    splits: int = 0
    licence: str = "CC BY 4.0"
    origin: str = "built into scikit-learn"
    built_in: bool = True

    def load(self, root: Path, retain: float, split: int | None, seed: int) -> Data:
        """Return the data with features as they come, in double precision, and an empty edge_index.

        Raises:
            InputError: `retain` is not 1, since there is no edge to delete, or a split came, since the seed makes it.
        """
        import sklearn.datasets
        from torch_geometric.data import Data

        check_retain(retain)
        if retain != 1.0:
            raise InputError(f"{self.name} has no edges to delete, but retain={retain} came; leave it at 1.0")
        if split is not None:
            raise InputError(f"{self.name} brings no splits, but split={split!r} came; drop it, the seed makes one")
        x, y = getattr(sklearn.datasets, f"load_{self.name}")(return_X_y=True)
        return Data(
            x=torch.from_numpy(x / self.largest),
            y=torch.from_numpy(y).long(),
            edge_index=torch.empty(2, 0, dtype=torch.long),
            num_classes=self.classes,
            **stratified(y, self.split_size, seed),
        )

    def verify(self, root: Path) -> list[FileStatus]:
        """Return no file: scikit-learn brings them."""
        return []

    def fetch(self, root: Path) -> list[FileStatus]:
        """Return no file: scikit-learn brings them."""
        return []

    def is_present(self, root: Path) -> bool:
        """Return True: scikit-learn brings the files."""
        return True
