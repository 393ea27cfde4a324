"""At whose line a warning points: the user's, and never one of the package."""

from __future__ import annotations

import os
import sys

import torch

# Where the package lies, and torch, which calls the backward of `unroll`.
_NOT_THEIRS = tuple(os.path.dirname(os.path.abspath(path)) + os.sep for path in (__file__, torch.__file__))


def frames_of_ours() -> int:
    """Return the `stacklevel` of a warning that points at the user's line."""
    frame, count = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_THEIRS):
        frame, count = frame.f_back, count + 1
    return count
