"""Data sets with train, validation, early-stopping and test masks, and the checks on a user's own."""

from lds.data.checksums import FileStatus, Verification
from lds.data.edges import canonical_edges, retain_edges
from lds.data.interchange import from_dgl, from_networkx
from lds.data.mapped import map_features
from lds.data.masks import complete_masks
from lds.data.own import read
from lds.data.prepare import num_classes, prepare, validate
from lds.data.registry import DATASETS, Listing, Source, data_root, fetch, listing, load, verify
from lds.data.splits import MASKS

__all__ = [
    "DATASETS",
    "MASKS",
    "FileStatus",
    "Listing",
    "Source",
    "Verification",
    "canonical_edges",
    "complete_masks",
    "data_root",
    "fetch",
    "from_dgl",
    "from_networkx",
    "listing",
    "load",
    "map_features",
    "num_classes",
    "prepare",
    "read",
    "retain_edges",
    "validate",
    "verify",
]
