"""Memory that one step frees stays with the process for the next."""

from __future__ import annotations

from functools import cache

import torch

# The largest chunk that glibc takes as a hint, less its own bookkeeping.
_HINT = 2**25 - 2**16


@cache
def keep_freed_memory() -> None:
    """Make glibc keep up to 64 MiB of freed memory at hand; once a process, and without effect elsewhere.

    A step allocates a few MiB and frees them again. As long as a process has freed no large chunk, glibc hands them
    back to the system every time, and a tenth of a sweep goes into page faults. It learns from the largest chunk freed
    so far (mallopt(3), M_MMAP_THRESHOLD): this one is never touched, so it takes no memory itself.
    """
    torch.empty(_HINT, dtype=torch.uint8)
