"""The command line: a module a command, each with `add(commands)` and `run(options)`.

Modules of commands import nothing heavy before `run`: help and error messages must come without torch. They are
imported themselves when signals are handled already.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from types import ModuleType

from lds._kernel import kernel
from lds._signals import Interrupted, stops_at_once, stops_later
from lds._version import __version__
from lds.errors import LDSError


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for bad input, 128 + n after signal n."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # A name of a file need be no text.
            stream.reconfigure(errors="backslashreplace")
    try:
        with stops_at_once("nothing was begun"), warnings_in_a_line():
            return _main(argv)
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


def _main(argv: list[str] | None) -> int:
    # An import that is cut off may say so in a traceback of its own.
    with stops_later():
        from lds.cli import _ablate, _data, _export, _report, _sweep, _train
        from lds.cli._parser import Parser

    modules: dict[str, ModuleType] = {
        "train": _train,
        "ablate": _ablate,
        "sweep": _sweep,
        "report": _report,
        "export": _export,
        "data": _data,
    }
    parser = Parser(prog="lds", description="Learn the graph structure of a graph network by hypergradients.")
    parser.add_argument("--version", action="version", version=f"lds {__version__} (kernel: {kernel()})")
    commands = parser.add_subcommands(required=False)
    for module in modules.values():
        module.add(commands)
    options = parser.parse_args(argv)
    if options.subcommand is None:
        parser.print_help()
        return 0
    with stops_at_once():
        code: int = modules[options.subcommand].run(options[options.subcommand])
    return code
