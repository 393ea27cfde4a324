"""The device that a user names."""

from __future__ import annotations

import torch

from lds.errors import InputError


def usable(name: str | torch.device) -> torch.device:
    """Return a device.

    Raises:
        InputError: torch knows no such device, or it is not there.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"device must be one that torch can use here, such as cpu, got {name!r:.80}: {reason}"
        ) from error
    return device
