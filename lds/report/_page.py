"""From sections to HTML."""

from __future__ import annotations

from collections.abc import Sequence

import jinja2

from lds._version import __version__
from lds.report._blocks import Section


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
