"""The parser that all commands share."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentParser,
    DefaultHelpFormatter,
    get_loader,
    set_loader,
)

from lds._checks import meant, text_fault
from lds._files import read_file
from lds._read import parse_yaml, reason
from lds.cli._commands import COMMANDS
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


class _Help(DefaultHelpFormatter):
    """Help that says what an option is for and its default, and leaves types to the choices and the text."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = super()._get_help_string(action)
        return re.sub(r" \((?:required, )?type: .*\)$", "", text, flags=re.DOTALL) + _default(action)


def _default(action: argparse.Action) -> str:
    default = action.default
    if isinstance(default, list):
        default = " ".join(map(str, default))
    shown = default is not None and default is not False and default != argparse.SUPPRESS and action.option_strings
    # A percent sign would be filled in by argparse.
    return f" (default: {str(default).replace('%', '%%')})" if shown else ""


class Parser(ArgumentParser):
    """A parser whose options have dashes and whose errors are one line.

    Truth values need no value: `--progress` is `--progress true`.

    Args:
        command: a command of `COMMANDS`, whose example stands below the help; None for the parser of all.
        needs: its arguments that are no options, for the line of its usage.
        options: those of jsonargparse's parser.
    """

    def __init__(self, command: str | None = None, needs: str = "", **options: Any) -> None:
        if command is not None:
            text, example = COMMANDS[command]
            usage = " ".join(["lds", command, *filter(None, [needs]), "[options]"])
            options = {"description": text, "epilog": f"example: {example}", "usage": usage} | options
        super().__init__(parser_mode=_MODE, formatter_class=_Help, **options)

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add an argument, underscores of options as dashes."""
        action = super().add_argument(*(a.replace("_", "-") if a.startswith("--") else a for a in args), **kwargs)
        if kwargs.get("type") is bool:
            action.nargs, action.const = "?", True
            action.metavar = "{true,false}"
        return action

    def show_under(self, title: str, names: Sequence[str]) -> None:
        """Show these options, by the names of their values, under a title of their own."""
        group = self.add_argument_group(title)
        chosen = [action for action in self._actions if action.dest in names]
        for others in self._action_groups:
            others._group_actions[:] = [action for action in others._group_actions if action not in chosen]
        group._group_actions.extend(sorted(chosen, key=lambda action: names.index(action.dest)))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line on stderr and leave with exit code 2."""
        line = _plain(" ".join(str(message).split()), _options(self))
        if len(line) > _LONGEST:  # What a file holds need not be printed as a whole.
            line = f"{line[:_LONGEST]} …"
        print(f"lds: error: {line}".encode("utf-8", "backslashreplace").decode(), file=sys.stderr)
        raise SystemExit(2)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the options of a parser and of those below it."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _options(below)


def _plain(message: str, options: Iterator[str]) -> str:
    """Return a message of the parser as the package words its own, with what may have been meant."""
    if found := re.fullmatch(r"unrecognized arguments: (\S+)(.*)", message):
        name = found[1].partition("=")[0]
        return message + (meant(name, options) if name.startswith("--") else "")
    # A choice, or one that may be left out.
    if found := re.fullmatch(
        r'Parser key "([\w.]+)": (?:Does not validate .*? Errors: - )?Expected a (?:typing\.)?Literal\[([^]]*)\].*'
        r"(?:Got|Given) value: (.*)",
        message,
    ):
        known = [name.strip().strip("'") for name in found[2].split(",")]
        name = found[1].rpartition(".")[2].replace("_", "-")
        return f"--{name} must be one of {', '.join(known)}, got {found[3]!r:.80}{meant(found[3], known)}"
    if found := re.fullmatch(r"argument \S+: invalid choice: '(.*)' \(choose from (.*)\)", message):
        known = [name.strip().strip("'") for name in found[2].split(",")]
        return message + meant(found[1], known)
    return message


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
                parser.error(
                    f"{option_string} must hold options of the command, but {values} has {str(name)!r:.80}"
                    f"{meant(name, known)}"
                )
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
