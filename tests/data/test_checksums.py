import hashlib
from pathlib import Path

import pytest

from lds.data.checksums import PINNED, Verification, record, recorded, status
from lds.errors import DataError

DIGEST = hashlib.sha256(b"content").hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


def test_pinned_sums_cover_cora_and_citeseer() -> None:
    assert sum(key.startswith(("Cora/", "CiteSeer/")) for key in PINNED) == 16
    assert {key.split("/")[0] for key in PINNED} == {"Cora", "CiteSeer", "geom-gcn", "heterophilous"}
    assert all(len(bytes.fromhex(digest)) == 32 for digest in PINNED.values())


def test_states(file: Path) -> None:
    assert status(file, DIGEST).state == "ok"
    assert status(file, "0" * 64).state == "wrong checksum"
    assert status(file, None).state == "no checksum known"
    assert status(file.with_name("other"), DIGEST).state == "missing"
    assert status(file / "below-a-file", DIGEST).state == "missing"
    assert status(file, None).found == DIGEST


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be a readable file, but: Is a directory"):
        status(tmp_path, DIGEST)


def test_verification_needs_every_file(file: Path) -> None:
    good, bad = status(file, DIGEST), status(file, "0" * 64)
    assert Verification("some", False, (good, good)).ok
    mixed = Verification("some", False, (good, bad))
    assert not mixed.ok
    assert mixed.message == "some: 1 of 2 files are there with the right checksum"


def test_sums_are_recorded_and_merged(tmp_path: Path) -> None:
    sums = tmp_path / "SHA256SUMS"
    assert recorded(sums) == {}
    record(sums, {"b": "22", "a": "11"})
    record(sums, {"b": "33"})
    assert recorded(sums) == {"a": "11", "b": "33"}
    assert sums.read_text() == "11  a\n33  b\n"
    assert list(tmp_path.iterdir()) == [sums]


def test_sums_as_sha256sum_writes_them(tmp_path: Path) -> None:
    sums = tmp_path / "SHA256SUMS"
    sums.write_bytes(b"11  text\n22 *binary\nnoise\n\n33  with space\n44  text\n\xff\xfe\n")
    assert recorded(sums) == {"text": "44", "binary": "22", "with space": "33"}
