import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from lds.data.pickles import require_plain
from lds.errors import DataError


def test_code_in_a_pickle_does_not_run(trap: Any, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(trap.content)
    with pytest.raises(DataError, match="must be a pickle of plain arrays and lists, but it names"):
        require_plain(file)
    assert not trap.sprung.exists()
    pickle.loads(trap.content)
    assert trap.sprung.exists()  # the trap works where nothing guards


@pytest.mark.parametrize("content", [b"", b"<html>log in first</html>", b"\x80\x02]q\x00"])
def test_no_pickle_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(DataError, match="must be a pickle of plain arrays and lists") as error:
        require_plain(file)
    assert "\n" not in str(error.value)


def test_plain_data_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(pickle.dumps(defaultdict(list, {0: [1, 2]}), protocol=2))
    require_plain(file)


@pytest.mark.parametrize("part", ["x", "tx", "allx", "y", "ty", "ally", "graph"])
def test_the_published_files_are_accepted(data_root: Path, part: str) -> None:
    require_plain(data_root / "planetoid" / "CiteSeer" / "raw" / f"ind.citeseer.{part}")


def test_a_place_in_the_memo_beyond_the_file(tmp_path: Path) -> None:
    """Python would make room for a billion places, some GB."""
    (tmp_path / "x").write_bytes(b"\x80\x02]r" + (1 << 30).to_bytes(4, "little") + b".")
    with pytest.raises(DataError, match="it names place 1073741824 of its memo"):
        require_plain(tmp_path / "x")


def test_indices_outside_of_a_sparse_matrix(tmp_path: Path) -> None:
    """Scipy would read beyond the memory of its values."""
    matrix = scipy.sparse.csr_matrix(np.eye(3))
    matrix.indices[:] = 10**9
    content = pickle.dumps(matrix, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    content = content.replace(b"scipy.sparse._csr", b"scipy.sparse.csr")
    content = content.replace(b"numpy._core.numeric", b"numpy.core.multiarray")
    (tmp_path / "x").write_bytes(b"\x80\x02" + content[2:])
    with pytest.raises(DataError, match="indices"):
        require_plain(tmp_path / "x")
