"""What a report consists of, in its order, before HTML or Markdown lay it out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightning_qsgd.comparison import across, background, curves, figures, forest, tables, wording
from lightning_qsgd.comparison.analysis import Analysis
from lightning_qsgd.comparison.drawing import Drawing
from lightning_qsgd.comparison.judging import ContrastAnalysis
from lightning_qsgd.comparison.numbers import count, minus
from lightning_qsgd.comparison.pairing import rank
from lightning_qsgd.comparison.tables import Table


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        key: of its anchor, unique inside of a task.
        title: its heading.
        blocks: paragraphs, tables and figures, in order, below ``warnings``; None for what there is not.
        warnings: what a reader must not miss.
        code: commands, shown as they are at the end.
        details: sentences that are shown on request.
    """

    key: str
    title: str
    blocks: Sequence[str | Table | Drawing | None]
    warnings: list[str] = field(default_factory=list)
    code: str = ""
    details: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Task:
    """One comparison's report, or one part of an audit's.

    Attributes:
        key: of its anchors.
        title: its name.
        verdict: sentences.
        exploratory: whether the gatekeeper, or without one every contrast, is exploratory.
        sections: in order.
        facts: size, date and commit, on one line. Default: "", nothing.
        subject: what the verdict is about, below it. Default: "", nothing.
    """

    key: str
    title: str
    verdict: list[str]
    exploratory: bool
    sections: list[Section]
    facts: str = ""
    subject: str = ""


def task(analysis: Analysis, key: str) -> Task:
    """All sections of one comparison that have something to show."""
    results, spec = analysis.results, analysis.results.comparison
    gate = [item for item in analysis.contrasts if item.contrast.name == spec.gatekeeper] or analysis.contrasts
    exploratory = bool(gate) and all(item.judgement.exploratory for item in gate)
    claims = [f"{arm}: {claim.sentence}." for arm, claim in analysis.claims.items()]
    sentences = [minus(item.judgement.sentence) for item in analysis.contrasts]
    reaching = [curves.reached(analysis, target) for target in results.targets]
    if not analysis.runs():
        parts = []
    else:
        tuned = background.tuning(analysis)
        weak = [_level(c) for c in analysis.contrasts if c.seeds and rank(c.level) > rank(c.contrast.level)]
        parts = [
            Section(
                "contrasts",
                "Contrasts",
                [forest.forest(analysis), tables.contrasts(analysis), tables.details(analysis)],
                details=sentences,
            ),
            Section("claims", "Is it the circuit?", [*claims, tables.claims(analysis)]),
            Section("curves", "Learning curves", [curves.learning_curves(analysis)]),
            Section("differences", "Seed by seed", [forest.differences(analysis)]),
            Section("arms", "Arms", [tables.arms(analysis), tables.descriptive(analysis)]),
            Section(
                "targets", "Time to target", [*reaching, *(tables.times(analysis, name) for name in results.targets)]
            ),
            Section("dose", "Dose and response", [figures.dose(analysis)]),
            Section("cost", "Cost", [figures.cost(analysis), tables.costs(analysis)]),
            Section(
                "tuning", "Tuning", [tuned if tuned.rows else "No arm was tuned."], wording.unequal_tuning(analysis)
            ),
            Section("live", "Live checks", [tables.live(analysis)]),
            Section(
                "settings",
                "What the arms are",
                [*(f"{said}." for said in wording.identical(analysis)), background.settings(analysis)],
            ),
            Section("unfinished", "Failed and diverged runs", [background.unfinished(analysis)]),
            Section("pairing", "Pairing", [background.pairing(analysis)], weak),
            Section("methods", "Methods", [wording.methods(analysis)]),
        ]
    command = results.provenance.get("command") or "lightning-qsgd compare --config FILE"
    again = f"{command}  # the specification, name: {spec.name}\n"
    again += f"lightning-qsgd report {Path(spec.root) / spec.name}"
    parts += [Section("provenance", "Provenance", [background.provenance(analysis)], code=again)]
    return Task(
        key,
        spec.name,
        wording.verdict(analysis),
        exploratory,
        [part for part in map(shown, parts) if part],
        _facts(analysis),
    )


def together(analyses: Sequence[Analysis]) -> Section:
    """What several tasks say together."""
    title = "Across tasks"
    if not across.different(analyses):
        why = "their runs share validation data, or do not say which they had"
        return Section("across", title, [f"These {len(analyses)} comparisons are not taken together as tasks: {why}."])
    combined = across.combine(analyses)
    if combined is None:
        need = "the first task's baseline and one more arm of the same name, with runs in each task"
        return Section(
            "across", title, [f"Nothing can be said across {count(len(analyses), 'task')}: that needs {need}."]
        )
    return Section("across", title, [across.profile(combined), across.table(combined)])


def _facts(analysis: Analysis) -> str:
    seeds = count(len(analysis.results.comparison.seeds.evaluation), "seed")
    updated, commit = (analysis.results.provenance.get(key) for key in ("updated", "commit"))
    parts = [
        f"{count(len(analysis.arms), 'arm')} \u00d7 {seeds}",
        str(updated or "")[:10],
        f"commit {commit}" if commit else "",
    ]
    return " \u00b7 ".join(part for part in parts if part)


def shown(section: Section) -> Section | None:
    """A section without what is empty; None without anything."""
    blocks = [b for b in section.blocks if b is not None and not (isinstance(b, Table) and not b.rows)]
    if not blocks and not section.warnings:
        return None
    return Section(section.key, section.title, blocks, section.warnings, section.code, section.details)


def _level(item: ContrastAnalysis) -> str:
    declared, found = item.contrast.level, item.level or "nothing"
    return f"{item.contrast.name}: declared {declared}, found {found}{f' ({item.why})' if item.why else ''}."
