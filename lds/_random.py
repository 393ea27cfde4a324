"""Seeded randomness that leaves the caller's generators alone.

Invariant: the numbers drawn inside a scope are a function of (seed, step, stream) only, so that a step that is
run again with the same three draws the same dropout masks, samples and minibatches.
"""

from __future__ import annotations

import _random
import ctypes
import random
import sys
import threading
from typing import Any

import numpy as np
import torch

# Streams keep draws apart: what Φ is shown in a step and what it draws itself, the same for a sweep that resamples and
# for the outer objective, initial values, evaluation, the spot check of a step, what a dataset draws for a batch, and
# the order of batches.
DRAW, STEP, FRESH_DRAW, FRESH_STEP, OUTER_DRAW, OUTER_STEP, INIT, EVALUATE, SPOT, BATCH, ORDER = range(11)

_MASK = (1 << 64) - 1


def mix(*numbers: int) -> int:
    """Return a 63-bit seed that depends on all numbers and their order (splitmix64)."""
    h = 0
    for number in numbers:
        h = (h + (int(number) & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & _MASK
        h ^= h >> 31
    return h >> 1


def cuda_devices() -> frozenset[int]:
    """Return the indices of all CUDA devices once this process uses any: a function may draw on one of its own.

    A function whose first call is also the first use of CUDA comes too late: what it drew in that call is not seeded.
    """
    return frozenset(range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0))  # type: ignore[no-untyped-call]


def reseed(*numbers: int, cuda: frozenset[int] = frozenset()) -> None:
    """Seed torch, numpy and `random` from the numbers; call it inside `forked` only."""
    seed = mix(*numbers)
    # The generators are seeded one by one: torch.manual_seed also walks every other backend, at ten times the cost.
    torch.default_generator.manual_seed(seed)
    for device in cuda:
        torch.cuda.default_generators[device].manual_seed(seed)
    _PYTHON.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)


# The generators belong to the whole process: threads that seed them take turns.
_TURN = threading.RLock()


# A Mersenne Twister: 624 numbers of 32 bits, and the place of the next one. Python and numpy copy one number after the
# other, which takes as long as some steps of a small problem; so their memory is copied at once.
_TWISTER = 4 * 625


class _PythonState:
    """Seeds, saves and restores the generator of `random`.

    Where its memory lies is not promised by Python: it is looked for behind the object's head, and taken where all of
    its numbers are found there.
    """

    def __init__(self) -> None:
        self._generator: Any = getattr(random.seed, "__self__", None)
        self._address = 0
        begin, size = object.__basicsize__, random.Random.__basicsize__
        if sys.implementation.name == "cpython" and type(self._generator) is random.Random and size >= begin + _TWISTER:
            place, *numbers = np.frombuffer(ctypes.string_at(id(self._generator) + begin, _TWISTER), np.uint32).tolist()
            if (*numbers, place) == random.getstate()[1]:
                self._address = id(self._generator) + begin

    def seed(self, seed: int) -> None:
        """Do what `random.seed` does with an integer, without its detour."""
        if not self._address:
            random.seed(seed)
        else:
            _random.Random.seed(self._generator, seed)
            self._generator.gauss_next = None

    def save(self) -> Any:
        """Return the state."""
        if not self._address:
            return random.getstate()
        return ctypes.string_at(self._address, _TWISTER), self._generator.gauss_next

    def restore(self, state: Any) -> None:
        """Return to a state that was saved."""
        if not self._address:
            random.setstate(state)
        else:
            memory, self._generator.gauss_next = state
            ctypes.memmove(self._address, memory, _TWISTER)


class _NumpyState:
    """Saves and restores numpy's global generator, to whose memory `BitGenerator.ctypes` points.

    What is not in there is a normal number that `randn` has in reserve; so its memory is copied only where nothing was
    drawn since it was seeded, as where nobody uses it.
    """

    # The place of the next number, as long as nothing was drawn: by `seed`, and of a generator that nobody seeded.
    FRESH = (624, 623)

    def __init__(self) -> None:
        self._plain = b""  # The memory when it was last known that there is no number in reserve.

    def save(self) -> bytes | dict[str, Any]:
        """Return the state."""
        generator = _bit_generator()
        if not isinstance(generator, np.random.MT19937):
            return self._whole()
        memory = ctypes.string_at(generator.ctypes.state_address, _TWISTER)
        if memory == self._plain:
            return memory
        whole = self._whole()
        if whole["has_gauss"]:
            return whole
        if int.from_bytes(memory[-4:], sys.byteorder) in self.FRESH:
            self._plain = memory
        return whole

    def restore(self, state: bytes | dict[str, Any]) -> None:
        """Return to a state that was saved."""
        if isinstance(state, bytes):
            np.random.seed(0)  # Leaves no number in reserve.
            ctypes.memmove(_bit_generator().ctypes.state_address, state, _TWISTER)
        else:
            np.random.set_state(state)

    def _whole(self) -> dict[str, Any]:
        return dict(np.random.get_state(legacy=False))


def _bit_generator() -> Any:
    return np.random.get_bit_generator()  # type: ignore[attr-defined]


_PYTHON, _NUMPY = _PythonState(), _NumpyState()


class forked:  # noqa: N801
    """A scope that restores the states of all generators on leaving; other threads wait outside meanwhile."""

    def __init__(self, cuda: frozenset[int] = frozenset()) -> None:
        self._cuda = cuda

    def __enter__(self) -> None:
        own = isinstance(threading.current_thread(), threading._DummyThread)
        self._taken = _TURN.acquire(blocking=not own)
        try:
            self._torch = torch.default_generator.get_state()
            self._devices = {device: torch.cuda.get_rng_state(device) for device in self._cuda}
            self._numpy, self._python = _NUMPY.save(), _PYTHON.save()
        except BaseException:
            self._release()
            raise

    def __exit__(self, *error: object) -> None:
        try:
            torch.default_generator.set_state(self._torch)
            for device, state in self._devices.items():
                torch.cuda.set_rng_state(state, device)
            _PYTHON.restore(self._python)
            _NUMPY.restore(self._numpy)
        finally:
            self._release()

    def _release(self) -> None:
        if self._taken:
            _TURN.release()
