"""The page of an audit, with a part for each audited perturbation or layer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from lightning_qsgd.audit import conclusions, figures
from lightning_qsgd.audit.findings import Findings, LayerFindings, PerturbationFindings, save_findings
from lightning_qsgd.report import page
from lightning_qsgd.report.document import Part, render


def part_of(found: Findings, key: str = "", heading: str = "", verdict: Sequence[str] = ()) -> Part:
    """Render the part of a page about some findings.

    Args:
        found: the findings.
        key: prefix of the figures' names if the page has several parts. Default: "".
        heading: heading of the part if the page has several. Default: "".
        verdict: sentences about a comparison with classical twins. Default: none.
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
        title: title of the page.
        findings: findings by the name of their subject, at least one.
        output: the folder, which is made if it does not exist.
        verdict: sentences about a comparison with classical twins, for the first part. Default: none.

    Returns:
        The paths of the files.

    Raises:
        ValueError: if there are no findings.
        OSError: if a file cannot be written.
    """
    if not findings:
        raise ValueError("Invalid findings: none; give at least one")
    several = len(findings) > 1
    parts = [
        part_of(found, f"{k}_" if several else "", name if several else "", verdict if k == 1 else ())
        for k, (name, found) in enumerate(findings.items(), 1)
    ]
    save_findings(findings, output / "findings.json")
    written = page.write_page(title, parts, output, "audit", "Audit of a quantum part")
    return [*written, output / "findings.json"]


def __getattr__(name: str) -> NoReturn:
    if name in ("write_page", "perturbation_task"):  # "from ... import" would hide the text of an AttributeError
        raise ImportError(f"{name} of version 0.1.0 is gone; use write_audit(title, findings, folder)")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
