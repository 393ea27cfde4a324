"""Which data a run is on; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from lds.errors import InputError


@dataclass(frozen=True)
class DataConfig:
    """The part of a run's configuration that names its data: a data set, or else a file of one's own.

    Args:
        dataset: name of a data set, see `lds data list`; or else give data.
        data: file of your own data set, .pt, .npz or .csv, see `lds.data.read`.
        label: data in .csv: column of the labels; label when not given.
        id: data in .csv: column of the nodes' names; id, where there is such a column, when not given.
        edges: data in .csv: file of edges; no edges when not given.
        scale: data: none, standard (columns to mean 0 and deviation 1), or row (absolute values of a row to sum 1).
        train_size: data without masks: nodes to train on; 10 % of the labelled ones when not given.
        val_size: data without masks: nodes for the outer objective; 10 % when not given.
        es_size: data without masks: nodes to stop early on; 10 % when not given.
        data_root: folder of the data sets that have names; $LDS_DATA_ROOT, else data/, when not given.

    Raises:
        InputError: neither dataset nor data is there, or both, or an option of data without it.
    """

    dataset: str | None = None
    data: str | None = field(default=None, kw_only=True)
    label: str | None = field(default=None, kw_only=True)
    id: str | None = field(default=None, kw_only=True)
    edges: str | None = field(default=None, kw_only=True)
    scale: Literal["none", "standard", "row"] = field(default="none", kw_only=True)
    train_size: int | None = field(default=None, kw_only=True)
    val_size: int | None = field(default=None, kw_only=True)
    es_size: int | None = field(default=None, kw_only=True)
    data_root: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.dataset is None and self.data is None:
            raise InputError("a run needs dataset, a name, or data, a file of your own, but neither came; give one")
        if self.data is not None:
            if self.dataset is not None:
                raise InputError(f"a run is on dataset or data, but {self.dataset} and {self.data} came; drop one")
            return
        for option in fields(DataConfig):
            if option.name not in ("dataset", "data_root") and getattr(self, option.name) != option.default:
                raise InputError(
                    f"{option.name} belongs to data, a file of your own, but dataset {self.dataset} came with it; "
                    "drop one"
                )

    @property
    def source(self) -> str:
        """What to call the data: the name of the data set, or the file."""
        return str(self.dataset if self.data is None else self.data)
