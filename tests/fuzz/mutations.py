"""Damage to the content of a file: blind, or in the parts that zip archives, pickles, arrays and texts are made of."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from random import Random

NUMBERS = [
    "0",
    "-1",
    "1e999",
    "-0.0",
    "nan",
    ".nan",
    ".inf",
    "NaN",
    "Infinity",
    "1.5",
    str(2**31),
    str(2**63),
    "1" * 5000,
]
TOKENS = [*NUMBERS, "null", "~", "true", "[]", "{}", "[[", '""', '"\\ud800"', "'", "\x00", "!!python/name:os.system",
"&a",
          "*a", "<<: x", "2001-99-99", "!!int x", "!!binary x", "? ", "wine", "../x", "lds", ",", "\n", "\t", "é",
          "：", "٣",
          "[" * 400, '{"a":' * 400]  # fmt: skip
INTEGERS = [0, 1, -1, 255, 256, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1]
SHAPES = [
    "(1000000000000,)",
    "(1000000, 1000000)",
    "()",
    "(0,)",
    "(-1,)",
    "(2, -3)",
    "(4, 3)",
    "(True,)",
    "(9" + "0" * 60 + ",)",
]
KINDS = ["<f8", ">f4", "<f2", "<c16", "|b1", "|u1", "<u8", "<U3", ">U2", "|S4", "|O", "<M8[D]", "|V8", "<f16", "", "x"]


def mutate(content: bytes, random: Random, *, guarded: str | None = None) -> bytes:
    """Damage a content in one to three places.

    Args:
        content: the content.
        random: the generator.
        guarded: as for a target: leave out what its sums cannot tell.
    """
    for _ in range(random.choice([1, 1, 2, 3])):
        ways = _BLIND if guarded == "blind" else _ways(content)
        # Whole lines may be taken out of a ledger, and its end is lost when a write is cut off.
        ways = [way for way in ways if guarded != "lines" or way not in (lines, cut)]
        content = random.choice(ways)(content, random)
    return content


def _ways(content: bytes) -> list:
    blind = _BLIND
    if content.startswith(b"PK"):
        return [*blind, member, member, member, member, member]
    if content.startswith(b"\x93NUMPY"):
        return [*blind, header, header, header]
    if content.startswith(b"\x80"):
        return [*blind, opcode, opcode, opcode]
    return [*blind, token, token, token, lines, number, number]


def flip(content: bytes, random: Random) -> bytes:
    """Flip one bit."""
    changed = bytearray(content)
    if changed:
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def overwrite(content: bytes, random: Random) -> bytes:
    """Put random bytes over a part."""
    begin = random.randrange(len(content) + 1)
    return content[:begin] + random.randbytes(random.choice([1, 4, 40])) + content[begin + 4 :]


def cut(content: bytes, random: Random) -> bytes:
    """Drop what follows a place, or a part in the middle."""
    begin, length = random.randrange(len(content) + 1), random.choice([1, 8, len(content)])
    return content[:begin] + content[begin + length :]


def insert(content: bytes, random: Random) -> bytes:
    """Repeat a part somewhere else."""
    begin, place = random.randrange(len(content) + 1), random.randrange(len(content) + 1)
    return content[:place] + content[begin : begin + random.choice([1, 16, 300])] + content[place:]


def swap(content: bytes, random: Random) -> bytes:
    """Exchange two bytes."""
    changed = bytearray(content)
    if changed:
        i, j = random.randrange(len(changed)), random.randrange(len(changed))
        changed[i], changed[j] = changed[j], changed[i]
    return bytes(changed)


_BLIND = [flip, overwrite, cut, insert, swap]


def token(content: bytes, random: Random) -> bytes:
    """Put a word that means something to some parser in place of a word, or between two."""
    words = [match.span() for match in re.finditer(rb"[^\s,:\[\]{}\"]+", content)]
    begin, end = random.choice(words) if words and random.random() < 0.8 else (random.randrange(len(content) + 1),) * 2
    return content[:begin] + random.choice(TOKENS).encode("utf-8", "surrogatepass") + content[end:]


def number(content: bytes, random: Random) -> bytes:
    """Put another number, or no number, in place of one."""
    found = [match.span() for match in re.finditer(rb"-?\d+(\.\d+)?", content)]
    if not found:
        return token(content, random)
    begin, end = random.choice(found)
    return content[:begin] + random.choice([*NUMBERS, '"x"', "null", "[1]", "{}"]).encode() + content[end:]


def lines(content: bytes, random: Random) -> bytes:
    """Drop, repeat or exchange lines."""
    parts = content.split(b"\n")
    i, j = random.randrange(len(parts)), random.randrange(len(parts))
    parts[i], parts[j] = random.choice([(parts[j], parts[i]), (parts[i], parts[i]), (b"", parts[j])])
    return b"\n".join(parts)


def opcode(content: bytes, random: Random) -> bytes:
    """Change the number that an operation of a pickle pushes, or exchange two operations."""
    places = []
    try:
        for operation, argument, place in pickletools.genops(content):
            places.append((operation.name, argument, place))
    except Exception:  # What an earlier mutation left need be no pickle.
        pass
    if len(places) < 3:
        return flip(content, random)
    ends = [place for _, _, place in places[1:]] + [len(content)]
    index = random.randrange(1, len(places) - 1)
    numbers = [i for i, (name, _, _) in enumerate(places) if name in ("BININT", "BININT1", "BININT2", "LONG1")]
    if numbers and random.random() < 0.7:
        index = random.choice(numbers)
        value = random.choice(INTEGERS).to_bytes(8, "little", signed=True)
        return content[: places[index][2]] + b"\x8a\x08" + value + content[ends[index] :]
    begin, end = places[index][2], ends[index]
    other = random.randrange(1, len(places) - 1)
    replacement = random.choice([b"", b"N", b"\x88", b"]", b"}", b")", content[places[other][2] : ends[other]]])
    return content[:begin] + replacement + content[end:]


def header(content: bytes, random: Random) -> bytes:
    """Change what the header of a .npy file declares."""
    size = int.from_bytes(content[8:10], "little")
    text = content[10 : 10 + size].decode("latin1")
    way = random.randrange(3)
    if way == 0:
        text = re.sub(r"'shape': \([^)]*\)", lambda _: f"'shape': {random.choice(SHAPES)}", text)
    elif way == 1:
        text = re.sub(r"'descr': '[^']*'", lambda _: f"'descr': {random.choice(KINDS)!r}", text)
    else:
        text = token(text.encode("latin1"), random).decode("latin1")
    encoded = text.rstrip().encode("latin1")[:60000] + b"\n"
    return content[:8] + len(encoded).to_bytes(2, "little") + encoded + content[10 + size :]


def member(content: bytes, random: Random) -> bytes:
    """Mutate a member of a zip archive, with the right checksum, or rename, drop or repeat it."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # What an earlier mutation left need be no archive.
        return flip(content, random)
    if not members:
        return flip(content, random)
    weights = [8 if name.endswith("data.pkl") else 1 for name, _ in members]
    index = random.choices(range(len(members)), weights)[0]
    name, part = members[index]
    way = random.randrange(10)
    if way == 0:
        del members[index]
    elif way == 1:
        members[index] = (random.choice([n for n, _ in members]) + random.choice(["", "x", ".npy"]), part)
    elif way == 2:
        members[index] = (name, random.choice([p for _, p in members]))
    else:
        members[index] = (name, random.choice(_ways(part))(part, random))
    return archive_of(members, random.choice([zipfile.ZIP_STORED] * 8 + [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]))


def archive_of(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive with these members; names may come twice."""
    import warnings

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            for name, part in members:
                archive.writestr(name, part)
    return buffer.getvalue()
