"""The parser that all commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]

from lds._read import parse_yaml, reason
from lds.errors import DataError


class Parser(ArgumentParser):
    """A parser whose options have dashes and whose errors are one line."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add an argument, underscores of options as dashes."""
        return super().add_argument(*(a.replace("_", "-") if a.startswith("--") else a for a in args), **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line on stderr and leave with exit code 2."""
        print(f"lds: error: {' '.join(str(message).split())}", file=sys.stderr)
        raise SystemExit(2)


class ConfigFile(ActionConfigFile):
    """An option that names a YAML file; jsonargparse reads it after it was found to be one."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Read the file, or end with one line."""
        try:
            parse_yaml(Path(values).read_text(encoding="utf-8"))
        except OSError:
            pass  # jsonargparse says so.
        except (UnicodeDecodeError, DataError) as error:
            parser.error(f"{option_string} must be a YAML file, but {values} is not: {reason(error)}")
        super().__call__(parser, cfg, values, option_string)  # type: ignore[no-untyped-call]
