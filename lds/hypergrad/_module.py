"""Modules as pure functions of their parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lds.errors import InputError


def functional(module: nn.Module) -> tuple[dict[str, Tensor], Callable[..., Any]]:
    """Return a module's parameters, and the module as a function of them: what inner and outer objective need.

    Shared parameters come once; frozen ones (`requires_grad=False`) stay with the module. A call never changes the
    module: BatchNorm normalises by the batch in training mode, but its running statistics stay as they are, so
    evaluate it on a batch, or keep it in evaluation mode throughout.

    Args:
        module: any module; its mode (training or evaluation) at the time of a call counts.

    Returns:
        (params, call) with params a dict of copies by name, and `call(params, *args, **kwargs)` the module's output.

    Raises:
        InputError: no parameter of the module is trainable.
    """
    params = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    if not params:
        raise InputError(
            f"{type(module).__name__} must have a trainable parameter, got none; "
            "set requires_grad=True on those to learn"
        )

    def call(params: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        buffers = {name: b.clone() for name, b in module.named_buffers()}
        return torch.func.functional_call(module, (params, buffers), args, kwargs)

    return params, call
