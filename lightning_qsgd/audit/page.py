"""The page of an audit: conclusion, pictures, tables, and how it was measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_qsgd.audit import figures, statements
from lightning_qsgd.audit.findings import PerturbationFindings
from lightning_qsgd.audit.saved import save_findings
from lightning_qsgd.comparison import html, markdown
from lightning_qsgd.comparison.sections import Section, Task, shown
from lightning_qsgd.files import atomic_write

KIND = "audit of a quantum part"
WARNING = (
    "A share of power is no effect on training: a small part may matter, and a large one may not. What replacing the "
    "perturbation does to a trained model is measured by: lightning-qsgd audit --compare"
)


def perturbation_task(
    findings: PerturbationFindings,
    conclusion: Sequence[str],
    verdict: Sequence[str] | None = None,
    key: str = "perturbation",
    title: str = "Perturbation",
) -> Task:
    """What a page says about an optimizer's perturbation.

    Args:
        findings: of the audit.
        conclusion: sentences, first on the page.
        verdict: sentences of a comparison with classical twins, last on the page. Default: None, none was run.
        key: of its anchors. Default: "perturbation".
        title: its name, where the page has several parts. Default: "Perturbation".
    """
    power, layers, modulation = (
        draw(findings) for draw in (figures.power_over_time, figures.layers, figures.modulation)
    )
    nothing = None if findings.shares.power else "s was 0 wherever it was recorded, so there is nothing to draw."
    without = "No tensor has enough recorded blocks for a split of its own."
    sections = [
        Section(
            "power",
            "What it consists of",
            [statements.meaning(findings), nothing, power, statements.shares_table(findings)],
        ),
        Section("layers", "Layer by layer", [layers or (None if nothing else without)]),
        Section("equivalents", "What does the same, classically", [modulation, statements.equivalents_table(findings)]),
        Section("methods", "How this was measured", statements.methods(findings), warnings=[WARNING]),
        Section("training", "Does it matter for training?", list(verdict or [])),
    ]
    return Task(
        key,
        title,
        list(conclusion),
        exploratory=False,
        sections=[section for section in map(shown, sections) if section],
        subject=statements.subject(findings),
    )


def write_page(title: str, tasks: Sequence[Task], findings: Mapping[str, Any], output: Path) -> list[Path]:
    """Write ``audit.html``, ``audit.md`` with ``figures/``, and ``findings.json``, each completely or not at all.

    Args:
        title: of the page.
        tasks: its parts, at least one.
        findings: what they show, dataclasses of plain values by the part's key.
        output: the folder; made if missing.

    Returns:
        Paths of the files.

    Raises:
        ValueError: without tasks.
        OSError: if a file cannot be written.
    """
    if not tasks:
        raise ValueError("Invalid tasks: none; give at least one part of the page")
    summary, drawn = markdown.render(title, tasks, kept=None)
    texts = {Path("audit.html"): html.render(title, tasks, kind=KIND), Path("audit.md"): summary, **drawn}
    save_findings(findings, output / "findings.json")
    for path, text in texts.items():
        with atomic_write(output / path) as file:
            file.write(text)
    return [*(output / path for path in texts), output / "findings.json"]
