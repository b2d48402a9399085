"""One sentence from an audit's numbers, by rules."""

from lightning_qsgd.audit.findings import PerturbationFindings
from lightning_qsgd.comparison.numbers import percent

NEGLIGIBLE = 0.01  # of Adam's step
NEARLY_ALL = 0.95  # of the power
SOME = 0.05
#: Maps from simple to complex, and what each is in words.
MAPS = {
    "one number": "one constant for all touched coordinates",
    "one per qubit": "one constant for each place in a block",
    "one per tensor": "one constant for each tensor",
    "sine": "a sine of each weight (Eq. 2 of the paper)",
    "sine and constant": "a constant and a sine of each weight",
    "frozen at step 0": "a table of numbers that is frozen at step 0",
    "one per coordinate": "a fixed table of numbers, one for each coordinate",
    "one-angle series": "a sum of functions of one weight each",
}


def conclude(findings: PerturbationFindings) -> list[str]:
    """Sentences, the most important first: what does the same, how much of it there is, and what that does not say.

    The first rule that holds decides the first sentence: the power is 0; most of it is no function of the weights; a
    classical map reproduces 95 % of it (the simplest one that does, in the order of :data:`MAPS`); otherwise the shares
    are named.
    """
    sentences = [_main(findings)]
    to_gradient = findings.settings.get("target") == "gradient"
    if not to_gradient and findings.norm_ratio is not None and findings.norm_ratio < NEGLIGIBLE:
        sentences.insert(
            0,
            f"The perturbation is too small to matter: {percent(findings.norm_ratio)} of Adam's step (median over the "
            "run).",
        )
    multi, series = findings.shares.multi, findings.truncation
    if findings.shares.power and percent(multi) == percent(0):
        sentences.append("Nothing in it depends on several weights together.")
    elif findings.shares.power:
        sentences.append(f"{percent(multi)} of it depends on several weights together.")
    if findings.shares.power and findings.few:
        sentences.append(
            "With so few blocks the one-angle series may have fitted some of that kind: the share is a lower bound."
        )
    if findings.shares.power and multi >= SOME and series is not None and series.terms is not None:
        terms = f"{series.terms:,} of {series.candidates:,} terms"
        but = "" if percent(series.left) == percent(0) else f" but {percent(series.left)}"
        sentences.append(f"A classical series of {terms} gives all of it{but}.")
    if findings.device_error is not None and findings.device_error > NEGLIGIBLE:
        on = f" ({findings.ran_on})" if findings.ran_on else ""
        sentences.append(
            f"As it ran{on}, the circuit is {percent(findings.device_error)} of its power from the exact one (shots, "
            "or a device's noise); what of that is frozen for the run counts as constant, single- and multi-angle."
        )
    return sentences


def _main(findings: PerturbationFindings) -> str:
    shares, maps = findings.shares, findings.maps
    if not shares.power:
        return "The perturbation is 0: it does nothing."
    name = simplest(maps)
    if name is not None:
        frozen, told = maps["frozen at step 0"], ("frozen at step 0", "one per coordinate")
        same = f" Frozen at step 0, its values reproduce {percent(frozen)}." if frozen >= NEARLY_ALL else ""
        return f"The perturbation is {MAPS[name]}, to {percent(maps[name])} of its power.{'' if name in told else same}"
    if shares.rest > 0.5:
        return f"The perturbation is mostly random: {percent(shares.rest)} of its power is no function of the weights."
    best = max(MAPS, key=lambda map_name: maps[map_name])
    return (
        f"No simple classical map is the perturbation: the best, {MAPS[best]}, reproduces {percent(maps[best])} of its "
        "power."
    )


def simplest(maps: dict[str, float], enough: float = NEARLY_ALL) -> str | None:
    """The first map that reproduces at least ``enough`` of the power; None if none does."""
    return next((name for name in MAPS if maps[name] >= enough), None)
