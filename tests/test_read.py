"""Archives that are small on disk and huge unpacked; YAML that merges mappings."""

import io

import numpy as np
import pytest
import torch

from lds._read import check_unpacked, load_arrays, load_tensors, parse_yaml
from lds.data import read
from lds.errors import DataError
from tests.fuzz.base import npy_bytes, tensor_bomb, zip_bomb

BOMBS = {"bomb.pt": tensor_bomb, "bomb.npz": lambda: zip_bomb("x.npy", npy_bytes("'<f8'", "(78643200,)"))}
READERS = {"own": read, "bomb.pt": load_tensors, "bomb.npz": load_arrays}


@pytest.mark.parametrize("reader", ["own", "run"])
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_not_unpacked(tmp_path, monkeypatch, name, reader):
    path = tmp_path / name
    path.write_bytes(BOMBS[name]())
    for module in (np, torch):
        monkeypatch.setattr(module, "load", lambda *args, **kwargs: pytest.fail("unpacked"))
    with pytest.raises(DataError, match=r"compressed bytes would unpack to 6291[0-9]{5}, more than 100 times"):
        READERS[name if reader == "run" else "own"](path)


@pytest.mark.parametrize(
    ("mib", "padding"),
    [pytest.param(200, 0, id="not much"), pytest.param(300, 4 << 20, id="in proportion")],
)
def test_what_is_no_bomb(mib, padding):
    """Well compressed, but either not much, or of a file that is not small."""
    check_unpacked(io.BytesIO(zip_bomb("x", b"", mib, [("y", bytes(padding))])))


@pytest.mark.parametrize("message", [None, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"])
def test_too_little_memory_is_no_damage(tmp_path, monkeypatch, message):
    def load(*args, **kwargs):
        raise MemoryError if message is None else RuntimeError(message)

    torch.save([1], tmp_path / "x.pt")
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        load_tensors(tmp_path / "x.pt")


def test_a_file_that_cannot_be_opened_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "x.pt")


def test_the_cause_is_kept(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"x")
    with pytest.raises(DataError, match=r"x\.pt must ") as caught:
        read(tmp_path / "x.pt")
    assert caught.value.__cause__ not in (None, caught.value)


@pytest.mark.parametrize(
    ("name", "ours"), [("x.pt", "check_unpacked"), ("x.npz", "check_unpacked"), ("x.npz", "_check_size")]
)
def test_a_fault_of_our_own_is_no_damage(tmp_path, monkeypatch, name, ours):
    torch.save([1], tmp_path / "x.pt")
    np.savez(tmp_path / "x.npz", x=1)
    monkeypatch.setattr(f"lds._read.{ours}", lambda *args: args[0].no_such_name)
    with pytest.raises(AttributeError, match="no_such_name"):
        READERS[f"bomb.{name[2:]}"](tmp_path / name)


def test_the_reason_is_no_advice_to_run_code(tmp_path):
    torch.save([pytest.fixture], tmp_path / "x.pt")
    with pytest.raises(DataError, match=r"^Unsupported global: GLOBAL \S+ was not an allowed global by default$"):
        load_tensors(tmp_path / "x.pt")


NESTED = """
base: &base {k: 20, C: 1.0, metric: cosine, other: {k: 1}}
digits: &digits {<<: *base, k: 10, scale: none}
run: {<<: *digits, C: 3.0}
both: {<<: [*digits, *base], scale: unit}
turned: {<<: [*base, *digits]}
"""


def test_merged_mappings_yield_to_what_stands_there():
    """Also through several, and with names of one letter, which PyYAML 6.0.4 takes from the source."""
    found = parse_yaml(NESTED)
    assert found["digits"] == {"k": 10, "C": 1.0, "metric": "cosine", "other": {"k": 1}, "scale": "none"}
    assert found["run"] == {**found["digits"], "C": 3.0}
    assert found["both"] == {**found["digits"], "scale": "unit"}
    assert found["turned"] == {**found["base"], "scale": "none"}
    assert parse_yaml("") is None


@pytest.mark.parametrize("text", ["a: {<<: 3}", "a: {<<: [{b: 1}, 3]}"])
def test_what_cannot_be_merged_is_refused(text):
    with pytest.raises(DataError, match="<< in line 1 must name a mapping, or a list of mappings"):
        parse_yaml(text)
