"""Turn Markdown into one HTML file that loads no other files, and write both."""

import base64
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import jinja2
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from lightning_qsgd.files import atomic_write
from lightning_qsgd.report.document import Part, escape
from lightning_qsgd.report.drawing import Drawing

LEVELS = ("h2", "h3")  # headings in the table of contents


def write_page(title: str, parts: Sequence[Part], output: Path, name: str, kind: str) -> list[Path]:
    """Write ``<name>.html``, and ``<name>.md`` with ``figures/``, each completely or not at all.

    Args:
        title: title of the page.
        parts: parts of the page, at least one.
        output: the folder, which is made if it does not exist.
        name: name of the files, without suffix.
        kind: the kind of page, which is shown above its title.

    Returns:
        The paths of the files.

    Raises:
        OSError: if a file cannot be written.
    """
    text = "\n".join([f"# {escape(title)}\n", *map(_summary, parts), *map(_body, parts)])
    drawings = [drawing for part in parts for drawing in part.drawings]
    files = {f"{name}.html": to_html(text, title, kind, drawings), f"{name}.md": text}
    files |= {_path(drawing): drawing.svg for drawing in drawings}
    for path, content in files.items():
        with atomic_write(output / path) as file:
            file.write(content)
    return [output / path for path in files]


def _summary(part: Part) -> str:
    name = f"**{escape(part.heading)}**: " if part.heading else ""
    return f"> {name}{escape(' '.join(part.summary))}\n"


def _body(part: Part) -> str:
    return f"## {escape(part.heading)}\n\n{part.text}" if part.heading else part.text


def to_html(text: str, title: str, kind: str, drawings: Sequence[Drawing]) -> str:
    """Convert a page from Markdown to HTML with embedded figures.

    Args:
        text: the page in Markdown. HTML in it is shown as text.
        title: title of the page.
        kind: the kind of page.
        drawings: the figures of the page.
    """
    parser = MarkdownIt("commonmark", {"html": False, "xhtmlOut": False}).enable("table")
    tokens = parser.parse(text)
    headings = _headings(tokens)
    _rows(tokens)
    _paragraphs(tokens, {_path(drawing): drawing.svg for drawing in drawings})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lightning_qsgd.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    body = parser.renderer.render(tokens, parser.options, {})
    body = body.replace("<table>", '<div class="scroll" tabindex="0" role="region" aria-label="Table">\n<table>')
    before, heading, after = body.replace("</table>", "</table>\n</div>").partition("<h2")
    return environment.get_template("page.html.j2").render(
        title=title,
        kind=kind,
        headings=headings,
        several=any(tag == "h3" for tag, _, _ in headings),
        before=Markup(before),
        after=Markup(heading + after),
    )


def _headings(tokens: list[Token]) -> list[tuple[str, str, str]]:
    """Set ids of headings, and return (tag, id, text) of those in the table of contents."""
    found: list[tuple[str, str, str]] = []
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.tag in LEVELS:
            words = "".join(child.content for child in inline.children or [])
            slug = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") or "part"
            same = sum(other == slug or other.startswith(f"{slug}--") for _, other, _ in found)
            token.attrSet("id", slug if not same else f"{slug}--{same + 1}")
            found.append((token.tag, str(token.attrGet("id")), words))
    return found


def _rows(tokens: list[Token]) -> None:
    """Make the first cell of each row its header, and let long cells break."""
    for k, token in enumerate(tokens):
        if token.type not in ("th_open", "td_open"):
            continue
        if token.tag == "th" or tokens[k - 1].type == "tr_open":
            token.attrSet("scope", "col" if token.tag == "th" else "row")
            token.tag = tokens[k + 2].tag = "th"  # also of the closing tag
        if len(tokens[k + 1].content) > 40 and token.attrGet("scope") != "col":
            token.attrSet("class", "long")


def _paragraphs(tokens: list[Token], figures: dict[str, str]) -> None:
    """Embed figures. A paragraph that is all emphasis is a caption, and one that is all strong is a warning."""
    for token, inline in pairwise(tokens):
        children = [child for child in inline.children or [] if child.type != "text" or child.content]
        if token.type != "paragraph_open" or not children:
            continue
        kinds = [child.type for child in children]
        for mark, name in (("em", "caption"), ("strong", "warning")):
            if kinds[0] == f"{mark}_open" and kinds.index(f"{mark}_close") == len(kinds) - 1:
                token.attrSet("class", name)
        if kinds == ["image"]:
            (image,) = children
            svg = figures[str(image.attrGet("src"))]
            image.attrSet("src", "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode())
            token.attrSet("class", "card")


def _path(drawing: Drawing) -> str:
    return f"figures/{drawing.name}.svg"
