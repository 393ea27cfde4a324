"""From plain values, such as a YAML file holds, to the configuration that they name; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lds.errors import InputError
from lds.run._baseline_config import BASELINES, BaselineConfig
from lds.run._config import METHODS, TrainConfig

_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}


def make_config(mapping: Mapping[str, Any]) -> TrainConfig | BaselineConfig:
    """Return the configuration of a run from its fields by name; the method decides which fields there are.

    An integer will do where a number is needed.

    Raises:
        InputError: an unknown method, an unknown field, no data, or a value of the wrong type or out of range.
    """
    method = mapping.get("method", TrainConfig.method)
    if method not in METHODS + BASELINES:
        raise InputError(f"method must be one of {', '.join(METHODS + BASELINES)}, got {method!r:.80}")
    kind = BaselineConfig if method in BASELINES else TrainConfig
    known = {field.name: field for field in fields(kind)}
    unknown = [str(name) for name in mapping if name not in known]
    if unknown:
        raise InputError(f"{method} knows no {', '.join(unknown):.80}; its fields are {', '.join(known)}")
    hints = get_type_hints(kind)
    return kind(**{name: _checked(name, value, hints[name]) for name, value in mapping.items()})


def _checked(name: str, value: Any, hint: Any) -> Any:
    options = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    for option in options:
        if get_origin(option) is Literal:
            if value in get_args(option):
                return value
        elif type(value) is option:
            return value
    if float in options and type(value) is int:
        return float(value)
    hint = next(option for option in options if option is not NoneType)
    needed = f"one of {', '.join(get_args(hint))}" if get_origin(hint) is Literal else _KINDS[hint]
    # YAML 1.1 reads 1e-3 as a text, since it has no dot.
    number = isinstance(value, str) and hint in (int, float)
    advice = "write it without quotes, and a power of ten as 1.0e-3" if number else "change it"
    raise InputError(f"{name} must be {needed}, got {value!r:.80}; {advice}")
