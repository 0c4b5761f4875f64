"""Formulas as MathML, which browsers draw by themselves: pages need nothing from a network.

Not every system has a font with the measures that formulas need, and without one indices stand on
the line; so STIX Two Math (SIL Open Font License) goes with the pages.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

log = logging.getLogger(__name__)

FONT = "STIXTwoMath-Regular.ttf"
STYLE = f"""@font-face {{
  font-family: "STIX Two Math";
  src: local("STIX Two Math"), url("{FONT}") format("truetype");
}}
math {{ font-family: "STIX Two Math", math; font-size: 1.08em; }}
"""


def mathml(node: nodes.math | nodes.math_block, display: str) -> str:
    """The formula of a node as an element `math`; `display` is "inline" or "block"."""
    tex = node.astext()
    made = convert(tex, display=display)
    if "\\" in made:
        log.warning("formula with an unknown command: %s", tex, location=node)
    return made


def inline(page: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    page.body.append(page.starttag(node, "span", "", CLASS="math notranslate"))
    page.body.append(mathml(node, "inline") + "</span>")
    raise nodes.SkipNode


def block(page: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula in a line of its own, with its number if it has a label."""
    page.body.append(page.starttag(node, "div", CLASS="math notranslate"))
    if node["number"]:
        page.body.append(f'<span class="eqno">({get_node_equation_number(page, node)})')
        page.add_permalink_ref(node, "Link to this equation")
        page.body.append("</span>")
    page.body.append(mathml(node, "block") + "</div>\n")
    raise nodes.SkipNode


def write_font(app: Sphinx, error: Exception | None) -> None:
    """Put the font, which is a file of the package ziamath, and its style beside the pages."""
    package = importlib.util.find_spec("ziamath")
    if error is not None or app.builder.format != "html":
        return
    if package is None or package.origin is None:
        raise RuntimeError("the package ziamath, which brings the font of formulas, is missing")
    target = Path(app.outdir) / "_static"
    shutil.copy(Path(package.origin).parent / "fonts" / FONT, target)
    (target / "formulas.css").write_text(STYLE)


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this; ``html_math_renderer = "mathml"`` chooses it."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.add_css_file("formulas.css")
    app.connect("build-finished", write_font)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
