"""From facts to Markdown: one template for each kind of page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jinja2
from markupsafe import Markup

from lightning_qsgd.report import numbers
from lightning_qsgd.report.drawing import Drawing

RULES = {"text": ":---", "number": "---:"}  # types of a table's columns


@dataclass(frozen=True)
class Part:
    """A page, or a part of one.

    Attributes:
        text: Markdown.
        drawings: the figures that it shows, each as ``figures/<name>.svg``.
        summary: what a page begins with: three sentences for readers who were not there.
        heading: its name, where a page has several parts.
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
    """Fill in a template.

    In a template, text is escaped, so that no name is markup; a number without a format is refused, and so is None.

    Args:
        template: its name, without ``.md.j2``.
        facts: what the template names.
        drawings: figures that it shows, which it finds in ``drawings`` by these names; None for what there is not.
        summary: the page's first sentences.
        key: beginning of the figures' file names, where a page has several parts. Default: "".
        heading: the part's name there. Default: "".

    Raises:
        jinja2.UndefinedError: if the template names a fact that is not there.
        TypeError: if it prints a value that is neither text nor a whole number.
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
    """Text in which nothing is markup, on one line."""
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
    """With a capital letter and a full stop."""
    return f"{text[0].upper()}{text[1:].rstrip('.')}." if text else ""
