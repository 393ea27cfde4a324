"""Modules as pure functions of their parameters, and of their buffers where these are carried in the state."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, Literal, cast, overload

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint

from lds._updater import Objective, PyTree, State, Updater, WithBuffers
from lds.errors import InputError


@overload
def functional(module: nn.Module, *, buffers: Literal[False] = False) -> tuple[dict[str, Tensor], ModuleCall]: ...


@overload
def functional(module: nn.Module, *, buffers: Literal[True]) -> tuple[WithBuffers, ModuleCall]: ...


def functional(
    module: nn.Module, *, buffers: bool = False
) -> tuple[dict[str, Tensor], ModuleCall] | tuple[WithBuffers, ModuleCall]:
    r"""Return a module's parameters, and the module as a function of them: what inner and outer objective need.

    Shared parameters come once, whether two modules share them or one module stands at two places; frozen ones
    (`requires_grad=False`) stay with the module. A call never changes the module: BatchNorm normalises by the batch in
    training mode, but its running statistics stay as they are, so evaluate it on a batch, keep it in evaluation mode
    throughout, or carry them:

    With `buffers` the state carries the persistent buffers. What the calls in a step of Φ make of them, in training
    mode, is what the next step begins with, and the outer objective, in evaluation mode, sees those of the trained
    network. The hypergradient goes through them: for BatchNorm with the mean :math:`\mu` and the unbiased variance
    :math:`\sigma^2` of each batch,

    .. math::
        m_{t+1} = (1 - \alpha)\, m_t + \alpha\, \mu(w_t), \qquad
        v_{t+1} = (1 - \alpha)\, v_t + \alpha\, \sigma^2(w_t)

    are functions of the params like everything else, which `create_graph=True` over torch's own BatchNorm leaves out.
    No updater trains buffers, nor decays them. A module of yours must renew its buffers where autograd can follow, and
    not under `torch.no_grad()`.

    A module that checkpoints parts of itself (`torch.utils.checkpoint`) would run them again after the call, with its
    own weights: checkpoint the whole call.

    Args:
        module: any module; its mode (training or evaluation) at the time of a call counts.
        buffers: whether the state carries the buffers; the params are `WithBuffers` then, to be handed on whole.

    Returns:
        (params, call) with params a dict of copies by name, and `call(params, *args, **kwargs)` the module's output;
        `call.name(params, …)` is that of its method or part of that name, as `call.encode(params, x)`.

    Raises:
        InputError: no parameter of the module is trainable; or, in a call, the params are not those of the module, or
            a buffer in the state is written to under `torch.no_grad()`, or the module checkpoints a part of itself.

    Example:
        >>> import torch
        >>> from lds.hypergrad import functional, hypergradient
        >>> from lds.updaters import SGD
        >>> network, x = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1)), torch.randn(8, 3)
        >>> params, call = functional(network, buffers=True)
        >>> def inner(params, outer):
        ...     network.train()
        ...     return (call(params, x) - outer).square().mean()
        >>> def outer_objective(params, outer):
        ...     network.eval()
        ...     return call(params, x).square().mean()
        >>> hypergradient(inner, outer_objective, params, torch.tensor(1.0), updater=SGD(0.1), steps=3).grad.shape
        torch.Size([])
    """
    call = ModuleCall(module, carries=buffers)
    if not buffers:
        return call._copies(), call
    return WithBuffers(call._copies(), call._carried()), call


class ModuleCall:
    """A module as a function of its params, see `functional`.

    Example:
        >>> import torch
        >>> from lds.hypergrad import functional
        >>> params, call = functional(torch.nn.Linear(2, 1, bias=False))
        >>> call({"weight": torch.ones(1, 2)}, torch.tensor([1.0, 2.0]))
        tensor([3.])
    """

    def __init__(self, module: nn.Module, *, carries: bool) -> None:
        names = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
        if not names:
            raise InputError(
                f"{type(module).__name__} must have a trainable parameter, got none; "
                "set requires_grad=True on those to learn"
            )
        self._module, self._carries, self._looked = module, carries, False
        # Every place of a parameter once: torch would set one twice that two names reach, and put back the wrong one.
        self._places = {
            place: names[id(p)]
            for place, p in _places(module, lambda part: part.named_parameters(recurse=False, remove_duplicate=False))
            if id(p) in names
        }
        self._trained = dict.fromkeys(names.values())
        transient = {
            id(part._buffers[name])
            for part in module.modules()
            for name in part._non_persistent_buffers_set
            if name in part._buffers
        }
        kept = [(name, b) for name, b in module.named_buffers() if id(b) not in transient] if carries else []
        self._names = {id(b): name for name, b in kept}
        self._dtypes = {name: b.dtype for name, b in kept}

    def _copies(self) -> dict[str, Tensor]:
        """Return the module's own parameters."""
        own = dict(self._module.named_parameters())
        return {name: own[name].detach().clone() for name in self._trained}

    def _carried(self) -> dict[str, Tensor]:
        """Return the module's own buffers, as the state carries them."""
        own = dict(self._module.named_buffers())
        return {name: _to_state(own[name].detach().clone()) for name in self._dtypes}

    def __call__(self, params: PyTree, *args: Any, **kwargs: Any) -> Any:
        """Return the module's output."""
        return self._run(None, params, *args, **kwargs)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return a method of the module, or a part of it, as a function of the params."""
        if name.startswith("_") or not callable(getattr(self._module, name, None)):
            raise AttributeError(f"{type(self).__name__} has no {name}, nor has its module such a method")
        return partial(self._run, name)

    def _run(self, method: str | None, params: PyTree, /, *args: Any, **kwargs: Any) -> Any:
        values, buffers = self._check(params)
        places = {place: values[name] for place, name in self._places.items()}
        copies: dict[int, Tensor] = {}  # One of each buffer, wherever it stands.
        ids: dict[str, str] = {}
        for place, b in _places(self._module, lambda part: part.named_buffers(recurse=False, remove_duplicate=False)):
            name = self._names.get(id(b))
            if id(b) not in copies:
                copies[id(b)] = b.clone() if name is None else _latest(buffers[name]).to(self._dtypes[name], copy=True)
                if name is not None:
                    ids[name] = place
            places[place] = copies[id(b)]
        clones = {name: places[place] for name, place in ids.items()}
        written = {name: x._version for name, x in clones.items()}
        made = {name: x.grad_fn for name, x in clones.items()}
        with (
            _Statistics() if buffers else nullcontext(),
            nullcontext() if self._looked else _no_checkpoints(self._module),
        ):
            if method is None:
                result = torch.func.functional_call(self._module, places, args, kwargs, tie_weights=False)
            else:
                inside = {f"module.{place}": x for place, x in places.items()}
                whole = _Methods(self._module)
                result = torch.func.functional_call(whole, inside, (method, *args), kwargs, tie_weights=False)
                places = {place: inside[f"module.{place}"] for place in places}
        self._looked = True
        for name, place in ids.items():  # Also where the module put another tensor in its place.
            new = places[place]
            if new is clones[name] and new._version != written[name] and new.grad_fn is made[name] is not None:
                raise InputError(
                    f"buffers in the state must be renewed in a way that autograd can follow, but {name} of "
                    f"{type(self._module).__name__} was written to under torch.no_grad(); renew it with gradients, or "
                    "leave out buffers=True"
                )
            _renew(buffers[name], new)
        return result

    def _check(self, params: PyTree) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the params and the buffers, if they are this module's."""
        if self._carries and isinstance(params, WithBuffers) and params.buffers.keys() == self._dtypes.keys():
            values, buffers = params
        else:
            values, buffers = params, {}
        if not isinstance(values, dict) or values.keys() != self._trained.keys() or self._carries is (values is params):
            found = f"a dict with {', '.join(map(str, values))}" if isinstance(values, dict) else type(values).__name__
            needed = "WithBuffers of" if self._carries else "a dict with"
            raise InputError(
                f"{type(self._module).__name__} must be called with all of its params, {needed} "
                f"{', '.join(self._trained)}, got {found}; hand on the params that the objective is called with"
            )
        return values, buffers


def _places(
    module: nn.Module, tensors: Callable[[nn.Module], Iterator[tuple[str, Tensor]]]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of each part of a module once, with their full names."""
    for prefix, part in module.named_modules():
        for name, x in tensors(part):
            yield f"{prefix}.{name}" if prefix else name, x


class _Methods(nn.Module):
    """A module by the names of its methods: torch's functional_call reaches the forward only."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Return what the method returns."""
        return getattr(self.module, method)(*args, **kwargs)


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


def _to_state(buffer: Tensor) -> Tensor:
    return buffer if buffer.is_floating_point() or buffer.is_complex() else buffer.double()


_OPEN = threading.local()


@contextmanager
def _renewing(buffers: dict[str, Tensor]) -> Iterator[dict[int, Tensor]]:
    """Take note of what calls with these buffers make of them; each begins with what the one before it made."""
    before = getattr(_OPEN, "latest", None)
    latest = _OPEN.latest = {id(b): b for b in buffers.values()}
    try:
        yield latest
    finally:
        _OPEN.latest = before


def _latest(buffer: Tensor) -> Tensor:
    latest: dict[int, Tensor] = getattr(_OPEN, "latest", None) or {}
    return latest.get(id(buffer), buffer)


def _renew(buffer: Tensor, new: Tensor) -> None:
    latest = getattr(_OPEN, "latest", None) or {}
    if id(buffer) in latest:
        latest[id(buffer)] = _to_state(new)


@dataclass(frozen=True)
class BufferUpdater:
    """Φ of the params, and the buffers as the calls in its step renew them.

    Args:
        updater: Φ of the params.
    """

    updater: Updater

    def init(self, params: WithBuffers) -> PyTree:
        """Return the slots of the params."""
        return self.updater.init(params.params)

    def step(self, state: State, outer: PyTree, inner: Objective) -> State:
        """Return the next params and buffers."""
        params, buffers = state.params

        def of_params(params: PyTree, outer: PyTree) -> Tensor:
            return inner(WithBuffers(params, buffers), outer)

        with _renewing(buffers) as latest:
            new: Any = self.updater.step(State(params, state.slots, state.step), outer, of_params)
        if not isinstance(new, tuple) or len(new) < 2:
            return cast(State, new)  # Which is refused.
        return State(WithBuffers(new[0], {name: latest[id(b)] for name, b in buffers.items()}), new[1])


class _Statistics(TorchFunctionMode):
    """Running statistics as functions of the input: torch's kernels renew them, and use them, without a derivative."""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace the two functions that read running statistics."""
        if function is nn.functional.batch_norm:
            return _batch_norm(*args, **kwargs or {})
        if function is nn.functional.instance_norm:
            return _instance_norm(*args, **kwargs or {})
        return function(*args, **kwargs or {})


def _batch_norm(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if mean is None or var is None or not (training or mean.requires_grad or var.requires_grad):
        return nn.functional.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
    if not training:
        return _normalise(x, mean, var, weight, bias, eps)
    result = nn.functional.batch_norm(x, None, None, weight, bias, training, momentum, eps)
    dims = (0, *range(2, x.ndim))
    _move(mean, x.to(mean.dtype).mean(dims), momentum)
    _move(var, x.to(var.dtype).var(dims), momentum)
    return result


def _instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    mean, var = running_mean, running_var
    if mean is None or var is None or not (use_input_stats or mean.requires_grad or var.requires_grad):
        return nn.functional.instance_norm(x, mean, var, weight, bias, use_input_stats, momentum, eps)
    if not use_input_stats:
        return _normalise(x, mean, var, weight, bias, eps)
    result = nn.functional.instance_norm(x, None, None, weight, bias, use_input_stats, momentum, eps)
    dims = tuple(range(2, x.ndim))
    _move(mean, x.to(mean.dtype).mean(dims).mean(0), momentum)
    _move(var, x.to(var.dtype).var(dims).mean(0), momentum)
    return result


def _move(running: Tensor, new: Tensor, momentum: float) -> None:
    running.mul_(1 - momentum).add_(new, alpha=momentum)


def _normalise(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    shape = (1, -1, *(1 for _ in range(2, x.ndim)))
    scale = (var + eps).rsqrt()
    result = (x.to(mean.dtype) - mean.view(shape)) * (scale if weight is None else scale * weight).view(shape)
    return (result if bias is None else result + bias.view(shape)).to(x.dtype)
