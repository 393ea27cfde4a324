"""The parser that all commands share."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from jsonargparse import ArgumentParser


class Parser(ArgumentParser):
    """A parser whose options have dashes and whose errors are one line."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add an argument, underscores of options as dashes."""
        return super().add_argument(*(a.replace("_", "-") if a.startswith("--") else a for a in args), **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line on stderr and leave with exit code 2."""
        print(f"lds: error: {' '.join(str(message).split())}", file=sys.stderr)
        raise SystemExit(2)
