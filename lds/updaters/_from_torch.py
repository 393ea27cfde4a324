"""Optimizers of torch.optim as updaters."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import optree
import torch
from torch import Tensor, nn

from lds._updater import GradientUpdater, PyTree, State
from lds.errors import InputError
from lds.updaters._adadelta import Adadelta, AdadeltaSlots
from lds.updaters._adafactor import Adafactor, AdafactorSlots
from lds.updaters._adagrad import Adagrad, AdagradSlots
from lds.updaters._adam import Adam, AdamSlots
from lds.updaters._adamax import Adamax
from lds.updaters._adamw import AdamW
from lds.updaters._asgd import ASGD, ASGDSlots
from lds.updaters._coefficient import Coefficient, is_zero
from lds.updaters._groups import Groups
from lds.updaters._muon import Muon
from lds.updaters._nadam import NAdam, NAdamSlots
from lds.updaters._radam import RAdam
from lds.updaters._rmsprop import RMSprop, RMSpropSlots
from lds.updaters._rprop import Rprop, RpropSlots
from lds.updaters._sgd import SGD, DampenedSlots

_UPDATERS: dict[str, type[GradientUpdater]] = {
    x.__name__: x
    for x in (SGD, Adadelta, Adafactor, Adagrad, Adam, Adamax, AdamW, ASGD, Muon, NAdam, RAdam, RMSprop, Rprop)
}
# Options that say how torch computes, not what.
_HOW = {"foreach", "capturable", "differentiable", "fused"}
_NOWHERE = object()


def from_torch(optimizer: torch.optim.Optimizer, module: nn.Module | PyTree, **coefficients: Any) -> GradientUpdater:
    """Return the updater that takes the steps of an optimizer of torch.optim, with its coefficients, group by group.

    It is the updater of the same name, or `Groups` of them, for the params of `functional(module)`. The optimizer stays
    as it is. If it has taken steps, its state is copied: `init` returns it, so that each run goes on from there.

    It differs from the optimizer where the updater does (ε inside the root, see the table in the guide), and in params
    that an objective does not use: torch passes them over, here their gradient is zero, so that momentum and weight
    decay go on.

    Args:
        optimizer: any but LBFGS and SparseAdam, which have no counterpart. `Muon` comes with `dtype=torch.bfloat16`,
            unless another is given.
        module: the module whose parameters the optimizer was made for, or a pytree of those parameters themselves. All
            that are trainable must be in its groups; frozen ones are passed over, as `functional` does.
        coefficients: coefficients, or other options, to take in place of the optimizer's, by their names, such as
            `lr=lambda outer: outer["lr"]`; in a list, one for each group. Schedules count the steps of a run.

    Raises:
        InputError: the optimizer has no counterpart, is not that of the module, or does not say all that it does: a
            learning-rate scheduler is attached to it (and no `lr` given here), or a hook.

    Example:
        >>> import torch
        >>> from lds.updaters import from_torch
        >>> net = torch.nn.Linear(3, 1)
        >>> from_torch(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), net)
        SGD(maximize=False, lr=0.1, momentum=0.9, nesterov=False, weight_decay=0, dampening=0)
    """
    name = _check(optimizer, coefficients)
    params = _params(module)
    index_of = {id(p): index for index, group in enumerate(optimizer.param_groups) for p in group["params"]}
    leaves, spec = optree.tree_flatten(params)
    _check_covered(optimizer, type(module).__name__ if isinstance(module, nn.Module) else "params", params, index_of)
    indices = [index_of[id(p)] for p in leaves]
    kept = [index for index in range(len(optimizer.param_groups)) if index in indices]
    updaters = {}
    for index in kept:
        own = {k: _of_group(k, x, index, len(optimizer.param_groups)) for k, x in coefficients.items()}
        updater = _updater(name, optimizer, index, own)
        members = spec.unflatten([p if i == index else None for p, i in zip(leaves, indices, strict=True)])
        updaters[index] = _continued(updater, optimizer, members)
    return updaters[kept[0]] if len(kept) == 1 else Groups(updaters, spec.unflatten(indices))


@dataclass(frozen=True)
class Continued(GradientUpdater):
    """An updater that begins with the slots of an optimizer that has taken steps."""

    updater: GradientUpdater
    slots: PyTree
    like: PyTree

    def init(self, params: PyTree) -> PyTree:
        """Return copies of the slots."""
        if optree.tree_structure(params) != optree.tree_structure(self.like):
            raise InputError(
                f"the optimizer has slots for params {optree.tree_structure(self.like)}, got "
                f"{optree.tree_structure(params)}; give those of functional(module)"
            )
        return optree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, self.slots)

    def update(self, grads: PyTree, state: State, outer: PyTree) -> State:
        """Return the state after one step of the updater inside."""
        return self.updater.update(grads, state, outer)


def _check(optimizer: Any, coefficients: Mapping[str, Any]) -> str:
    """Return the name of an optimizer that has a counterpart and does nothing beside it."""
    kind = type(optimizer)
    if not isinstance(optimizer, torch.optim.Optimizer):
        what = f"the class {optimizer.__name__}" if isinstance(optimizer, type) else kind.__name__
        raise InputError(f"from_torch needs an optimizer of torch.optim such as torch.optim.SGD(…), got {what}")
    if not kind.__module__.startswith("torch.optim") or kind.__name__ not in _UPDATERS:
        raise InputError(
            f"from_torch knows {', '.join(_UPDATERS)} of torch.optim, but {kind.__module__}.{kind.__name__} has no "
            "counterpart; write an updater, see lds.updaters"
        )
    if hasattr(optimizer.step, "_wrapped_by_lr_sched") and "lr" not in coefficients:
        raise InputError(
            "from_torch cannot see what the learning-rate scheduler of the optimizer will do; give the rates too, "
            "from_torch(optimizer, module, lr=lds.updaters.schedules.Cosine(…)), or an optimizer without a scheduler"
        )
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        raise InputError(
            f"from_torch cannot take over what hooks do, but torch.optim.{kind.__name__} has step hooks; remove them, "
            "and write an updater around this one for what they do"
        )
    return kind.__name__


def _params(module: nn.Module | PyTree) -> PyTree:
    """Return the trainable parameters as `functional` nests them, or a pytree of parameters as it is."""
    if isinstance(module, nn.Module):
        return {name: p for name, p in module.named_parameters() if p.requires_grad}
    for path, x in zip(optree.tree_accessors(module), optree.tree_leaves(module), strict=True):
        if not isinstance(x, Tensor):
            found = f"{path.codify('')}: {type(x).__name__}" if path.codify("") else type(x).__name__
            raise InputError(
                f"from_torch needs the module of the optimizer, or a pytree of its parameters, got {found}"
            )
    return module


def _check_covered(optimizer: torch.optim.Optimizer, owner: str, params: PyTree, index_of: Mapping[int, int]) -> None:
    """Raise InputError unless the trainable parameters of the optimizer are those of the module."""
    leaves = optree.tree_leaves(params)
    own = {id(p) for p in leaves}
    if strangers := [p for g in optimizer.param_groups for p in g["params"] if p.requires_grad and id(p) not in own]:
        raise InputError(
            f"the optimizer must be that of {owner}, but {len(strangers)} of its parameters are not, one of shape "
            f"{tuple(strangers[0].shape)}; give the module whose parameters it was made for (not copies of them)"
        )
    if missing := [
        ".".join(map(str, path))
        for path, p in zip(optree.tree_paths(params), leaves, strict=True)
        if id(p) not in index_of
    ]:
        raise InputError(
            f"the groups of the optimizer must cover all trainable parameters of {owner}, but {missing[0]!r} is in "
            f"none ({len(missing)} such in all); add it, or freeze it with requires_grad_(False)"
        )
    if not leaves:
        raise InputError(f"{owner} must have a trainable parameter, got none; set requires_grad=True on those to learn")


def _of_group(name: str, value: Any, index: int, count: int) -> Coefficient | tuple[Coefficient, ...]:
    if not isinstance(value, list):
        return value  # type: ignore[no-any-return]
    if len(value) != count:
        raise InputError(
            f"{name} must be one coefficient or a list with one for each of {count} groups, got {len(value)}"
        )
    return value[index]  # type: ignore[no-any-return]


def _updater(
    name: str, optimizer: torch.optim.Optimizer, index: int, coefficients: Mapping[str, Any]
) -> GradientUpdater:
    group = {key: optimizer.param_groups[index][key] for key in optimizer.defaults if key not in _HOW}
    kind = _UPDATERS[name]
    if name in ("Adam", "AdamW"):  # One is the other with this switch in torch.
        kind = AdamW if group.pop("decoupled_weight_decay", name == "AdamW") else Adam
    known = {x.name for x in fields(kind)}  # type: ignore[arg-type]
    if unknown := [key for key in group if key not in known]:
        raise InputError(f"the option {unknown[0]} of torch.optim.{name} has no counterpart in lds.updaters.{name}")
    if unknown := [key for key in coefficients if key not in known]:
        raise InputError(f"{kind.__name__} has no coefficient {unknown[0]}; its options are {', '.join(sorted(known))}")
    options = {key: _constant(key, value) for key, value in group.items() if key not in coefficients}
    if kind is Muon and "dtype" not in coefficients:
        options["dtype"] = torch.bfloat16
    try:
        return kind(**options, **coefficients)
    except InputError as error:
        raise InputError(f"group {index} of torch.optim.{name} has no counterpart: {error}") from error


def _constant(name: str, value: Any) -> Any:
    """Return an option that stays as it is, whatever becomes of the optimizer."""
    if isinstance(value, tuple):
        return tuple(_constant(name, x) for x in value)
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise InputError(
                f"{name} of the optimizer asks for a gradient; name it among the outer variables and give it again, "
                f"from_torch(optimizer, module, {name}=lambda outer: outer[{name!r}])"
            )
        return value.detach().reshape(()).clone()
    if isinstance(value, bool | int) or not isinstance(value, numbers.Real):
        return value
    return float(value)


def _continued(updater: GradientUpdater, optimizer: torch.optim.Optimizer, params: PyTree) -> GradientUpdater:
    """Return the updater, beginning where the optimizer stands."""
    leaves = optree.tree_leaves(params)
    states: list[Mapping[str, Any]] = [optimizer.state.get(p, {}) for p in leaves]
    # SGD and Muon count no steps, but have made a buffer in the first.
    counts = {int(s["step"]) if "step" in s else int(s.get("momentum_buffer") is not None) for s in states}
    if counts == {0}:
        return updater
    if len(counts) > 1:
        raise InputError(
            "from_torch needs an optimizer that has taken as many steps with every param of a group, but its state has "
            f"{sorted(counts)}; take a new optimizer, or one whose params all had gradients"
        )
    spec, count = optree.tree_structure(params), counts.pop()

    def tree(key: str) -> PyTree:
        parts = [s.get(key) for s in states]
        return spec.unflatten([None if x is None else x.detach().clone() for x in parts])

    slots = _SLOTS[type(updater)](updater, tree, count)
    if optree.tree_structure(slots) != optree.tree_structure(updater.init(params)):
        raise InputError(
            f"the state of torch.optim.{type(updater).__name__} must hold all that its options need, but does not; "
            "make a new optimizer in place of changing options after the first step"
        )
    return Continued(updater, slots, optree.tree_map(torch.detach, params))


_Tree = Callable[[str], PyTree]


def _sgd(updater: SGD, tree: _Tree, count: int) -> PyTree:
    if is_zero(updater.momentum):
        return ()
    b = tree("momentum_buffer")
    return b if is_zero(updater.dampening) else DampenedSlots(b, count)


def _adam(updater: Adam, tree: _Tree, count: int) -> PyTree:
    largest = tree("max_exp_avg_sq") if updater.amsgrad else ()
    return AdamSlots(tree("exp_avg"), tree("exp_avg_sq"), count, largest)


def _nadam(updater: NAdam, tree: _Tree, count: int) -> PyTree:
    m, products = tree("exp_avg"), tree("mu_product")
    constant = all(isinstance(x, float | int) for x in (updater.betas[0], updater.momentum_decay))
    if constant:
        product: PyTree = float(optree.tree_leaves(products)[0])
    else:
        product = optree.tree_map(lambda m, x: torch.full_like(m, float(x)), m, products)
    return NAdamSlots(m, tree("exp_avg_sq"), count, product)


def _rmsprop(updater: RMSprop, tree: _Tree, count: int) -> PyTree:
    mean = tree("grad_avg") if updater.centered else ()
    return RMSpropSlots(tree("square_avg"), mean, () if is_zero(updater.momentum) else tree("momentum_buffer"))


_SLOTS: dict[type, Callable[[Any, _Tree, int], PyTree]] = {
    SGD: _sgd,
    Adadelta: lambda updater, tree, count: AdadeltaSlots(tree("square_avg"), tree("acc_delta")),
    Adafactor: lambda updater, tree, count: AdafactorSlots(tree("row_var"), tree("col_var"), tree("variance"), count),
    Adagrad: lambda updater, tree, count: AdagradSlots(tree("sum"), count),
    Adam: _adam,
    Adamax: lambda updater, tree, count: AdamSlots(tree("exp_avg"), tree("exp_inf"), count),
    AdamW: _adam,
    ASGD: lambda updater, tree, count: ASGDSlots(tree("ax"), count),
    Muon: lambda updater, tree, count: tree("momentum_buffer"),
    NAdam: _nadam,
    RAdam: lambda updater, tree, count: AdamSlots(tree("exp_avg"), tree("exp_avg_sq"), count),
    RMSprop: _rmsprop,
    Rprop: lambda updater, tree, count: RpropSlots(tree("prev"), tree("step_size"), count),
}
