"""What was found about a perturbation, in tables and plain sentences."""

from lightning_qsgd.audit.findings import PerturbationFindings, Shares
from lightning_qsgd.comparison.numbers import NONE, count, number, percent
from lightning_qsgd.comparison.tables import Table

MAPS = {
    "one number": "The mean of s in place of s: no circuit, one constant.",
    "one per qubit": "One constant for each position in a block.",
    "one per tensor": "One constant for each parameter tensor.",
    "one per coordinate": "A fixed table: each coordinate's mean over the run, whatever the weights do.",
    "frozen at step 0": "A fixed table: s of the first recorded step, never asked for again.",
    "sine": "{amplitude} \u00d7 sin(angle), the same formula for all coordinates.",
    "sine and constant": "A multiple of sin(angle) and a constant, the same for all coordinates.",
    "one-angle series": "For each qubit a sum of functions of one angle each, without what several do together.",
}


def shares_table(findings: PerturbationFindings) -> Table:
    """The four shares of all, of each qubit, and under uniform angles."""
    rows = [_row("whole run", findings.shares)]
    if findings.intervals:
        ends = {
            part: f"{percent(low).removesuffix(' %')} to {percent(high)}"
            for part, (low, high) in findings.intervals.items()
        }
        rows.append(("95 % interval", *(ends.get(part, NONE) for part in findings.shares.parts()), NONE, NONE))
    if len(findings.per_qubit) > 1:
        rows += [_row(f"qubit {q}", shares) for q, shares in enumerate(findings.per_qubit)]
    if findings.uniform is not None:
        rows.append(_row("uniform angles", findings.uniform))
    caption = (
        "Shares of the power (mean of s\u00b2) over the angles that occurred, by least squares. Qubit k modulates "
        "coordinate k of each block of weights, and is split by itself."
    )
    if findings.intervals:
        caption += " The interval is over which blocks of weights were recorded, within this one run."
    if findings.uniform is not None:
        caption += (
            " Uniform angles are what the circuit could do if all angles were independent and equally likely: weights "
            "are not, so that row is about the circuit, not about this run."
        )
    columns = ("of what", "constant#", "single-angle#", "multi-angle#", "rest#", "power#", "blocks of angles#")
    return Table(caption, columns, rows)


def equivalents_table(findings: PerturbationFindings) -> Table:
    """Classical stand-ins and what they reproduce, each with a sentence of how to read it."""
    rows = [
        (name, percent(share), MAPS.get(name, "").format(amplitude=number(findings.sine_amplitude)))
        for name, share in findings.maps.items()
    ]
    rows += _truncation(findings)
    if findings.settings.get("scale") == "adam":
        where = "all weights" if findings.settings.get("scope") == "all" else "the touched weights"
        said = f"1 + \u03bb \u00d7 mean of s: the mean alone multiplies Adam's learning rate on {where} by this."
        rows.append(("learning-rate factor", number(findings.learning_rate_factor, ".4g"), said))
    rows.append(("mean of s", number(findings.offset, ".4g"), "The one constant that is nearest to s."))
    said = "How far s is from it. Where it is much smaller than the mean, s is nearly a constant."
    rows.append(("standard deviation of s", number(findings.spread, ".4g"), said))
    if findings.device_error is not None:
        said = (
            f"Mean squared distance of the circuit as it ran ({findings.ran_on or 'calibrated, sampled or noisy'}) "
            "from the same circuit simulated without shots and noise, over the power."
        )
        rows.append(("distance from the exact circuit", percent(findings.device_error), said))
    if findings.norm_ratio is not None:
        said = "Size of the perturbation over the size of Adam's step, the median over steps. Near 0 it cannot matter."
        rows.append(("perturbation / Adam's step", percent(findings.norm_ratio), said))
    if findings.effective is not None:
        said = "Share of touched coordinates on which the perturbation moved anything (|s| > 0.01, Q not 0)."
        rows.append(("coordinates that it moves", percent(findings.effective), said))
    caption = (
        "What a classical computer needs to do the same. For the maps, the number is the share of the power that they "
        "reproduce: 100 % is the same s everywhere, 0 % is as good as s = 0, and below 0 is worse than that. They are "
        "fitted to this run, so a share says how well one could do, knowing the run."
    )
    return Table(caption, ("what", "number#", "how to read it"), rows)


def subject(findings: PerturbationFindings) -> str:
    """What was audited, in a line."""
    touched, recorded = findings.coordinates
    named = {"quantum_weight": "quantum weight \u03bb"}
    settings = [f"{named.get(name, name)} {_plain(value)}" for name, value in findings.settings.items()]
    circuits = [f"circuits: {findings.ran_on}"] if findings.ran_on else []
    said = [f"Audited: {findings.identity}", *circuits, *settings, _steps(findings)]
    return "; ".join([*said, f"{recorded:,} of {count(touched, 'touched coordinate', thousands=True)}"]) + "."


def meaning(findings: PerturbationFindings) -> str:
    """What s is, for those who do not know it."""
    n = max(len(findings.per_qubit), 1)
    block = "from the weight itself" if n == 1 else f"from the weights of its block of {n}"
    effect = "\u03bb s times the gradient is added to the weight's Adam step."
    if findings.settings.get("scale") == "adam":
        effect = "The weight's Adam step is multiplied by 1 + \u03bb s."
    elif findings.settings.get("target") == "gradient":
        effect = "\u03bb s times the gradient is added to the gradient that Adam sees."
    return (
        f"In each optimizer step, each touched weight gets a number s between \u22121 and 1, {block} "
        f"(angle = \u03c0 \u00d7 weight). {effect} The audit asks what s was along this training run, and what else "
        "could have given it."
    )


def methods(findings: PerturbationFindings) -> list[str]:
    """How it was measured, in paragraphs."""
    touched, recorded = findings.coordinates
    definitions = (
        "Constant is the squared mean of s, of each qubit: a number that needs no circuit. Single-angle is what the "
        "best sum of functions (trigonometric series) of one angle each adds to it, fitted by least squares over the "
        "angles that occurred. Multi-angle is the rest of what is a function of the angles: it depends on several of "
        "them together. A classical series with products of sines and cosines gives it too. Entanglement is not what "
        "it measures: without any, several angles can act on one qubit. Rest is what no function of the angles "
        "explains: shots, hardware noise, random numbers, or a fixed table. The four add up to the power, the mean of "
        "s\u00b2."
    )
    projected = (
        "Weights are not independent of each other, so these are projections under the distribution that was recorded, "
        "not coefficients of the circuit: what looks single-angle along this run need not be so elsewhere."
    )
    steps = _steps(findings)
    measured = (
        f"{steps[0].upper()}{steps[1:]}. In each of them {recorded:,} of {touched:,} touched coordinates: "
        f"{findings.shares.rows:,} blocks of {count(max(len(findings.per_qubit), 1), 'angle')} in all."
    )
    if recorded < touched:
        measured += " They are a random sample from each tensor, weighted by how many blocks they stand for."
    ran = "The audit itself ran no circuits."
    if findings.circuits:
        shots = f" with {findings.shots:,} shots" if findings.shots else ""
        circuits = count(findings.circuits, "circuit", thousands=True)
        ran = f"The audit itself ran {circuits}{shots}, beside those of the training."
    if findings.sampled:
        ran += " s is known from runs of the circuit alone, not from its exact series, so the shares are estimates."
    return [definitions, projected, measured, ran]


def _truncation(findings: PerturbationFindings) -> list[tuple[str, str, str]]:
    found = findings.truncation
    if found is None:
        return []
    within = f"at most {number(100 * found.error)} % of the power left"
    if found.terms is None:
        said = f"No short series was found with {within}; the best that was tried leaves {percent(found.left)}."
        return [("short series", f"none of {found.candidates:,} terms", said)]
    what = {0: "Constants only", 1: "Sines and cosines of single angles"}
    said = what.get(found.largest, f"Sines and cosines of the angles, and products of up to {found.largest} of them")
    said += f", chosen one by one for {within}; on angles that were not used for that {percent(found.left)} is left. "
    said += "A shorter one may exist."
    return [("short series", f"{found.terms:,} of {count(found.candidates, 'term', thousands=True)}", said)]


def _row(name: str, shares: Shares) -> tuple[str, ...]:
    rows = f"{shares.rows:,}" if shares.rows else NONE
    return (name, *(percent(share) for share in shares.parts().values()), number(shares.power), rows)


def _steps(findings: PerturbationFindings) -> str:
    steps = findings.steps
    if len(steps) <= 1:
        return f"one recorded step ({steps[0]})" if steps else "no recorded step"
    return f"{len(steps):,} recorded steps, from {steps[0]:,} to {steps[-1]:,}"


def _plain(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)
