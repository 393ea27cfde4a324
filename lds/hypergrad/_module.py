"""Modules as pure functions of their parameters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from lds.errors import InputError


def functional(module: nn.Module) -> tuple[dict[str, Tensor], Callable[..., Any]]:
    """Return a module's parameters, and the module as a function of them: what inner and outer objective need.

    Shared parameters come once, whether two modules share them or one module stands at two places; frozen ones
    (`requires_grad=False`) stay with the module. A call never changes the module: BatchNorm normalises by the batch in
    training mode, but its running statistics stay as they are, so evaluate it on a batch, or keep it in evaluation mode
    throughout. A module that checkpoints parts of itself (`torch.utils.checkpoint`) would run them again after the
    call, with its own weights: checkpoint the whole call.

    Args:
        module: any module; its mode (training or evaluation) at the time of a call counts.

    Returns:
        (params, call) with params a dict of copies by name, and `call(params, *args, **kwargs)` the module's output.

    Raises:
        InputError: no parameter of the module is trainable; or, in a call, the params are not those of the module, or
            it checkpoints a part of itself.
    """
    names = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
    if not names:
        raise InputError(
            f"{type(module).__name__} must have a trainable parameter, got none; "
            "set requires_grad=True on those to learn"
        )
    params = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    # Every place of a parameter once: torch would set one twice that two names reach, and put back the wrong tensor.
    places = {
        f"{prefix}.{name}" if prefix else name: names[id(p)]
        for prefix, part in module.named_modules()
        for name, p in part.named_parameters(recurse=False, remove_duplicate=False)
        if id(p) in names
    }

    given = params.keys()
    looked = False

    def call(params: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        if not isinstance(params, dict) or params.keys() != given:
            found = f"a dict with {', '.join(map(str, params))}" if isinstance(params, dict) else type(params).__name__
            raise InputError(
                f"{type(module).__name__} must be called with all of its params, a dict with {', '.join(given)}, got "
                f"{found}; hand on the params that the objective is called with"
            )
        nonlocal looked
        copies: dict[int, Tensor] = {}  # One of each buffer, wherever it stands.
        buffers = {
            f"{prefix}.{name}" if prefix else name: copies.setdefault(id(b), b.clone())
            for prefix, part in module.named_modules()
            for name, b in part.named_buffers(recurse=False, remove_duplicate=False)
        }
        values = {place: params[name] for place, name in places.items()}
        with nullcontext() if looked else _no_checkpoints(module):
            output = torch.func.functional_call(module, {**values, **buffers}, args, kwargs, tie_weights=False)
        looked = True
        return output

    return params, call


@contextmanager
def _no_checkpoints(module: nn.Module) -> Iterator[None]:
    """Raise InputError where a part of the module is called by `torch.utils.checkpoint` meanwhile."""
    here = sys._getframe(2)

    def look(part: nn.Module, args: Any) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame is not here:
            if frame.f_code.co_filename == checkpoint.__file__:
                raise InputError(
                    f"{type(module).__name__} must run within its call, but checkpoints its part "
                    f"{type(part).__name__}, which would run again later, with the module's own weights; checkpoint "
                    "the whole call: checkpoint(call, params, x, use_reentrant=False)"
                )
            frame = frame.f_back

    hooks = [part.register_forward_pre_hook(look) for part in module.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
