"""The documentation site: `scripts/docs` builds it.

Nothing is fetched, neither at build time nor by the reader's browser: formulas become MathML by latex2mathml, which
browsers draw themselves, with the font STIX Two Math that ziamath brings; references to other packages are not looked
up.
"""

from __future__ import annotations

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
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"lds {release}"
# A browser without a mathematical font of its own would set subscripts on the line.
html_static_path = ["_static", str(Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf")]
html_css_files = ["lds.css"]
html_math_renderer = "mathml"
html_copy_source = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
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


def _full_names() -> dict[str, str]:
    """Return the full names of the public objects by their last part."""
    names = {}
    for module in sorted(PUBLIC, key=len, reverse=True):
        contents = importlib.import_module(module)
        for name in getattr(contents, "__all__", vars(contents)):
            value = getattr(contents, name)
            if getattr(value, "__module__", "").startswith("lds"):
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
        found: nodes.Element | None = domain.resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, content)
        if found is not None:
            return found
    if target.startswith("lds.") and "._" not in target:
        return None
    return content


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """Have links to the examples lead to their page, whose text is theirs."""
    if name == "examples":
        text = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
        source[0] = re.sub(r"\]\((?!https?:)", "](../examples/", text)
    source[0] = source[0].replace("(../examples/README.md)", "(examples.md)")


def check_complete(app: Sphinx, env: Any) -> None:
    """Warn of public names that the API reference lacks."""
    documented = env.get_domain("py").objects
    for module in sorted(PUBLIC):
        for name in getattr(importlib.import_module(module), "__all__", []):
            places = {f"{module}.{name}", FULL_NAMES.get(name)}
            if not places & documented.keys():
                logger.warning("%s.%s is public, but the API reference does not have it", module, name)


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
    app.connect("source-read", read)
    app.connect("env-check-consistency", check_complete)
