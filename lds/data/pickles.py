"""A check that a pickle holds arrays and lists only, for files without a sum pinned in this package."""

import io
import pickle
import pickletools
import warnings
from pathlib import Path
from typing import Any

from lds._files import read_file
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
    from scipy.sparse import csr_matrix

    content = read_file(path, links=True)
    try:
        puts = (int(number or 0) for step, number, _ in pickletools.genops(content) if "PUT" in step.name)
        beyond = next((place for place in puts if place > len(content)), None)
    except Exception as error:  # pickle's documentation: a bad file may raise any exception
        raise _refused(path, reason(error)) from error
    if beyond is not None:  # Python makes room in the memo up to a place, though the file cannot fill it.
        raise _refused(path, f"it names place {beyond} of its memo")
    with warnings.catch_warnings():
        # The old module path inside the files; scipy has moved the class.
        warnings.filterwarnings("ignore", message=".*`scipy.sparse.csr`", category=DeprecationWarning)
        try:
            held = _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
            if isinstance(held, csr_matrix):
                held.check_format(full_check=True)  # Else scipy would follow indices that point outside of it.
        except Exception as error:
            raise _refused(path, reason(error)) from error


def _refused(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} must be a pickle of plain arrays and lists, but {why}; "
        "it was refused, get the file from its official source"
    )
