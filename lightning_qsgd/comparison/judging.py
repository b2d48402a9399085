"""The declared contrasts and claims of a comparison, judged by its runs."""

import contextlib
import io
from dataclasses import dataclass, replace

from lightning_qsgd.comparison.arms import Arms
from lightning_qsgd.comparison.pairing import level_of_contrast
from lightning_qsgd.comparison.results import Results
from lightning_qsgd.comparison.spec import Contrast, Level
from lightning_qsgd.comparison.verdicts import Claim, Diverged, Judgement, claim, judge


@dataclass(frozen=True)
class ContrastAnalysis:
    """One declared contrast.

    Attributes:
        contrast: as declared.
        judgement: its statistics and verdict.
        seeds: of its pairs, in the order of ``judgement.paired.differences``.
        level: at which its runs are paired; None for none, and where there are no pairs.
        why: what the next stronger level lacks.
    """

    contrast: Contrast
    judgement: Judgement
    seeds: list[int]
    level: Level | None
    why: str


def scale(results: Results) -> tuple[float, str]:
    """Factor and unit of printed differences: percentage points, or the metric's own unit."""
    return (100.0, "points") if results.comparison.metric.unit == "%" else (1.0, "")


def hints(results: Results, so_far: bool) -> list[str]:
    """Why all judgements are exploratory; empty where they are not."""
    declared = results.provenance.get("declared")
    changes = declared.get("changes", []) if isinstance(declared, dict) else []
    found = [f"declared otherwise before the runs: {', '.join(changes)}"] if changes else []
    return ["runs are missing", *found] if so_far else found


def judge_contrasts(results: Results, hints: list[str]) -> list[ContrastAnalysis]:
    """All declared contrasts, judged together; ``hints`` makes them exploratory."""
    spec = results.comparison
    if not spec.contrasts:
        return []
    pairs = {contrast.name: results.pairs(contrast.arm, contrast.against) for contrast in spec.contrasts}
    factor, unit = scale(results)
    values = {name: (a, b) for name, (a, b, _) in pairs.items()}
    diverged = {c.name: gone for c in spec.contrasts if (gone := _diverged(results, c.arm, c.against))}
    judged = judge(
        values, spec.metric.margin, spec.gatekeeper, scale=factor, unit=unit, diverged=diverged, exploratory=hints
    )
    analyses = []
    for contrast in spec.contrasts:
        seeds = pairs[contrast.name][2]
        level, why = level_of_contrast(results, contrast.arm, contrast.against) if seeds else (None, "no pairs yet")
        analyses.append(ContrastAnalysis(contrast, judged[contrast.name], seeds, level, why))
    return analyses


def _diverged(results: Results, arm: str, against: str) -> Diverged | None:
    counts = [(name, results.counts(name)["diverged"], len(results.of(name))) for name in (arm, against)]
    said = [f"{gone} of {n} runs of {name} diverged" for name, gone, n in counts if gone]
    return Diverged(counts[0][1], counts[1][1], ", ".join(said)) if said else None


def judge_claim(results: Results, arm: str, others: list[str], hints: list[str]) -> Claim:
    """The claim, refused where nothing pairs the runs, and named only where the right controls were beaten fairly.

    What an arm's twins do as well is not the circuit's: each twin that was trained is among the others, named or not.
    """
    spec, refused = results.comparison, {}
    twins = [twin for name in spec.arms[arm].twins if results.of(twin := f"{arm}/{name}")] if arm in spec.arms else []
    others = list(dict.fromkeys([*others, *twins]))
    pairs = {other: results.pairs(arm, other)[:2] for other in others}
    for other in others:
        level, why = level_of_contrast(results, arm, other)
        gone = _diverged(results, arm, other)
        if level is None and len(pairs[other][0]):
            refused[other] = f"not paired: {arm} and {other} share nothing ({why})"
        elif gone and gone.own > gone.other:
            refused[other] = gone.sentence
    needed = {spec.baseline, f"{arm}/frozen", f"{arm}/shuffled"} <= set(others)
    controls = needed and any(sine_control(results, other) for other in others)
    effect = "circuit-specific effect" if controls and spec.tuning.trials else ""
    found = claim(pairs, effect=effect, refused=refused, exploratory=hints)
    if controls and found.holds and not effect:
        return replace(found, sentence=f"{found.sentence}; nothing was tuned, so this is no circuit-specific effect")
    return found


def sine_control(results: Results, name: str) -> bool:
    """Whether an arm trains with the closed-form sine: what its whole configuration says, never its name.

    The runner notes it. Results without such a note are those of older versions: then the arm's files and settings are
    parsed again, and where they are not there any more, it is no sine control.
    """
    noted = results.arms.get(name, {}).get("sine")
    if noted is not None:
        return bool(noted)
    if name not in results.comparison.arms:
        return False
    try:
        alone = {"arms": {name: replace(results.comparison.arms[name], tuned_as=None)}, "baseline": name}
        rest = {"contrasts": [], "gatekeeper": None, "claims": {}, "dose": {}}
        with contextlib.redirect_stderr(io.StringIO()):
            arms = Arms(replace(results.comparison, **alone, **rest))
            return arms.is_sine(name, results.arms.get(name, {}).get("values") or {})
    except (OSError, ValueError, SystemExit):
        return False
