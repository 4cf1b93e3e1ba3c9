"""Settings of the site that `make site` builds from what `build.py` gathers: notebooks as they are, docstrings, no network."""

import re

from docutils.nodes import SkipNode
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import SphinxError

project, author, html_title = "zolab", "zolab", "zolab"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["notebooks/site"]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header", "ref.python"]  # a notebook may step from # to ###; some names are public in two rooms
html_theme = "furo"
html_math_renderer = "mathml"
html_static_path, html_css_files = ["static"], ["math.css"]
html_show_copyright = html_copy_source = html_show_sourcelink = False
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
SECTIONS = {f"{name}:" for name in ("Args", "Returns", "Yields", "Raises", "Attributes", "Example", "Examples", "Note")}
napoleon_google_docstring, napoleon_numpy_docstring = True, False


def in_markdown(app, what, name, obj, options, lines):
    """Docstrings are written like our Markdown: one backtick is code, * and | are themselves, indented text is literal."""
    made, section, listed = [], False, False
    for line in lines:
        indented, before = line.startswith(" "), made[-1] if made else ""
        item = line.startswith(("- ", "* "))
        if line and not indented:
            section, listed = line in SECTIONS, item or (listed and bool(before))
            if before.startswith(" ") or (item and before and not before.startswith("- ")):
                made.append("")
        elif line and not section and not listed:
            if not before.startswith(" ") and before != "":
                made.append("")
            if not any(past.startswith(" ") for past in made[-2:]):
                made += ["::", ""]
            made.append(line)
            continue
        made.append(in_code(line))
    lines[:] = made


def in_code(line):
    parts = re.split(r"(`+[^`]+`+)", line)
    plain = [re.sub(r"([*|\\]|_\b)", r"\\\1", part) for part in parts]
    return "".join(f"``{part.strip('`')}``" if place % 2 else plain[place] for place, part in enumerate(parts))


def mathml(translator, node):
    """Formulas as MathML, which browsers show by themselves: no script, no fonts, no network."""
    try:
        tex = re.sub(r"\\([bB]ig|textstyle)(?![a-z])", "", node.astext())  # brackets grow by themselves, sums are small in text
        formula = tex2mathml(tex, as_block=node.tagname == "math_block")
    except MathError as error:
        raise SphinxError(f"{node.source}:{node.line}: {node.astext()!r} cannot be shown as MathML: {error}") from error
    translator.body.append(formula)
    raise SkipNode


def setup(app):
    app.connect("autodoc-process-docstring", in_markdown, priority=100)  # before napoleon reads Args and Returns
    app.add_html_math_renderer("mathml", inline_renderers=(mathml, None), block_renderers=(mathml, None))
