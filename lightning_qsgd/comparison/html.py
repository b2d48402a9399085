"""A report as one HTML page that loads nothing."""

import base64
from collections.abc import Sequence

import jinja2

from lightning_qsgd.comparison.drawing import Drawing
from lightning_qsgd.comparison.sections import Section, Task
from lightning_qsgd.comparison.tables import Table


def render(
    title: str,
    tasks: Sequence[Task],
    together: Section | None = None,
    kind: str = "comparison of training algorithms",
) -> str:
    """The page.

    Args:
        title: of the page.
        tasks: at least one.
        together: a section over all tasks. Default: None.
        kind: what the page is, above its title. Default: "comparison of training algorithms".
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lightning_qsgd.comparison"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.tests |= {"table": lambda block: isinstance(block, Table), "drawing": lambda b: isinstance(b, Drawing)}
    environment.filters["data_uri"] = _data_uri
    return environment.get_template("report.html.j2").render(title=title, tasks=tasks, together=together, kind=kind)


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
