"""What a target is, and contents that are hostile to any reader."""

from __future__ import annotations

import io
import os
import pickle
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.fuzz.mutations import archive_of

# A pickle whose reading runs code creates this file.
TRAP = Path(tempfile.gettempdir()) / f"lds-fuzz-{os.getpid()}"
Contents = list[tuple[str, bytes]]


@dataclass
class Target:
    """One reader.

    Attributes:
        name: what to call it.
        files: the files to damage, below the folder.
        make: writes good files into a folder.
        read: reads them.
        contents: hostile contents, by file.
        warms: whether to read the good files before the first case.
        guarded: whose damage must be refused or harmless: "all" files are tied by sums, so that any change counts;
            "lines" of a ledger have sums each; "blind" ones have checksums, which a change of an archive's members
            renews; None has neither.
        expected: the sum of what the good files are read as.
    """

    name: str
    files: tuple[str, ...]
    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    contents: Callable[[Path], Contents] = lambda _: []
    warms: bool = True
    guarded: str | None = None
    expected: str = ""

    def warm(self, folder: Path) -> None:
        """Read the good files once."""
        if self.warms:
            self.read(folder)

    def hostile(self, folder: Path) -> Contents:
        """The hostile contents, made once."""
        if not hasattr(self, "_made"):
            self._made = self.contents(folder)
        return self._made


class Trap:
    """An object whose unpickling runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (TRAP,)


def saved_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def npz_bytes(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy_bytes(descr: str, shape: str, body: bytes = b"") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


def zip_bomb(member: str, head: bytes, mib: int = 600, rest: list[tuple[str, bytes]] | None = None) -> bytes:
    """A zip archive of some kB whose member is `head` and that many MiB of zeros, ahead of the rest.

    They fit the address space that a case may take: only a look at what the archive declares refuses them.
    """
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(1 << 20)
    body = compressor.compress(head) + compressor.flush(zlib.Z_FULL_FLUSH)
    block = compressor.compress(zeros) + compressor.flush(zlib.Z_FULL_FLUSH)
    body += block * mib + compressor.flush()
    info = zipfile.ZipInfo(member)
    info.compress_type = zipfile.ZIP_DEFLATED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, b"")
        # What a member of that size would have written.
        info.file_size, info.compress_size, info.CRC = len(head) + (mib << 20), len(body), 1
        archive.fp.seek(0)
        archive.fp.write(info.FileHeader(False) + body)
        archive.start_dir = archive.fp.tell()
        for name, part in rest or []:
            archive.writestr(name, part)
    return buffer.getvalue()


def tensor_bomb() -> bytes:
    """A bomb that torch.load unpacks."""
    with zipfile.ZipFile(io.BytesIO(saved_bytes({}))) as archive:
        members = [(i.filename, archive.read(i)) for i in archive.infolist() if i.filename != "archive/data.pkl"]
    return zip_bomb("archive/data.pkl", b"\x80\x02", rest=members)


def _aliases(depth: int = 40) -> str:
    """A YAML list that is small as written and too large to write out."""
    lines = ["&a0 [wine, wine]"] + [f"&a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, depth)]
    return "".join(f"- {line}\n" for line in lines)


def yaml_bombs(field: str) -> list[bytes]:
    indented = "".join(f"  {line}\n" for line in _aliases().splitlines())
    return [
        _aliases().encode(),
        f"{field}:\n{indented}".encode(),
        f"name: a\nruns:\n{indented}".encode(),
        f"name: a\nruns:\n- dataset:\n{indented}".encode(),
        ("[" * 500 + "]" * 500).encode(),
        ("{a: " * 500).encode(),
        ("- " * 500 + "x").encode(),
        b"&a [*a]\n", b"dataset: &a [*a]\n", b"&a {dataset: *a}\n", b"dataset: 2001-99-99\n", b"dataset: !!int x\n",
        b"? [a]\n: b\n", b"? {a: b}\n: c\n", b"dataset: !!python/object/apply:os.system [x]\n", b"dataset: \xff\n",
        b"dataset: !!timestamp x\n", b"dataset: !!float x\n", b"dataset: !!bool x\n", b"seed: " + b"1" * 5000 + b"\n",
        b"dataset: wine\nseed: 0b\n", b"dataset: wine\nseed: 1__\n", b"dataset: wine\nretain: 1:99\n", b"1: 2\n",
        b"null: 1\n",
    ]  # fmt: skip


def huge_npz(rest: dict[str, Any], name: str) -> Contents:
    """Archives of `rest` and an array `name` whose header declares more than there is."""
    heads = [
        npy_bytes("'<f8'", shape)
        for shape in ("(1000000000000,)", "(1000000, 1000000)", "(9" + "9" * 40 + ",)", "(2, -2)")
    ]
    heads += [
        npy_bytes("'<U2000000000'", "(48,)"),
        npy_bytes("'|V0'", "(10000000000,)"),
        npy_bytes("'<f8'", "(" * 3000),
        npy_bytes("[('a', '|O')]", "()"),
    ]
    heads += [
        npy_bytes("'|O'", "(1,)", pickle.dumps(Trap())),
        b"\x93NUMPY\x09\x00",
        b"",
        pickle.dumps(Trap()),
        npy_bytes("'<f8'", "(400,)", b"x"),
    ]
    with zipfile.ZipFile(io.BytesIO(npz_bytes(**rest))) as archive:
        members = [(i.filename, archive.read(i)) for i in archive.infolist() if i.filename != f"{name}.npy"]
    made = [archive_of([*members, (f"{name}.npy", head)]) for head in heads]
    made += [
        archive_of([*members, (name, b"plain")]),
        archive_of([]),
        b"",
        heads[0],
        npy_bytes("'|O'", "(1,)", pickle.dumps(Trap())),
    ]
    made += [pickle.dumps(Trap()), zip_bomb(f"{name}.npy", npy_bytes("'<f8'", "(78643200,)"))]
    made += [
        zip_bomb(f"{name}.npy", npy_bytes("'<f8'", "(10,)")),
        npz_bytes(**rest, extra=np.array([Trap()], dtype=object)),
    ]
    return [("", content) for content in made]
