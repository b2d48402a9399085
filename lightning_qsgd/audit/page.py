"""The page of an audit: a part for each thing that was audited."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from lightning_qsgd.audit import conclusions, figures
from lightning_qsgd.audit.findings import Findings, LayerFindings, PerturbationFindings, save_findings
from lightning_qsgd.report import page
from lightning_qsgd.report.document import Part, render


def part_of(found: Findings, key: str = "", heading: str = "", verdict: Sequence[str] = ()) -> Part:
    """What a page says about some findings.

    Args:
        found: what it is about.
        key: beginning of its figures' names, where the page has several parts. Default: "".
        heading: its name there. Default: "", none.
        verdict: sentences of a comparison with the perturbation's twins. Default: none was run.
    """
    facts = {"f": found, "said": conclusions, "verdict": verdict}
    summary = conclusions.summary(found)
    if isinstance(found, PerturbationFindings):
        drawings = {
            "power": figures.power_over_time(found),
            "layers": figures.layers(found),
            "modulation": figures.modulation(found),
        }
        return render("perturbation", facts, drawings, summary, key, heading)
    layer = isinstance(found, LayerFindings)
    picture = figures.layer_picture(found) if layer else figures.attention_picture(found)
    return render("model", facts | {"layer": layer}, {"picture": picture}, summary, key, heading)


def write_audit(title: str, findings: Mapping[str, Findings], output: Path, verdict: Sequence[str] = ()) -> list[Path]:
    """Write ``audit.html``, ``audit.md`` with ``figures/``, and ``findings.json``, each completely or not at all.

    Args:
        title: of the page.
        findings: dataclasses of plain values, by the name of what they are about; at least one.
        output: the folder; made if missing.
        verdict: sentences of a comparison with the perturbation's twins. Default: none was run.

    Returns:
        Paths of the files.

    Raises:
        ValueError: without findings.
        OSError: if a file cannot be written.
    """
    if not findings:
        raise ValueError("Invalid findings: none; give at least one")
    several = len(findings) > 1
    parts = [
        part_of(found, f"{k}_" if several else "", name if several else "", verdict)
        for k, (name, found) in enumerate(findings.items(), 1)
    ]
    save_findings(findings, output / "findings.json")
    written = page.write_page(title, parts, output, "audit", "Audit of a quantum part")
    return [*written, output / "findings.json"]


def __getattr__(name: str) -> NoReturn:
    if name in ("write_page", "perturbation_task"):  # an AttributeError would lose its text in "from ... import"
        raise ImportError(f"{name} of version 0.1.0 is gone; use write_audit(title, findings, folder)")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
