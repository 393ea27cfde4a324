"""The parser that all commands share."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, get_loader, set_loader  # type: ignore[attr-defined]

from lds._checks import text_fault
from lds._files import read_file
from lds._read import parse_yaml, reason
from lds.errors import DataError

# jsonargparse takes every value of an option for YAML, too.
_MODE = "lds"
_LONGEST = 1000


def _load(text: str) -> Any:
    """Return what jsonargparse makes of a text, once the guard of all YAML has seen it."""
    try:
        parse_yaml(text)
    except DataError as error:
        if isinstance(error.__cause__, yaml.YAMLError):
            raise error.__cause__  # noqa: B904 - no YAML: jsonargparse takes it as the text that it is
        raise  # Of another class than what jsonargparse takes for a text, so it ends there.
    return get_loader("yaml")(text)


set_loader(_MODE, _load, (yaml.YAMLError,))


class Parser(ArgumentParser):
    """A parser whose options have dashes and whose errors are one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(parser_mode=_MODE, **options)

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add an argument, underscores of options as dashes."""
        return super().add_argument(*(a.replace("_", "-") if a.startswith("--") else a for a in args), **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line on stderr and leave with exit code 2."""
        line = " ".join(str(message).split())
        if len(line) > _LONGEST:  # What a file holds need not be printed as a whole.
            line = f"{line[:_LONGEST]} …"
        print(f"lds: error: {line}".encode("utf-8", "backslashreplace").decode(), file=sys.stderr)
        raise SystemExit(2)


class ConfigFile(ActionConfigFile):
    """An option that names a YAML file of options; jsonargparse reads it after it was found to be one."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Read the file, or end with one line."""
        try:
            found = parse_yaml(read_file(Path(values), links=True).decode("utf-8"))
        except OSError as error:
            parser.error(f"{option_string} must be a YAML file, but {values} cannot be read: {error.strerror}")
        except (ValueError, DataError) as error:
            parser.error(f"{option_string} must be a YAML file, but {values} is not: {reason(error)}")
        if not isinstance(found, Mapping):
            parser.error(f"{option_string} must hold options and their values, but {values} holds {_kind(found)}")
        known = {name for action in parser._actions for name in (action.dest,)} - {self.dest, "help", "print_config"}
        for name, value in found.items():
            if name not in known:
                parser.error(f"{option_string} must hold options of the command, but {values} has {str(name)!r:.80}")
            if isinstance(value, str) and (fault := text_fault(value)) is not None:
                parser.error(f"{option_string} must hold texts that can be written, but {name} in {values} {fault}")
            if isinstance(value, Mapping) or (isinstance(value, list) and any(map(_is_nested, value))):
                parser.error(
                    f"{option_string} must hold texts and numbers, but {values} has {_kind(value)} as {name}; write "
                    "one value, or a list where the option takes several"
                )
        super().__call__(parser, cfg, values, option_string)  # type: ignore[no-untyped-call]


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping | list)


def _kind(value: Any) -> str:
    return "a mapping" if isinstance(value, Mapping) else "a list" if isinstance(value, list) else f"{value!r:.80}"
