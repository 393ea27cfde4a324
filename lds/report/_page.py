"""What a page is made of, and its HTML; page.html.jinja knows how each part looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import jinja2

from lds._version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Facts:
    """Figures to see first: pairs of what it is, and its value."""

    kind: ClassVar[str] = "facts"
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows.
        header: its columns.
        rows: its cells; the first of each row is its name.
        note: how to read it.
        folded: whether a click must open it.
    """

    kind: ClassVar[str] = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        title: what it shows.
        svg: the drawing, an SVG element.
        text: how to read it.
        name: prefix of the ids in it, and name of its files.
        figure: the figure that the drawing is of.
        points: what a pointer may stand on, JSON: a list of [x, y, text], in the coordinates of the drawing.
    """

    kind: ClassVar[str] = "picture"
    title: str
    svg: str
    text: str
    name: str
    figure: Figure
    points: str


@dataclass(frozen=True)
class Pictures:
    """Figures side by side, where there is room."""

    kind: ClassVar[str] = "pictures"
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Printout:
    """Text as it was printed, behind a click."""

    kind: ClassVar[str] = "printout"
    title: str
    text: str


@dataclass(frozen=True)
class Explorer:
    """Neighbourhoods of all nodes, of which the reader chooses one.

    Attributes:
        name: its id.
        start: the node to begin with.
        data: what page.js draws from, JSON.
    """

    kind: ClassVar[str] = "explorer"
    name: str
    start: int
    data: str


Block = Text | Facts | Table | Pictures | Printout | Explorer


@dataclass(frozen=True)
class Part:
    """Blocks under a heading."""

    heading: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Section:
    """What there is to say about one folder."""

    title: str
    subtitle: str
    parts: list[Part] = field(default_factory=list)


def render_page(title: str, sections: Sequence[Section]) -> str:
    """Return the HTML of a page; all text is escaped, and only SVG is taken as it is."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lds.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(title=title, sections=sections, version=__version__)
