"""The memory that there is, so that what cannot fit is refused before it is taken."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from lds.errors import InputError

# Of a container: files of version 2 and version 1 of control groups.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def _room() -> int:
    """Return the bytes of memory of this machine, or of its container or process if that has less.

    There is no bound where nobody tells.
    """
    room = sys.maxsize
    if hasattr(os, "sysconf") and {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(ImportError):  # Windows has no such limits.
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        room = room if limit == resource.RLIM_INFINITY else min(room, limit)
    for path in _LIMITS:
        try:
            room = min(room, int(Path(path).read_text()))
        except (OSError, ValueError):  # No such group, or "max".
            continue
    return room


# Compared where something large is about to be made: what takes more than all memory there is can only fail.
ROOM = _room()


def too_large(what: str, needed: int, advice: str) -> InputError:
    """Return what to raise where something cannot fit.

    Args:
        what: what needs the memory, with the numbers that the sum is made of.
        needed: the bytes.
        advice: what to do.
    """
    return InputError(f"{what} must fit into memory, but need {_size(needed)} of {_size(ROOM)}; {advice}")


def _size(number: int) -> str:
    # Ten digits of a gigabyte are enough, and no float holds what an integer may be.
    return f"{number // 10**7 / 100:,.2f} GB" if number < 10**20 else f"more than {10**11:,} GB"
