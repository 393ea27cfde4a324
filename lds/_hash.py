"""Random numbers by place: a hash of (key, counter), so that any subset of them can be drawn, in any order."""

from __future__ import annotations

import torch
from torch import Tensor

# splitmix64, in the two's complement of int64, which torch has on every device.
_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
# Few enough that all passes over them stay in the cache.
_CHUNK = 1 << 15


def draw_key() -> int:
    """Return a key of 63 bits, drawn with torch's default generator of the CPU: the same numbers on every device."""
    return int(torch.randint((1 << 63) - 1, ()))


def uniform(key: int, counters: Tensor) -> Tensor:
    r"""Return for every counter a number in [0, 1), which depends on the key and on that counter alone.

    Steele, Lea, Flood, `Fast Splittable Pseudorandom Number Generators <https://doi.org/10.1145/2660193.2660195>`_
    (OOPSLA 2014): the c-th number of the generator splitmix64 that starts at the key, of 53 bits. It has no state:
    a subset of the counters has the numbers that it has among all.

    Args:
        key: see `draw_key`; numbers of two keys are independent.
        counters: integers, of any shape.

    Returns:
        float64, of the shape of the counters.
    """
    result = torch.empty(counters.shape, dtype=torch.float64, device=counters.device)
    chunks = (torch.split(x.reshape(-1), _CHUNK) for x in (counters, result))
    for part, found in zip(*chunks, strict=True):
        z = part.to(torch.int64, copy=True).mul_(_STEP).add_(key)
        z = z.bitwise_xor_(_shifted(z, 30)).mul_(_FIRST)
        z = z.bitwise_xor_(_shifted(z, 27)).mul_(_SECOND)
        z = z.bitwise_xor_(_shifted(z, 31))
        found.copy_(_shifted(z, 11)).mul_(2.0**-53)
    return result


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Return a logical shift to the right; that of torch copies the sign."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)
