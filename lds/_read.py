"""What files hold, read so that damage and malice end in one error: no code is run, and memory stays in proportion."""

from __future__ import annotations

import errno
import io
import json
import os
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lds.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import yaml

    Arrays = dict[str, npt.NDArray[np.generic]]

# Of a YAML file, its aliases written out: a sweep of thousands of runs has some hundred.
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

    try:
        node = yaml.compose(text, yaml.SafeLoader)
        _count(node, {})
        return yaml.safe_load(text)
    except DataError:
        raise
    # PyYAML's documentation names YAMLError alone; dates, numbers and depth raise others.
    except Exception as error:
        raise DataError(reason(error)) from error


def load_tensors(path: Path, map_location: str | None = None) -> Any:
    """Return what torch.save wrote to a file: numbers, texts, tensors, and lists and dicts of them.

    Raises:
        DataError: the file is damaged, or holds anything else; the message is the reason alone.
        OSError: the file cannot be read, or memory is too small for it.
    """
    import torch

    try:
        # All at once: what fails from here on is damage, and no disk.
        file = io.BytesIO(path.read_bytes())
        # Not the format of torch < 1.6: nothing guards it against damage.
        if not zipfile.is_zipfile(file):
            raise DataError("it is not what torch.save writes")
        check_unpacked(file)
        file.seek(0)
        with checked_sparse():
            return torch.load(file, map_location=map_location, weights_only=True)
    except DataError:
        raise
    # torch's documentation names no exceptions: a damaged file raises many, in zip, pickle or tensor code.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error
        # Without torch's advice on how to run the code of such a file.
        text = str(error).rpartition("WeightsUnpickler error: ")[2].partition(". Please use")[0]
        raise DataError(reason(Exception(text) if text else error)) from error


def checked_sparse() -> AbstractContextManager[Any]:
    """Have torch.load refuse sparse tensors whose indices lie outside of them: torch would follow them."""
    import torch

    return torch.sparse.check_sparse_tensor_invariants(enable=True)  # type: ignore[no-untyped-call]


def check_unpacked(file: BinaryIO) -> None:
    """Refuse a zip archive that declares to be far larger unpacked than it is, before any of it is unpacked.

    Raises:
        DataError: it is; the message is the reason alone.
    """
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    size = file.seek(0, os.SEEK_END)
    if unpacked > _UNPACKED_BYTES and unpacked > _UNPACKED_RATIO * size:
        raise DataError(
            f"{size} compressed bytes would unpack to {unpacked}, more than {_UNPACKED_RATIO} times as many"
        )


def load_arrays(path: Path) -> Arrays:
    """Return the arrays that numpy.savez wrote to a file.

    Raises:
        DataError: the file is damaged, or holds anything else, such as Python objects; the message is the reason alone.
        OSError: the file cannot be opened.
    """
    import numpy as np

    with path.open("rb") as file:
        try:
            check_unpacked(file)
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    _check_size(archive, member)
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        # numpy's documentation names few exceptions: a damaged file raises many, in zip, header or array code.
        except Exception as error:
            raise DataError(reason(error)) from error


def reason(error: BaseException) -> str:
    """Return the message of an error in one line of at most 200 characters."""
    text = str(error)[:1000] or type(error).__name__
    return " ".join(text.split())[:200]


def _check_size(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Refuse an array that declares another size than it has: numpy takes the memory before it looks."""
    import numpy as np

    if not member.filename.endswith(".npy"):
        raise DataError(f"{member.filename[:80]} is no array")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise DataError(f"{member.filename} has the unknown version {version}")
        # The encoding, which differs between versions 2 and 3, matters to names of fields only.
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        size = dtype.itemsize
        for length in shape:
            size *= length
        there = member.file_size - file.tell()
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
