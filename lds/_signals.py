"""SIGINT and SIGTERM as a request to stop: at once, at the next good moment, or so that the command can go on later."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to stop, and it has come to a good moment for it.

    Args:
        number: the signal.
        hint: how to go on later.
    """

    def __init__(self, number: int, hint: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}" + (f"; {hint}" if hint else ""))
        self.number = number
        self.exit_code = 128 + number


class StopRequest:
    """Whether a signal has come: its number, or None."""

    number: int | None = None


@contextmanager
def stops_at_once(hint: str = "") -> Iterator[None]:
    """Have SIGINT and SIGTERM raise `Interrupted`.

    Args:
        hint: that of `Interrupted`.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted(number, hint)

    with _handled_by(stop):
        yield


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note the first SIGINT or SIGTERM instead of ending there; a second one interrupts at once."""
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        if request.number is not None:
            raise Interrupted(number)
        request.number = number

    with _handled_by(note):
        yield request


@contextmanager
def stops_later() -> Iterator[None]:
    """Have the first SIGINT or SIGTERM act when what is inside is done; a second one interrupts at once."""
    with stop_requests() as request:
        yield
    if request.number is not None:
        signal.raise_signal(request.number)


@contextmanager
def goes_on(out: Path) -> Iterator[None]:
    """Have SIGINT and SIGTERM end what is inside so that it closes what is open, and say how to go on.

    Args:
        out: the folder in which the same command goes on when it is started again.

    Raises:
        Interrupted: SIGINT or SIGTERM came.
    """
    number: int = signal.SIGINT

    def stop(received: int, frame: FrameType | None) -> NoReturn:
        # Noted aside: an exception of a class of its own would not come through Ray as it is.
        nonlocal number
        number = received
        raise KeyboardInterrupt

    try:
        with _handled_by(stop):
            yield
    except KeyboardInterrupt as interrupt:
        if isinstance(interrupt, Interrupted):
            number = interrupt.number
        raise Interrupted(number, f"the same command goes on with what is in {out}") from None


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle SIGINT and SIGTERM, but for one that is ignored, as by nohup or in the background of a shell.

    Outside the main thread, where Python lets nobody handle signals, nothing is handled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            # None: by code outside of Python, which could not be put back.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
