"""The command line: a module a command, each with `add(commands)` and `run(options)`.

Modules of commands import nothing heavy before `run`: help and error messages must come without torch.
"""

from __future__ import annotations

import sys
from types import ModuleType

from lds._signals import Interrupted
from lds._version import __version__
from lds.cli import _ablate, _data, _export, _report, _sweep, _train
from lds.cli._parser import Parser
from lds.errors import LDSError

_COMMANDS: dict[str, ModuleType] = {
    "train": _train,
    "ablate": _ablate,
    "sweep": _sweep,
    "report": _report,
    "export": _export,
    "data": _data,
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for bad input, 128 + n after signal n."""
    parser = Parser(prog="lds", description="Learn the graph structure of a graph network by hypergradients.")
    parser.add_argument("--version", action="version", version=f"lds {__version__}")
    commands = parser.add_subcommands(required=False)
    for module in _COMMANDS.values():
        module.add(commands)
    options = parser.parse_args(argv)
    if options.subcommand is None:
        parser.print_help()
        return 0
    try:
        code: int = _COMMANDS[options.subcommand].run(options[options.subcommand])
        return code
    except LDSError as error:
        print(f"lds: error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"lds: {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("lds: interrupted", file=sys.stderr)
        return 130
