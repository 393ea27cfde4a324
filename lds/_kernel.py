"""Which of two paths θ on all pairs takes: compiled code of this package, or products of torch.

The compiled code, `_native.c`, is built on installation where there is a compiler. It imports nothing of Python and is
called through ctypes, which lets other threads run meanwhile.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_double, c_float, c_int, c_int32, c_int64, c_uint8, c_uint64
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

from lds.errors import InputError

Kernel: TypeAlias = Literal["native", "torch"]

VARIABLE = "LDS_KERNEL"
_INTERFACE = 2

_BYTES, _FLOATS, _DOUBLES = (ctypes.POINTER(kind) for kind in (c_uint8, c_float, c_double))
_INTS, _SHORTS = ctypes.POINTER(c_int64), ctypes.POINTER(c_int32)
_ARRAYS: Any = ctypes.POINTER(_FLOATS)
# Arguments as in `_native.c`, and results.
_FUNCTIONS: dict[str, tuple[list[Any], Any]] = {
    "lds_form": ([], c_int),
    "lds_largest": ([_FLOATS, c_int64, _INTS], c_float),
    "lds_pack": (
        [c_int64, _ARRAYS, _ARRAYS, _INTS, *[c_int64] * 5, _INTS, _SHORTS, _FLOATS, _FLOATS],
        c_int64,
    ),
    "lds_step": (
        [
            *[c_int, c_int64, c_int64, _FLOATS, _FLOATS, c_int64, c_int64, _INTS, _SHORTS, _FLOATS, _FLOATS],
            *[c_float, c_float, _FLOATS, _BYTES, _DOUBLES, _INTS],
        ],
        None,
    ),
    "lds_large": ([_FLOATS, c_int64, c_float, _BYTES, c_int64, _INTS, _FLOATS], c_int64),
    "lds_ends": ([_FLOATS, c_int64, _DOUBLES], None),
    "lds_draw": (
        [c_uint64, _FLOATS, c_int64, _FLOATS, _DOUBLES, c_float, _INTS, _FLOATS, c_int64, c_int64, _INTS],
        c_int64,
    ),
    "lds_graph": (
        [c_int64, c_int64, c_int64, _INTS, _INTS, _INTS, _FLOATS, _FLOATS, _SHORTS, _SHORTS, _FLOATS],
        c_int,
    ),
}


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled code; None where there is none, or that of another version."""
    spec = find_spec("lds._native")
    if spec is None or spec.origin is None:
        return None
    try:
        found = ctypes.CDLL(spec.origin)
        if found.lds_interface() != _INTERFACE:
            return None
        for name, (arguments, result) in _FUNCTIONS.items():
            function = getattr(found, name)
            function.argtypes, function.restype = arguments, result
    except (OSError, AttributeError):  # For another machine, or no such code.
        return None
    return found


def kernel() -> Kernel:
    """Return the path of θ of single precision on the CPU; any other takes that of torch.

    Raises:
        InputError: the variable LDS_KERNEL holds something else than native or torch, or native where there is no
            compiled code.
    """
    chosen = os.environ.get(VARIABLE) or ("torch" if library() is None else "native")
    if chosen == "torch":
        return "torch"
    if chosen != "native":
        raise InputError(f"{VARIABLE} must be native or torch, got {chosen!r:.80}; unset it to have what is there")
    if library() is None:
        raise InputError(
            f"{VARIABLE}=native needs the compiled part of lds, but there is none; install lds where there is a C "
            f"compiler, in a working tree with python setup.py build_ext --inplace, or set {VARIABLE}=torch"
        )
    return "native"
