"""The command line: a module per command, each with `add(commands)` and `run(options)`.

`COMMANDS` describes them. What needs no command, such as `lds --help`, is answered from it alone; else only the module
of the command that is asked for is imported, when signals are handled already. Modules of commands import nothing heavy
before `run`: help and error messages must come without torch.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper

from lds._kernel import kernel
from lds._signals import Interrupted, stops_at_once, stops_later
from lds._version import __version__
from lds.cli._commands import COMMANDS, SHELLS
from lds.errors import InputError, LDSError


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for bad input, 128 + n after signal n."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # A name of a file need be no text.
            stream.reconfigure(errors="backslashreplace")
    try:
        with stops_at_once("nothing was begun"), warnings_in_a_line(), _modules_of_this_folder():
            return _main(sys.argv[1:] if argv is None else argv)
    except LDSError as error:
        print(f"lds: error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except OSError as error:  # Of the file system, wherever nobody looked for it.
        name = "a file" if error.filename is None else str(error.filename)
        print(f"lds: error: {' '.join(name.splitlines())} cannot be used: {error.strerror or error}", file=sys.stderr)
        return 2
    except MemoryError:
        print("lds: error: memory is too small; take less data, or a machine with more", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"lds: {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("lds: interrupted", file=sys.stderr)
        return 130


@contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """Have warnings look like the messages of the command line, without the line of code that they come from."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *args, **kwargs: f"lds: warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def _modules_of_this_folder() -> Iterator[None]:
    """Have `--model my_models:Net` find my_models.py of the current folder, after all that is installed."""
    try:
        here = os.getcwd()
    except OSError:  # The folder is gone.
        here = ""
    added = bool(here) and here not in sys.path and "" not in sys.path
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def _main(argv: list[str]) -> int:
    first = argv[0] if argv else "--help"
    if first in ("-h", "--help"):
        print(_overview())
        return 0
    if first == "--version":
        print(f"lds {__version__} (kernel: {kernel()})")
        return 0
    if first != "--completion" and first not in COMMANDS:
        raise InputError(_unknown(first))
    # An import that is cut off may say so in a traceback of its own.
    with stops_later():
        from lds.cli._parser import Parser

        names = list(COMMANDS) if first == "--completion" else [first]
        modules = {name: import_module(f"lds.cli._{name}") for name in names}
    parser = Parser(prog="lds", description="Learn the graph structure of a graph network by hypergradients.")
    commands = parser.add_subcommands(required=False)
    for module in modules.values():
        module.add(commands)
    if first == "--completion":
        return _completion(parser, argv[1:])
    options = parser.parse_args(argv)
    with stops_at_once():
        code: int = modules[first].run(options[first])
    return code


def _overview() -> str:
    lines = [
        "usage: lds COMMAND [options]",
        "",
        "Learn the graph structure of a graph network by hypergradients.",
        "",
        "commands:",
    ]
    for name, (text, example) in COMMANDS.items():
        lines += [f"  {name:<8}{text}", f"{'':10}{example}"]
    return "\n".join(
        [
            *lines,
            "",
            "options:",
            "  -h, --help          show this help; lds COMMAND --help shows that of a command",
            "  --version           show the version",
            "  --completion SHELL  print what has options completed in bash, zsh or tcsh, e.g.",
            '                      eval "$(lds --completion bash)"',
        ]
    )


def _unknown(first: str) -> str:
    from lds._checks import meant

    if first.startswith("-"):
        return f"unrecognized arguments: {first}{meant(first, ['--help', '--version', '--completion'])}"
    return f"a command must be one of {', '.join(COMMANDS)}, got {first!r:.80}{meant(first, COMMANDS)}"


def _completion(parser: object, shells: list[str]) -> int:
    from jsonargparse import ArgumentParser

    assert isinstance(parser, ArgumentParser)
    if len(shells) != 1 or shells[0] not in SHELLS:
        raise InputError(f"--completion must name one of {', '.join(SHELLS)}, got {' '.join(shells)!r:.80}")
    try:
        import shtab  # type: ignore[import-not-found,unused-ignore]  # noqa: F401 - jsonargparse uses it
    except ImportError as error:
        raise InputError("--completion needs shtab, which is not here; pip install 'lds-gnn[completion]'") from error
    print(parser.get_completion_script(f"shtab-{shells[0]}"))
    return 0
