"""A report's summary in Markdown, with its figures in files beside it."""

import re
from collections.abc import Sequence
from pathlib import Path

from lightning_qsgd.comparison.drawing import Drawing
from lightning_qsgd.comparison.sections import Section, Task
from lightning_qsgd.comparison.tables import Table

KEPT = ("contrasts", "claims", "curves", "arms", "targets", "cost", "live", "settings", "unfinished", "methods")
KEPT += ("provenance",)
BRIEF = {  # columns
    "cost": ("arm", "n", "seconds", "quartiles", "circuits", "peak memory"),
    "live": ("arm", "norm ratio", "offset", "spread", "learning-rate factor", "what follows"),
}


def render(
    title: str,
    tasks: Sequence[Task],
    together: Section | None = None,
    folder: str = "figures",
    kept: Sequence[str] | None = KEPT,
) -> tuple[str, dict[Path, str]]:
    """The summary.

    Args:
        title: its heading.
        tasks: at least one.
        together: a section over all tasks. Default: None.
        folder: of the figures, relative to the summary. Default: "figures".
        kept: keys of the sections that it has; None: all. Default: those of a comparison's summary.

    Returns:
        Text, and each figure's SVG by path (relative to the summary).
    """
    lines, files = [f"# {escape(title)}", ""], {}
    for task in tasks:
        level = "##"
        if len(tasks) > 1:
            lines += [f"## {escape(task.title)}", ""]
            level = "###"
        lines += [escape(" ".join(task.verdict)), ""]
        lines += [escape(task.subject), ""] if task.subject else []
        prefix = f"{task.key}_" if len(tasks) > 1 else ""
        for section in task.sections:
            if kept is None or section.key in kept:
                lines += _section(section, prefix, folder, files, level)
    if together is not None:
        lines += _section(together, "", folder, files, "##")
    return "\n".join(lines).rstrip() + "\n", files


def escape(text: str) -> str:
    """Text in which nothing is markup, on one line."""
    return re.sub(r"([\\`*_<>|\[\]~$])", r"\\\1", text.replace("&", "&amp;")).replace("\n", " ")


def _section(section: Section, prefix: str, folder: str, files: dict[Path, str], level: str) -> list[str]:
    lines = [f"{level} {escape(section.title)}", ""]
    lines += [line for warning in section.warnings for line in (f"**{escape(warning)}**", "")]
    for block in filter(None, section.blocks):
        if isinstance(block, Drawing):
            path = Path(folder) / f"{prefix}{block.name}.svg"
            files[path] = block.svg
            lines += [f"![{escape(block.alt)}]({path.as_posix()})", "", f"*{escape(block.caption)}*", ""]
        elif isinstance(block, Table):
            lines += _table(block, BRIEF.get(section.key))
        elif block is not None:
            lines += [escape(block), ""]
    return lines


def _table(table: Table, wanted: Sequence[str] | None) -> list[str]:
    headers = table.headers()
    chosen = [i for i, (name, _) in enumerate(headers) if wanted is None or re.split(r" [(/]", name)[0] in wanted]
    rule = ["---:" if headers[i][1] else ":---" for i in chosen]
    rows = [[escape(headers[i][0]) for i in chosen], rule, *([escape(row[i]) for i in chosen] for row in table.rows)]
    return [*(f"| {' | '.join(row)} |" for row in rows), "", f"*{escape(table.caption)}*", ""]
