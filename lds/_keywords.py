"""What to write where a function does not take a keyword: whose it is, or which of its own it may be a slip of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import wraps
from typing import Any, NoReturn, ParamSpec, TypeVar

from lds._show import short
from lds.errors import KeywordError

P = ParamSpec("P")
T = TypeVar("T")

# What was explained, by name: whose keywords are looked for.
_KNOWN: dict[str, Callable[..., Any]] = {}
# An argument, and the method that what is given for it has.
_ROLES = {"method": "solve", "memory": "tape", "updater": "init"}
# What other libraries, and other words of the same, call an argument.
_ALSO = {
    "optimizer": "updater",
    "optim": "updater",
    "num_steps": "steps",
    "n_steps": "steps",
    "inner_steps": "steps",
    "iterations": "steps",
    "epochs": "max_epochs",
    "dataloader": "batches",
    "loader": "batches",
    "truncation": "horizon",
    "learning_rate": "lr",
    "random_state": "seed",
    "hyperparameters": "outer",
    "hparams": "outer",
    "inner_loss": "inner",
    "outer_loss": "outer_objective",
    "backbone": "model",
}


def explained(function: Callable[P, T]) -> Callable[P, T]:
    """Have a function, or the method of a class, say what to write where it does not take a keyword.

    A call that fits costs no more than one call of Python.
    """
    _KNOWN[function.__qualname__] = function

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            # The call itself, and nothing inside of it.
            if error.__traceback__ is not None and error.__traceback__.tb_next is None:
                _explain(function.__qualname__, function, kwargs)
            raise

    return call


def explain_classes(*kinds: type) -> None:
    """Have classes do so, too, where an object is made."""
    for kind in kinds:
        _KNOWN[kind.__name__] = kind
        if "__init__" in vars(kind):
            kind.__init__ = _explained_init(kind.__name__, kind, kind.__init__)  # type: ignore[misc]


def _explained_init(name: str, kind: type, init: Callable[..., None]) -> Callable[..., None]:
    @wraps(init)
    def make(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *args, **kwargs)
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is None and type(self) is kind:
                _explain(name, init, kwargs)
            raise

    return make


def _explain(name: str, function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Raise KeywordError if a keyword is none of the function's."""
    own = _parameters(function)
    for word, value in given.items():
        if word not in own:
            _refuse(name, own, word, value, given)


def _refuse(name: str, own: list[str], word: str, value: Any, given: Mapping[str, Any]) -> NoReturn:
    text = short(value, 40)
    found = _elsewhere(own, word, f"={text}", given)
    if _ALSO.get(word) in own:
        advice = f"did you mean {_ALSO[word]}?"
    elif found is not None:
        advice = f"write {found}"
    elif near := get_close_matches(word, own, 1, 0.7):
        advice = f"did you mean {near[0]}?"
    else:
        advice = f"{_owners(word)}; those of {name} are {', '.join(own)}"
    raise KeywordError(f"{name} takes no {word}, but {word}={text} came; {advice}") from None


def _elsewhere(
    own: list[str], word: str, text: str, given: Mapping[str, Any], roles: tuple[str, ...] = tuple(_ROLES)
) -> str | None:
    """Return what to write where the keyword is that of an object that the function takes, or of one within that."""
    word = word if any(word in _parameters(known) for known in _KNOWN.values()) else _ALSO.get(word, word)
    for role in filter(own.__contains__, roles):
        owners = [k for k, kind in _KNOWN.items() if hasattr(kind, _ROLES[role]) and word in _parameters(kind)]
        chosen = type(given.get(role)).__name__
        if owners:
            return f"{role}={chosen if chosen in owners else owners[0]}({word}{text})"
    for role in filter(own.__contains__, roles):
        for k, kind in _KNOWN.items():
            rest = tuple(other for other in roles if other != role)
            if hasattr(kind, _ROLES[role]) and (deeper := _elsewhere(_parameters(kind), word, text, {}, rest)):
                return f"{role}={k}({deeper})"
    return None


def _owners(word: str) -> str:
    """Return who takes such a keyword."""
    for candidate in (word, _ALSO.get(word, word)):
        owners = [name for name, known in _KNOWN.items() if candidate in _parameters(known)]
        if owners:
            return f"{candidate} is an argument of {', '.join(owners[:4])}"
    return "leave it out"


def _parameters(function: Callable[..., Any]) -> list[str]:
    found = inspect.signature(function).parameters.values()
    return [p.name for p in found if p.name != "self" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
