"""A check that a pickle holds arrays and lists only, for files without a sum pinned in this package."""

import io
import pickle
import pickletools
import warnings
from pathlib import Path
from typing import Any

from lds._read import reason
from lds.errors import DataError

# All that the files of Planetoid name, written by Python 2: arrays, CSR matrices, a dict of lists.
_PLAIN = frozenset(
    {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("scipy.sparse.csr", "csr_matrix"),
        ("collections", "defaultdict"),
        ("__builtin__", "list"),
    }
)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def require_plain(path: Path) -> None:
    """Read a pickle with an allow-list of harmless classes, so that no code in it can run.

    Raises:
        DataError: the file names anything else, or is no pickle.
    """
    content = path.read_bytes()
    with warnings.catch_warnings():
        # The old module path inside the files; scipy has moved the class.
        warnings.filterwarnings("ignore", message=".*`scipy.sparse.csr`", category=DeprecationWarning)
        try:
            _check_memo(content)
            _check_sparse(_PlainUnpickler(io.BytesIO(content), encoding="latin1").load())
        except Exception as error:  # pickle's documentation: a bad file may raise any exception
            raise DataError(
                f"{path} must be a pickle of plain arrays and lists, but {reason(error)}; "
                "it was refused, get the file from its official source"
            ) from error


def _check_memo(content: bytes) -> None:
    """Raise ValueError for a place in the memo beyond all that the file can hold: Python makes room up to it."""
    for operation, argument, _ in pickletools.genops(content):
        if "PUT" in operation.name and int(argument or 0) > len(content):
            raise ValueError(f"it names place {argument} of its memo")


def _check_sparse(content: Any) -> None:
    """Raise ValueError for a CSR matrix whose indices point outside of it: scipy would follow them."""
    from scipy.sparse import csr_matrix

    if isinstance(content, csr_matrix):
        content.check_format(full_check=True)
