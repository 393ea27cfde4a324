"""The model, the updater and the device that a configuration names; modules of others are imported as a run begins."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lds._checks import meant
from lds.errors import InputError
from lds.run._config import NETWORKS, BaselineConfig, TrainConfig, parse_arguments

if TYPE_CHECKING:
    from torch import nn
    from torch_geometric.data import Data

    from lds.updaters import Updater


def make_model(config: TrainConfig) -> Callable[[int, int], nn.Module]:
    """Return the factory of the network that a configuration names: one of `lds.nn`, or `package.module:Class`.

    None is the GCN of the paper. One of `lds.nn` takes hidden and dropout of the configuration, where it has them.
    The class, or function, is called with the number of features, the number of classes and init_args; where it takes
    in_channels and out_channels, as models of torch_geometric do, with these names. A module whose forward takes an
    edge_index becomes a `lds.nn.Backbone`; others are called with (x, graph).

    Raises:
        InputError: it cannot be imported, or takes other arguments.
    """
    from lds.nn import APPNP, GCN, SAGE, SGC

    if config.model is None:
        return partial(GCN, hidden_channels=config.hidden, dropout=config.dropout)
    arguments = parse_arguments("init_args", config.init_args)
    if config.model in NETWORKS:
        made: Callable[..., Any] = {"gcn": GCN, "sage": SAGE, "sgc": SGC, "appnp": APPNP}[config.model]
        taken = NETWORKS[config.model]
        arguments = {argument: getattr(config, option) for option, argument in taken.items()} | arguments
    else:
        made = import_object("model", config.model)
    by_name = {"in_channels", "out_channels"} <= _parameters(made).keys()
    sizes: dict[str, int] = {"in_channels": 1, "out_channels": 1} if by_name else {}
    _check_call("model", config.model, made, () if by_name else (1, 1), sizes | arguments, "init_args")

    def factory(in_channels: int, out_channels: int) -> nn.Module:
        if by_name:
            module = made(in_channels=in_channels, out_channels=out_channels, **arguments)
        else:
            module = made(in_channels, out_channels, **arguments)
        return _on_our_graphs(module, config)

    return factory


def _on_our_graphs(module: Any, config: TrainConfig) -> nn.Module:
    """Return the module as one that is called with (x, graph)."""
    from torch import nn

    from lds.nn import Backbone
    from lds.run._methods import METHOD

    if isinstance(module, nn.Module) and "edge_index" in _parameters(module.forward):
        if config.candidates is None and METHOD[config.method].has_theta:
            raise InputError(
                f"model {config.model} is called with edge weights, so θ must lie on candidate pairs, but "
                "candidates are not given; add them, e.g. --candidates knn:20,random:5,given"
            )
        return Backbone(module)
    return module  # type: ignore[no-any-return]  # The learner refuses what is no module.


def make_updater(config: TrainConfig) -> Updater | None:
    """Return the updater that a configuration names, one of `lds.updaters` or `package.module:Class`; None for none.

    It takes the inner learning rate as `lr`, unless updater_args has one.

    Raises:
        InputError: there is no such updater, or it takes other arguments.
    """
    if config.updater is None:
        return None
    from lds import updaters

    if ":" in config.updater:
        made = import_object("updater", config.updater)
    else:
        known = {
            name.lower(): getattr(updaters, name)
            for name in updaters.__all__
            if isinstance(getattr(updaters, name), type) and "lr" in _parameters(getattr(updaters, name))
        }
        if config.updater.lower() not in known:
            names = [kind.__name__ for kind in known.values()]
            raise InputError(
                f"updater must be one of {', '.join(names)}, or package.module:Class, got {config.updater!r:.80}"
                f"{meant(config.updater, names)}"
            )
        made = known[config.updater.lower()]
    arguments = parse_arguments("updater_args", config.updater_args)
    arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
    if "lr" in arguments and config.inner_lr != TrainConfig.inner_lr:
        raise InputError(
            f"inner_lr and the lr of updater_args are the same, but {config.inner_lr:g} and {arguments['lr']!r:.80} "
            "came; drop one"
        )
    if "lr" in _parameters(made):
        arguments = {"lr": config.inner_lr} | arguments
    _check_call("updater", config.updater, made, (), arguments, "updater_args")
    return updaters.as_updater(made(**arguments))


def import_object(option: str, path: str) -> Any:
    """Return what `package.module:Name` names.

    Raises:
        InputError: the module cannot be imported, or has no such name.
    """
    module_name, _, name = path.partition(":")
    try:
        module = import_module(module_name)
    except Exception as error:  # Whatever the module of somebody else raises.
        raise InputError(
            f"{option} {path} must be importable, but {module_name} is not: {type(error).__name__}: {error}; "
            "install it, or start in the folder that holds it"
        ) from error
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise InputError(
                f"{option} {path} must name something in {module_name}, but there is no {part}{meant(part, dir(found))}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{option} {path} must be a class or a function, but is {type(found).__name__}; name another")
    return found


def on_device(config: TrainConfig | BaselineConfig, data: Data) -> Data:
    """Return the data on the device of a configuration.

    Raises:
        InputError: torch knows no such device, or it is not there.
    """
    if not isinstance(config, TrainConfig) or config.device == TrainConfig.device:
        return data
    from lds._device import usable

    return data.to(usable(config.device))


def _parameters(made: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(made).parameters)
    except (TypeError, ValueError):  # Of C code, which tells nobody.
        return {}


def _check_call(
    option: str, path: str, made: Callable[..., Any], places: tuple[int, ...], names: dict[str, Any], arguments: str
) -> None:
    """Refuse arguments that a class or function does not take, before anything is made."""
    try:
        signature = inspect.signature(made)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*places, **names)
    except TypeError as error:
        raise InputError(
            f"{option} {path} takes {signature}, which {arguments} must fit, but: {error}; write e.g. "
            f"{arguments} as {{name: value}}"
        ) from error
