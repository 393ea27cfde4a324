"""How many threads compute: all that torch was given, and one of them where a second costs more than it gains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

# Multiplications of one product with the weights below which torch computes on one thread: waking a second one up in
# many short operations takes longer than it saves. On two cores both were as fast at 4 million, and two faster at 8.
SMALL = 1 << 22

_GIVEN: ContextVar[int | None] = ContextVar("_GIVEN", default=None)


def threads() -> int:
    """Return the number of threads that this process was given."""
    return _GIVEN.get() or torch.get_num_threads()


@contextmanager
def one_where_small(multiplications: int) -> Iterator[None]:
    """Have torch compute small steps on one thread; the compiled code of this package keeps all that there are.

    Args:
        multiplications: of the largest product of a step.
    """
    before = torch.get_num_threads()
    if before == 1 or multiplications >= SMALL:
        yield
        return
    token = _GIVEN.set(before)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _GIVEN.reset(token)
        torch.set_num_threads(before)
