"""Tables of a page as text: LaTeX, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from lds.errors import InputError
from lds.report._numbers import NONE
from lds.report._page import Table

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "−": "$-$", "–": "--", "…": r"\ldots{}", "θ": r"$\theta$", "“": "``", "”": "''",
}  # fmt: skip


def text_of(tables: Sequence[Table], style: str) -> str:
    """Return tables as text, an empty line between two.

    Args:
        tables: what to write.
        style: latex, with the rules of booktabs; csv, where a mean and its deviation, and the two ends of an interval,
            have columns of their own; or md.

    Raises:
        InputError: there is no such style.
    """
    styles = {"latex": _latex, "csv": _csv, "md": _markdown}
    if style not in styles:
        raise InputError(f"table must be {', '.join(list(styles)[:-1])} or {list(styles)[-1]}, got {style!r}")
    return "\n".join(styles[style](table) for table in tables)


def _latex(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join("".join(_LATEX.get(letter, letter) for letter in cell) for cell in cells) + r" \\"

    lines = [
        f"% {table.caption}. Needs \\usepackage{{booktabs}}.".replace("\n", " "),
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        line(table.header),
        r"\midrule",
        *map(line, table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    rule = f"|---|{'--:|' * (len(table.header) - 1)}"
    return "\n".join([line(table.header), rule, *map(line, table.rows)]) + "\n"


def _csv(table: Table) -> str:
    columns: list[list[str]] = []
    previous = ""
    for number, name in enumerate(table.header):
        cells = [row[number] for row in table.rows]
        columns.extend(_columns(name, cells, previous))
        previous = name
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(zip(*columns, strict=True))
    return buffer.getvalue()


def _columns(name: str, cells: Sequence[str], previous: str) -> list[list[str]]:
    """Return the columns of numbers that a column of texts is."""
    plain = ["" if cell in (NONE, "-") else cell.replace("−", "-") for cell in cells]
    if "mean ± std" in name:
        parts = [(*cell.split(" ± "), "")[:2] for cell in plain]
        return _parts(name, "mean ± std", ("mean", "std"), parts)
    if "mean [95 % interval]" in name:
        matches = [re.fullmatch(r"(.*) \[(.*), (.*)\]", cell) for cell in plain]
        parts = [m.groups() if m else (cell, "", "") for m, cell in zip(matches, plain, strict=True)]
        return _parts(name, "mean [95 % interval]", ("mean", "low", "high"), parts)
    if name == "95 % interval":
        ends = [(*cell.strip("[]").split(", "), "")[:2] for cell in plain]
        return _parts(f"{previous.split(' (')[0]} {name}", name, ("low", "high"), ends)
    return [[name, *plain]]


def _parts(name: str, old: str, new: Sequence[str], cells: Sequence[Sequence[str | None]]) -> list[list[str]]:
    return [[name.replace(old, what), *(cell[at] or "" for cell in cells)] for at, what in enumerate(new)]
