"""The documentation site: `scripts/docs` builds it.

Nothing is fetched, neither at build time nor by the reader's browser: formulas become MathML by latex2mathml, which
browsers draw themselves, with the font STIX Two Math that ziamath brings; references to other packages are not looked
up.
"""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import latex2mathml.converter
import ziamath
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

import lds

logger = logging.getLogger(__name__)
ROOT = Path(__file__).parents[1]

project = "lds"
author = copyright = "The lds developers"
version = release = lds.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
autosummary_generate = False

html_theme = "furo"
html_title = f"lds {release}"
# A browser without a mathematical font of its own would set subscripts on the line.
html_static_path = [
    "_static",
    str(Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf"),
]
html_css_files = ["lds.css"]
html_math_renderer = "mathml"
html_copy_source = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_execution_in_temp = True  # What a notebook writes is not left among the pages.
nb_output_stderr = "remove"  # Of progress bars; the tests turn warnings into errors.

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_ivar = True
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True
default_role = "py:obj"
nitpicky = True

# The modules of the API reference. Each public name is said to be of the module that exports it, not of the private one
# that defines it, so that signatures refer to the former.
PUBLIC = {
    "lds.hypergrad.memory",
    "lds.hypergrad",
    "lds.updaters.schedules",
    "lds.updaters",
    "lds.graph",
    "lds.nn",
    "lds.data",
    "lds.run",
    "lds.sweep",
    "lds.ablate",
    "lds.report",
    "lds.transforms",
    "lds.learner",
    "lds.errors",
    "lds",
}


# The modules that really define the public objects, by their public names: for links to the source.
HOMES: dict[str, str] = {}


def _full_names() -> dict[str, str]:
    """Return the full names of the public objects by their last part."""
    names = {}
    for module in sorted(PUBLIC, key=len, reverse=True):
        contents = importlib.import_module(module)
        for name in getattr(contents, "__all__", vars(contents)):
            value = getattr(contents, name)
            if getattr(value, "__module__", "").startswith("lds"):
                HOMES.setdefault(f"{module}.{name}", value.__module__)
                value.__module__ = module
                names[name] = f"{module}.{name}"
    return names


FULL_NAMES = _full_names()


def resolve(app: Sphinx, env: Any, node: Any, content: nodes.Element) -> nodes.Element | None:
    """Find a public name by its last part; leave what is not of this package, or not public, as it stands.

    What remains, a name under `lds.` that is not documented, is a broken reference, and an error.
    """
    target = node["reftarget"]
    full = FULL_NAMES.get(target.rsplit(".", 1)[-1])
    if full is not None and full != target and (target.startswith("lds.") or "." not in target):
        domain = env.get_domain("py")
        found: nodes.Element | None = domain.resolve_xref(
            env, node["refdoc"], app.builder, "obj", full, node, content
        )
        if found is not None:
            return found
    if target.startswith("lds.") and "._" not in target:
        return None
    return content


def home(app: Sphinx, module: str, attribute: str) -> str | None:
    """Return the module whose source has a public object."""
    return HOMES.get(f"{module}.{attribute.split('.')[0]}")


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """Write the gallery, and the entries of API pages."""
    if name == "examples":
        source[0] += _gallery()
    # In other pages, whose links lead to files where they are read on their own.
    source[0] = re.sub(
        r"\((?:\.\./)+examples/README\.md\)", f"({_up(name)}examples.md)", source[0]
    )
    source[0] = re.sub(
        r"\((?:\.\./)+examples/(\w+)\.py\)", rf"({_up(name)}gallery/\1.md)", source[0]
    )
    source[0] = re.sub(r"```\{api\} ([\w.]+)\n(.*?)```", _entries, source[0], flags=re.DOTALL)


def _up(name: str) -> str:
    return "../" * name.count("/")


def _entries(match: re.Match[str]) -> str:
    """Return the entries of a module by topic: a table of what there is, and then each in full.

    A line of the block is a topic and its names. What the module exports beyond them comes last.
    """
    module, block = match[1], match[2]
    exported = importlib.import_module(module)
    topics = [line.split(":") for line in block.strip().splitlines()]
    named = {name for _, names in topics for name in names.split()}
    rest = [
        name
        for name in getattr(
            exported,
            "__all__",
            [n for n in vars(exported) if FULL_NAMES.get(n) == f"{module}.{n}"],
        )
        if name not in named
        and callable(getattr(exported, name))
        and HOMES.get(f"{module}.{name}")
    ]
    if rest:
        topics.append(["More", " ".join(rest)])
    text = []
    for topic, names in topics:
        lines = [
            f".. currentmodule:: {module}",
            "",
            ".. autosummary::",
            "   :nosignatures:",
            "",
        ]
        lines += [f"   {name}" for name in names.split()]
        for name in names.split():
            what = "autoclass" if isinstance(getattr(exported, name), type) else "autofunction"
            lines += [
                "",
                f".. {what}:: {module}.{name}",
                *(["   :members:"] if what == "autoclass" else []),
            ]
        text.append(f"## {topic}\n\n```{{eval-rst}}\n" + "\n".join(lines).strip() + "\n```\n")
    return "\n".join(text)


def _examples() -> dict[str, tuple[str, str, str]]:
    """Return title, text of a picture and findings of each example, from their README."""
    found = {}
    for row in (ROOT / "examples" / "README.md").read_text(encoding="utf-8").splitlines():
        match = re.match(
            r"\| \[!\[(.*?)\]\(pictures/(\w+)\.png\)\]\(\w+\.py\) \| \*\*.*?\*\*: (.*) \|$", row
        )
        if match:
            found[match[2]] = (_title(_docstring(match[2])[0]), match[1], match[3])
    return found


def _title(line: str) -> str:
    """Return what a line is about, without what is said of it after a colon, or else after a comma."""
    return line.partition(": ")[0] if ": " in line else line.partition(", ")[0]


def _docstring(name: str) -> tuple[str, str]:
    """Return first line and rest of the docstring of an example."""
    text = (
        ast.get_docstring(
            ast.parse((ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8"))
        )
        or name
    )
    first, _, rest = text.partition("\n")
    return first.strip().rstrip("."), rest.strip()


def write_gallery(app: Sphinx) -> None:
    """Write a page an example: what it is about, its picture, what it found, and its code."""
    folder = Path(app.srcdir) / "gallery"
    folder.mkdir(exist_ok=True)
    for name, (title, alt, findings) in _examples().items():
        commands, text = [], []
        for paragraph in _docstring(name)[1].split("\n\n"):
            if paragraph.lstrip().startswith("python "):
                commands.append(re.sub(r"^ +", "", paragraph, flags=re.MULTILINE))
            else:
                text.append(paragraph)
        page = [
            f"# {title}",
            f"{_docstring(name)[0]}.",
            *text,
            f"```{{figure}} ../../examples/pictures/{name}.png\n:alt: {alt}\n:width: 100%\n```",
            f"**What it finds.** {findings}",
            "```bash\n" + "\n".join(commands) + "\n```",
            f"## The code\n\n```{{literalinclude}} ../../examples/{name}.py\n:language: python\n"
            ":start-at: from __future__\n```\n",
        ]
        path, content = folder / f"{name}.md", "\n\n".join(page)
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")


def _gallery() -> str:
    """Return the pictures of all examples, each a link to its page."""
    cards = [
        f"```{{figure}} ../examples/pictures/{name}.png\n:alt: {alt}\n:target: gallery/{name}.html\n\n"
        f"[{title}](gallery/{name}.md)\n```\n"
        for name, (title, alt, _) in _examples().items()
    ]
    pages = "\n".join(f"gallery/{name}" for name in _examples())
    return (
        "\n````{container} gallery\n"
        + "\n".join(cards)
        + "````\n\n```{toctree}\n:hidden:\n\n"
        + pages
        + "\n```\n"
    )


def check_complete(app: Sphinx, env: Any) -> None:
    """Warn of public names that the API reference lacks."""
    documented = env.get_domain("py").objects
    for module in sorted(PUBLIC):
        for name in getattr(importlib.import_module(module), "__all__", []):
            places = {f"{module}.{name}", FULL_NAMES.get(name)}
            if not places & documented.keys():
                logger.warning(
                    "%s.%s is public, but the API reference does not have it", module, name
                )


def inline_math(translator: Any, node: nodes.math) -> None:
    """Write a formula in a line."""
    translator.body.append(latex2mathml.converter.convert(node.astext()))
    raise nodes.SkipNode


def block_math(translator: Any, node: nodes.math_block) -> None:
    """Write a displayed formula; one without an environment of its own may have alignments."""
    latex = node.astext().strip()
    if "\\\\" in latex and "\\begin" not in latex:
        latex = rf"\begin{{aligned}}{latex}\end{{aligned}}"
    formula = latex2mathml.converter.convert(latex, display="block")
    translator.body.append(f'<div class="formula">{formula}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Register the above."""
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.connect("missing-reference", resolve)
    app.connect("builder-inited", write_gallery)
    app.connect("source-read", read)
    app.connect("viewcode-follow-imported", home)
    app.connect("env-check-consistency", check_complete)
