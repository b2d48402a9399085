"""Turn facts into Markdown, with one template for each kind of page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jinja2
from markupsafe import Markup

from lightning_qsgd.report import numbers
from lightning_qsgd.report.drawing import Drawing

RULES = {"text": ":---", "number": "---:"}  # types of columns


@dataclass(frozen=True)
class Part:
    """A page, or a part of one.

    Attributes:
        text: the text in Markdown.
        drawings: its figures, each in the file ``figures/<name>.svg``.
        summary: sentences for any reader, at the beginning of the page. Default: none.
        heading: heading of the part if the page has several. Default: "".
    """

    text: str
    drawings: Sequence[Drawing]
    summary: Sequence[str] = ()
    heading: str = ""


def render(
    template: str,
    facts: Mapping[str, Any],
    drawings: Mapping[str, Drawing | None],
    summary: Sequence[str],
    key: str = "",
    heading: str = "",
) -> Part:
    """Render a template.

    Text in facts is escaped, so that no name is taken for markup. Numbers without a format and None are refused.

    Args:
        template: name of the template, without ``.md.j2``.
        facts: the variables of the template.
        drawings: figures by name, for the template's variable ``drawings``; None for a figure that does not exist.
        summary: the first sentences of the page.
        key: prefix of the figures' file names if the page has several parts. Default: "".
        heading: heading of the part if the page has several. Default: "".

    Raises:
        jinja2.UndefinedError: if the template uses an unknown variable.
        TypeError: if the template prints a value that is neither text nor an integer.
    """
    named = {name: drawing and replace(drawing, name=f"{key}{drawing.name}") for name, drawing in drawings.items()}
    text = (
        _environment()
        .get_template(f"{template}.md.j2")
        .render({**facts, "drawings": named, "h": "###" if heading else "##"})
    )
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return Part(text, [drawing for drawing in named.values() if drawing], summary, heading)


def escape(text: str) -> str:
    """Escape all markup in a text, and put it on one line."""
    return re.sub(r"([\\`*_<>|\[\]~$])", r"\\\1", text.replace("&", "&amp;")).replace("\n", " ")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lightning_qsgd.report"),
        autoescape=True,
        finalize=_printed,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    names = ("number", "p_value", "count", "duration", "listed", "percent", "plain")
    environment.filters |= {name: getattr(numbers, name) for name in names}
    environment.filters |= {"code": _code, "sentence": _sentence}
    environment.globals |= {"columns": _columns, "NONE": numbers.NONE}
    return environment


def _printed(value: Any) -> Markup:
    if isinstance(value, Markup):
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | jinja2.Undefined):
        raise TypeError(f"Invalid value in a page: {value!r}; give it a format, such as | number or | plain")
    return Markup(escape(str(value)))


def _columns(types: Mapping[str, str]) -> Markup:
    """The head of a table: a type, "text" or "number", for each column."""
    rows = [[escape(name) for name in types], [RULES[kind] for kind in types.values()]]
    return Markup("\n".join(f"| {' | '.join(row)} |" for row in rows))


def _code(text: str) -> Markup:
    return Markup("\n".join(f"    {line}" for line in text.splitlines()))


def _sentence(text: str) -> str:
    """Add a capital letter and a full stop."""
    return f"{text[0].upper()}{text[1:].rstrip('.')}." if text else ""
