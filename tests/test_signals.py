"""SIGINT and SIGTERM, sent by the process to itself."""

import signal
import threading
from pathlib import Path

import pytest

from lds._signals import Interrupted, goes_on, stop_requests, stops_at_once, stops_later

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@BOTH
def test_a_request_is_noted_and_a_second_interrupts(number):
    before = signal.getsignal(number)
    with stop_requests() as request:
        assert request.number is None
        signal.raise_signal(number)
        assert request.number == number
        with pytest.raises(Interrupted, match=f"stopped by {number.name}") as stop:
            signal.raise_signal(number)
    assert (stop.value.number, stop.value.exit_code) == (number, 128 + number)
    assert signal.getsignal(number) == before


@BOTH
def test_at_once(number):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"stopped by {number.name}; try again"), stops_at_once("try again"):
        signal.raise_signal(number)
    assert signal.getsignal(number) == before


@BOTH
def test_later(number):
    done = []

    def work():
        with stops_later():
            signal.raise_signal(number)
            done.append("inside")
        done.append("after")

    with stops_at_once(), pytest.raises(Interrupted):
        work()
    assert done == ["inside"]


@BOTH
def test_a_command_that_goes_on_says_so(number):
    before, closed = signal.getsignal(number), []

    def work():
        with goes_on(Path("out")):
            try:
                signal.raise_signal(number)
            finally:
                closed.append(True)

    with pytest.raises(Interrupted, match=f"{number.name}; the same command goes on with what is in out") as stop:
        work()
    assert (stop.value.number, closed) == (number, [True])
    assert signal.getsignal(number) == before


@BOTH
@pytest.mark.parametrize("handling", [stop_requests, stops_at_once, stops_later])
def test_what_is_ignored_stays_ignored(number, handling):
    """As nohup and shells set it for what runs in the background."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with handling() as request:
            signal.raise_signal(number)
        assert request is None or request.number is None
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_in_another_thread_nothing_is_handled():
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def look():
        with stop_requests():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]
