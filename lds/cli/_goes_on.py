"""Commands that go on where they were when they are started again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from lds._signals import Interrupted


@contextmanager
def goes_on(out: Path) -> Iterator[None]:
    """Have SIGTERM end things as an interrupt does, so that what is open is closed, and say how to go on.

    Args:
        out: the folder in which the command goes on.

    Raises:
        Interrupted: SIGINT or SIGTERM came.
    """
    number: int = signal.SIGINT

    def stop(received: int, frame: FrameType | None) -> NoReturn:
        # Noted aside: an exception of a class of its own would not come through Ray as it is.
        nonlocal number
        number = received
        raise KeyboardInterrupt

    before: Any = signal.getsignal(signal.SIGTERM)
    if before != signal.SIG_IGN:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if isinstance(interrupt, Interrupted):
            number = interrupt.number
        raise Interrupted(number, f"the same command goes on with what is in {out}") from None
    finally:
        signal.signal(signal.SIGTERM, before)
