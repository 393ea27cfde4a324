"""Vector-Jacobian products without the checks of `torch.autograd.grad`, which take longer than a small product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_ENGINE = getattr(getattr(torch.autograd, "Variable", None), "_execution_engine", None)
_PLAIN = (Tensor, nn.Parameter)


def vjp(
    results: Sequence[Tensor], inputs: Sequence[Any], cotangents: Sequence[Tensor], *, create_graph: bool = False
) -> tuple[Tensor | None, ...]:
    """Return `torch.autograd.grad(results, inputs, cotangents, create_graph=create_graph, allow_unused=True)`.

    The cotangents must have the shapes and dtypes of the results, none of which may be missing. Where the tensors are
    plain ones on the CPU, the engine of autograd is asked at once; else torch's own function does it.
    """
    if _ENGINE is not None and not torch._C._is_torch_function_mode_enabled():
        for x in results:
            if type(x) not in _PLAIN or x.device.type != "cpu":
                break
        else:
            found: tuple[Tensor | None, ...] = _ENGINE.run_backward(
                tuple(results),
                tuple(cotangents),
                create_graph,
                create_graph,
                tuple(inputs),
                True,
                accumulate_grad=False,
            )
            return found
    return torch.autograd.grad(results, inputs, cotangents, create_graph=create_graph, allow_unused=True)
