"""What files hold, read so that damage and malice end in one error: no code is run, and memory stays in proportion.

`parse_…` take a text and `load_…` a binary file; their messages are the reason alone. `read_…` take a text file; their
messages name file and line.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from lds._files import open_file, read_file
from lds.errors import DataError, LDSError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import yaml
    from torch import Tensor

    Arrays = dict[str, npt.NDArray[np.generic]]

# In what torch.load says: how its check is switched off, and where to ask for that.
_ADVICE = re.compile("weights_only|safe_globals|trusted|issue")
# Of a figure in a file: its square, and sums of these, are finite. Of a count: every integer up to it is a float.
_MOST = 1e100
_MOST_COUNTED = 2**53
# Of a YAML file, its aliases written out: a grid of thousands of runs has some hundred.
_YAML_NODES = 100_000
_YAML_DIGITS = 100
# Of a zip archive, unpacked: where both are exceeded, it is a small file that would fill the memory.
_UNPACKED_BYTES = 256 << 20
_UNPACKED_RATIO = 100


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text stands for.

    Raises:
        DataError: it is no JSON; the message is the reason alone.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # A number of more than 4300 digits is a ValueError too.
        raise DataError(reason(error)) from error


def parse_yaml(text: str) -> Any:
    """Return the plain values that a YAML text stands for.

    Raises:
        DataError: it is no YAML, names a key twice in a mapping, or is too large with its aliases written out; the
            message is the reason alone.
    """
    import yaml  # The engine reads no YAML.

    with _damage():  # PyYAML's documentation names YAMLError alone; dates, numbers and depth raise others.
        node = yaml.compose(text, yaml.SafeLoader)
    try:
        _count(node, {})
    except RecursionError as error:
        raise DataError(reason(error)) from error
    _merge(node, set())
    with _damage():
        return None if node is None else yaml.SafeLoader("").construct_document(node)


def goes_beyond(text: str | bytes) -> bool:
    """Tell whether a text begins with a JSON value and goes on after it; one that was cut off does not."""
    decoded = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    try:
        _, end = json.JSONDecoder().raw_decode(decoded)
    except (ValueError, RecursionError):
        return False
    return bool(decoded[end:])


class Line(NamedTuple):
    """One line of a file.

    Attributes:
        where: file and line, for messages.
        values: what the line holds.
    """

    where: str
    values: Mapping[str, Any]


class Lines(NamedTuple):
    """The lines of a JSONL file.

    Attributes:
        whole: the whole lines.
        torn: whether the last line has been written in part only.
    """

    whole: list[Line]
    torn: bool


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return read_file(path).decode("utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the file and its rights") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} must be UTF-8 text, but byte {error.start} is not; write the file again") from error


def read_json(path: Path) -> Mapping[str, Any]:
    """Return the object of a JSON file.

    Raises:
        DataError: it cannot be read, or is no JSON object; the message names file and line.
    """
    text = read_text(path)
    try:
        values = parse_json(text)
    except DataError as error:
        line, why = _place(error)
        raise DataError(f"{path}:{line} must be JSON, but {why}; write the file again") from error
    return _mapping(values, str(path))


def read_jsonl(path: Path) -> Lines:
    """Return the objects of a JSONL file; a last line without its end may be cut off.

    Raises:
        DataError: it cannot be read, or a whole line is no JSON object; the message names file and line.
    """
    lines = read_text(path).split("\n")
    whole: list[Line] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            values = parse_json(line)
        except DataError as error:
            if number == len(lines) and not goes_beyond(line):
                return Lines(whole, torn=True)
            raise DataError(f"{where} must be a JSON object, but {_place(error)[1]}; mend or drop the line") from error
        whole.append(Line(where, _mapping(values, where)))
    return Lines(whole, torn=False)


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Return the mapping of a YAML file.

    Raises:
        DataError: it cannot be read, or is no YAML mapping; the message names file and line.
    """
    text = read_text(path)
    try:
        values = parse_yaml(text)
    except DataError as error:
        line, why = _place(error)
        raise DataError(f"{path}:{line} must be YAML, but {why}; write the file again") from error
    return _mapping(values, str(path))


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, float]]:
    """Return the rows of a CSV file as numbers.

    Raises:
        DataError: it cannot be read, lacks a column, or holds what is no number; the message names file and line.
    """
    lines = csv.reader(read_text(path).splitlines())
    try:
        table = [(lines.line_num, line) for line in lines if line]
    except csv.Error as error:
        raise DataError(f"{path}:{lines.line_num} must be CSV, but {error}; write the file again") from error
    header = table[0][1] if table else []
    missing = [name for name in columns if name not in header]
    if missing:
        raise DataError(f"{path}:1 needs the columns {', '.join(columns)}, but lacks {', '.join(missing)}")
    rows: list[dict[str, float]] = []
    for number, cells in table[1:]:
        where = f"{path}:{number}"
        if len(cells) != len(header):
            raise DataError(f"{where} needs {len(header)} cells, as the header has, but holds {len(cells)}")
        values = dict(zip(header, cells, strict=True))
        rows.append({name: number_of(values, name, where) for name in columns})
    return rows


def number_of(values: Mapping[str, Any], name: str, where: str) -> float:
    """Return a field as a number; an empty cell or null is NaN.

    Raises:
        DataError: the field is missing, or no number.
    """
    if name not in values:
        raise DataError(f"{where} needs the field {name}, which is missing")
    value = values[name]
    if value is None or value == "":
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where} needs a number as {name}, but holds {value!r:.80}") from None
    check_figure(number, name, where)
    return number


def check_figure(value: Any, name: str, where: str, *, counted: bool = False) -> None:
    """Refuse a finite number beyond what can be added up, squared and drawn.

    Args:
        value: the number; anything else is none of this check's business.
        name: what to call it in messages.
        where: the place in a file, for messages.
        counted: whether it counts or numbers something, so that it is an index, too.

    Raises:
        DataError: it is beyond.
    """
    most = _MOST_COUNTED if counted else _MOST
    if isinstance(value, int | float) and most < abs(value) < math.inf:
        shown = f"{value:.3g}" if isinstance(value, float) else f"a number of {value.bit_length()} bits"
        raise DataError(
            f"{where} needs a number of at most {float(most):.0e} in size as {name:.80}, but holds {shown}; run again"
        )


def _mapping(values: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(values, dict):
        raise DataError(f"{where} must hold names and values, but holds {type(values).__name__}")
    return {str(name): value for name, value in values.items()}


def _place(error: DataError) -> tuple[int, str]:
    """Return the line in which a text is not what it must be, and the reason without that line."""
    cause = error.__cause__
    if isinstance(cause, json.JSONDecodeError):
        return cause.lineno, f"{cause.msg[0].lower()}{cause.msg[1:]} at column {cause.colno}"
    mark = getattr(cause, "problem_mark", None)
    return 1 if mark is None else mark.line + 1, reason(error)


def load_tensors(path: Path, map_location: str | None = None) -> Any:
    """Return what torch.save wrote to a file of a folder: numbers, texts, tensors, and lists and dicts of them.

    Its checksums are looked at, which torch does not do.

    Raises:
        DataError: the file is damaged, or holds anything else; the message is the reason alone.
        OSError: the file cannot be read, or memory is too small for it.
    """
    import torch

    try:
        # All at once: what fails from here on is damage, and no disk.
        file = io.BytesIO(read_file(path))
    except MemoryError as error:
        raise _no_memory() from error
    with _damage():
        archive = zipfile.is_zipfile(file)
    if not archive:  # Nor the format of torch < 1.6: nothing guards it against damage.
        raise DataError("it is not what torch.save writes")
    check_archive(file)
    with checked_sparse():
        try:
            return torch.load(file, map_location=map_location, weights_only=True)
        # torch's documentation names no exceptions: a damaged file raises many, in zip, pickle or tensor code.
        except Exception as error:
            if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
                raise _no_memory() from error
            raise DataError(without_advice(error)) from error


def without_advice(error: Exception) -> str:
    """Return the reason of torch.load in one line, without its advice on how to run the code of such a file."""
    lines = str(error).rpartition("WeightsUnpickler error: ")[2].splitlines()
    told = [line.partition(". Please use")[0].strip() for line in lines]
    sober = [line for line in told if line and not _ADVICE.search(line)]
    return reason(Exception(sober[0].rstrip("."))) if sober else "it holds what could run code"


def is_plain(tensor: Tensor, *, sparse: bool = False) -> bool:
    """Tell whether a tensor is an ordinary dense one, or a sparse one if that will do, and no larger than its file."""
    import torch

    if tensor.is_meta or tensor.is_quantized or tensor.is_nested:
        return False
    if tensor.layout != torch.strided:
        return sparse
    return tensor.untyped_storage().nbytes() >= tensor.nbytes


def checked_sparse() -> AbstractContextManager[Any]:
    """Have torch.load refuse sparse tensors whose indices lie outside of them: torch would follow them."""
    import torch

    return torch.sparse.check_sparse_tensor_invariants(enable=True)  # type: ignore[no-untyped-call]


def check_archive(file: BinaryIO) -> None:
    """Refuse a zip archive with a member that differs from its checksum: torch does not look at these.

    Raises:
        DataError: there is one, or the archive is no whole one; the message is the reason alone.
    """
    check_unpacked(file)
    with _damage(), zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise DataError(f"{damaged[:80]} in it differs from its checksum")
    file.seek(0)


def check_unpacked(file: BinaryIO) -> None:
    """Refuse a zip archive that declares to be far larger unpacked than it is, before any of it is unpacked.

    Raises:
        DataError: it is; the message is the reason alone.
    """
    with _damage(), zipfile.ZipFile(file) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    size = file.seek(0, os.SEEK_END)
    if unpacked > _UNPACKED_BYTES and unpacked > _UNPACKED_RATIO * size:
        raise DataError(
            f"{size} compressed bytes would unpack to {unpacked}, more than {_UNPACKED_RATIO} times as many"
        )


def load_arrays(path: Path, wanted: Callable[[str], bool] | None = None, *, links: bool = False) -> Arrays:
    """Return the arrays that numpy.savez wrote to a file, or those with a wanted name; numpy looks at their checksums.

    Args:
        path: the file.
        wanted: tells of a name whether to read it; all are read when None.
        links: follow links: for files that a user names, not for those that a folder holds.

    Raises:
        DataError: the file is damaged, or holds anything else, such as Python objects; the message is the reason alone.
        OSError: the file cannot be opened.
    """
    import numpy as np

    with os.fdopen(open_file(path, os.O_RDONLY, links=links), "rb") as file:
        check_unpacked(file)  # So the archive is whole enough to be opened.
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                if wanted is None or wanted(member.filename.removesuffix(".npy")):
                    _check_size(archive, member)
        file.seek(0)
        # numpy's documentation names few exceptions: a damaged file raises many, in zip, header or array code.
        with _damage(), np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files if wanted is None or wanted(name)}


@contextmanager
def _damage() -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into `DataError`; no code of ours belongs inside."""
    try:
        yield
    except Exception as error:
        raise DataError(reason(error)) from error


def _no_memory() -> OSError:
    return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def reason(error: BaseException) -> str:
    """Return the message of an error in one line of at most 200 characters, or 1000 where it is one of ours."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)[:1000] or type(error).__name__
    # Ours begin with a path, and say what is wrong after it.
    return " ".join(text.split())[: 1000 if isinstance(error, LDSError) else 200]


def _check_size(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Refuse an array that declares another size than it has: numpy takes the memory before it looks."""
    import numpy as np

    if not member.filename.endswith(".npy"):
        raise DataError(f"{member.filename[:80]} is no array")
    with _damage(), archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise ValueError(f"{member.filename} has the unknown version {version}")
        # The encoding, which differs between versions 2 and 3, matters to names of fields only.
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        there = member.file_size - file.tell()
    count = math.prod(shape)
    if dtype.itemsize == 0 and count > 0:  # However many: no byte stands for them, and memory would.
        raise DataError(f"{member.filename} declares shape {str(shape)[:80]} of {dtype}, which takes no room in a file")
    size = dtype.itemsize * count
    if not dtype.hasobject and (min(shape, default=0) < 0 or size != there):  # numpy refuses objects itself.
        raise DataError(f"{member.filename} declares shape {str(shape)[:80]} of {dtype}, but holds {there} bytes")


def _count(node: Any, sizes: dict[int, int | None]) -> int:
    """Return the number of nodes below one, aliases written out."""
    import yaml

    if isinstance(node, yaml.ScalarNode) and node.tag.endswith((":int", ":float")) and len(node.value) > _YAML_DIGITS:
        raise DataError(f"the number in line {node.start_mark.line + 1} has {len(node.value)} digits")
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) in sizes:
        if (known := sizes[id(node)]) is None:
            raise DataError(f"the alias of line {node.start_mark.line + 1} holds itself")
        return known
    sizes[id(node)] = None
    if isinstance(node, yaml.MappingNode):
        _refuse_repeated_keys(node)
        children = [part for pair in node.value for part in pair]
    else:
        children = node.value
    total = 1 + sum(_count(child, sizes) for child in children)
    if total > _YAML_NODES:
        raise DataError(f"it has more than {_YAML_NODES} values with its aliases written out")
    sizes[id(node)] = total
    return total


def _merge(node: Any, done: set[int]) -> None:
    """Put what << names into each mapping; its own keys come first, then those of earlier sources.

    PyYAML 6.0.4 tells merged keys apart by where their texts lie in memory. Texts of one letter, such as k, share a
    place, so that a key of a source would stand in for one of the mapping's own.
    """
    import yaml

    if id(node) in done or not isinstance(node, yaml.CollectionNode):
        return
    done.add(id(node))
    if not isinstance(node, yaml.MappingNode):
        for child in node.value:
            _merge(child, done)
        return
    pairs: dict[Any, Any] = {}
    sources: list[Any] = []
    for key, value in node.value:
        _merge(key, done)
        _merge(value, done)
        if key.tag != _MERGE:
            pairs[_name(key)] = key, value
        else:
            sources += value.value if isinstance(value, yaml.SequenceNode) else [value]
    merged: dict[Any, Any] = {}
    for source in reversed(sources):
        if not isinstance(source, yaml.MappingNode):
            raise DataError(f"<< in line {node.start_mark.line + 1} must name a mapping, or a list of mappings")
        merged |= {_name(key): (key, value) for key, value in source.value}
    node.value = [*(merged | pairs).values()]


def _name(key: Any) -> Any:
    """Return what two equal keys have in common."""
    return id(key) if isinstance(key.value, list) else (key.tag, key.value)


_MERGE = "tag:yaml.org,2002:merge"


def _refuse_repeated_keys(node: yaml.MappingNode) -> None:
    """Refuse what yaml.safe_load would drop in silence: all but the last of several values for one key."""
    import yaml

    seen = set()
    for name, _ in node.value:
        if isinstance(name, yaml.ScalarNode):
            if name.value in seen:
                line = node.start_mark.line + 1
                raise DataError(f"the mapping in line {line} must have every key once, but has {name.value[:80]} twice")
            seen.add(name.value)
