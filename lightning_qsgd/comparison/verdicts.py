"""Judge contrasts of arms, and control false verdicts over a whole report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from numpy.typing import ArrayLike

from lightning_qsgd.comparison.statistics import Paired, holm, paired, seeds_needed, smallest_p
from lightning_qsgd.report.numbers import number

Verdict = Literal[
    "better", "better by less than the margin", "equivalent", "worse", "worse by less than the margin", "inconclusive"
]


@dataclass(frozen=True)
class Diverged:
    """Diverged runs of the two arms of a contrast. Their values are substituted, so differences have no size.

    Attributes:
        own: number of diverged runs of the arm.
        other: number of diverged runs of the arm that it is compared with.
        sentence: both numbers in words, without a full stop.
    """

    own: int
    other: int
    sentence: str


@dataclass(frozen=True)
class Judgement:
    """The verdict on one contrast.

    Attributes:
        name: name of the contrast.
        paired: statistics of its pairs, with all intervals at this contrast's share of alpha.
        p_holm: p of the sign-flip test, adjusted by Holm over all contrasts except the gatekeeper. The gatekeeper's p
            is not adjusted.
        verdict: the verdict; see :func:`judge`.
        exploratory: whether the verdict is only a hint.
        why_exploratory: the reasons, or "".
        sentence: the verdict and its evidence in words.
        diverged: the diverged runs in words, or "". With diverged runs, differences have no size.
    """

    name: str
    paired: Paired
    p_holm: float
    verdict: Verdict
    exploratory: bool
    why_exploratory: str
    sentence: str
    diverged: str = ""


@dataclass(frozen=True)
class Claim:
    """Whether an arm beats each of several others.

    Attributes:
        holds: whether it does.
        paired: statistics against each other arm, with margin 0, so that p_equivalence has no meaning.
        fails: the arms that it does not clearly beat.
        exploratory: whether the claim is only a hint, because there are fewer than 6 pairs, or for another given
            reason.
        sentence: the result in words.
    """

    holds: bool
    paired: dict[str, Paired]
    fails: tuple[str, ...]
    exploratory: bool
    sentence: str


def judge(
    pairs: Mapping[str, tuple[ArrayLike, ArrayLike]],
    margin: float,
    gatekeeper: str | None = None,
    alpha: float = 0.05,
    *,
    scale: float = 1.0,
    unit: str = "",
    diverged: Mapping[str, Diverged] | None = None,
    exploratory: Sequence[str] = (),
) -> dict[str, Judgement]:
    """Judge the contrasts of one report together.

    The gatekeeper is tested first, at level alpha. The other m contrasts share alpha equally (by Bonferroni, which is
    valid for any dependence, for example through an arm that all share). They are exploratory unless the gatekeeper's
    interval excludes 0. Without a gatekeeper, all contrasts share alpha. At most a share alpha of all reports then
    contains a false difference among verdicts that are not exploratory. The same bound holds for false statements that
    a difference lies within the margin, once for the gatekeeper and once for all others. These bounds hold if
    differences are about normal or symmetric, as between two arms with the same distribution. They fail for skewed
    differences: with 17 contrasts, 10 pairs and exponentially distributed differences, 38 % of reports contain a false
    one.

    The verdict is "better" if the interval at this level lies above 0, with "by less than the margin" if the TOST
    interval also lies below the margin. "worse" is the mirror image. Otherwise it is "equivalent" if the TOST interval
    lies inside (-margin, margin), and else "inconclusive". A verdict is also exploratory if there are too few pairs for
    an exact sign-flip test with Holm (see :func:`seeds_needed`).

    Diverged runs have no value, so that differences have no size. The verdict is then never "equivalent" or "by less
    than the margin", and never in favour of the arm with more diverged runs.

    Args:
        pairs: (a, b) for each contrast A - B, as :func:`paired` takes them; higher is better. Contrasts may have
            different numbers of pairs.
        margin: difference below which two arms count as equivalent, above 0, in the metric's unit.
        gatekeeper: name of the contrast that is tested first. Default: None.
        alpha: share of reports that may contain a false difference, in (0, 0.5). Default: 0.05.
        scale: factor for numbers in sentences, such as 100 for percentage points. Default: 1.
        unit: unit of these numbers, such as "points". Default: "".
        diverged: for contrasts with diverged runs among their pairs, these runs. Default: None, no run.
        exploratory: reasons why all verdicts are only hints. Default: none.

    Returns:
        A judgement for each contrast.

    Raises:
        ValueError: for no contrasts, an unknown gatekeeper, a margin or alpha out of range, and the errors of
            :func:`paired`.
    """
    if not pairs:
        raise ValueError("Invalid pairs: none; name at least one contrast")
    if gatekeeper is not None and gatekeeper not in pairs:
        raise ValueError(f"Invalid gatekeeper: {gatekeeper!r}; it must be one of {', '.join(pairs)}")
    if not margin > 0:
        raise ValueError(f"Invalid margin: {margin}; it must be positive")
    if not 0 < alpha < 0.5:
        raise ValueError(f"Invalid alpha: {alpha}; it must be between 0 and 0.5")
    family = [name for name in pairs if name != gatekeeper]
    sizes = {name: 1 if name == gatekeeper else len(family) for name in pairs}
    results = {name: paired(a, b, margin, alpha / sizes[name]) for name, (a, b) in pairs.items()}
    p = {name: result.p_sign_flip for name, result in results.items()}
    p |= dict(zip(family, holm([p[name] for name in family]).tolist(), strict=True))
    gone = diverged or {}
    verdicts: dict[str, Verdict] = {name: _verdict(result, margin, gone.get(name)) for name, result in results.items()}
    reasons = {name: _too_few(results[name].n, sizes[name], alpha) for name in pairs}
    if gatekeeper is not None:
        closed = reasons[gatekeeper] or verdicts[gatekeeper] in ("equivalent", "inconclusive")
        for name in family if closed else ():
            because = "is exploratory itself" if reasons[gatekeeper] else "shows no clear difference"
            reasons[name].append(f"the gatekeeper {gatekeeper} {because}")

    def judgement(name: str) -> Judgement:
        why = "; ".join([*reasons[name], *exploratory])
        p_text = f"{'sign-flip' if name == gatekeeper else 'Holm'} p {p[name]:.2g}"
        if there := gone.get(name):
            said = f"{verdicts[name]} ({results[name].n} pairs, {p_text}). {there.sentence}."
        else:
            said = _explain(results[name], verdicts[name], margin, p_text, scale, unit)
        sentence = f"{name}: {said}{f' Exploratory: {why}.' if why else ''}"
        found = there.sentence if there else ""
        return Judgement(name, results[name], p[name], verdicts[name], bool(why), why, sentence, found)

    return {name: judgement(name) for name in pairs}


def claim(
    pairs: Mapping[str, tuple[ArrayLike, ArrayLike]],
    alpha: float = 0.05,
    *,
    effect: str = "circuit-specific effect",
    refused: Mapping[str, str] | None = None,
    exploratory: Sequence[str] = (),
) -> Claim:
    """Test whether one arm beats every other: the intersection-union test of a circuit-specific effect.

    Against each of the others, the two-sided interval at 1 - alpha must lie above 0. Because all must, no correction is
    needed: the claim is false in at most a share alpha / 2 of all cases (Berger 1982).

    Args:
        pairs: (a, b) for each other arm: values of the arm and of that other arm, as :func:`paired` takes them.
        alpha: two-sided level of each comparison, in (0, 0.5). Default: 0.05.
        effect: name of the effect in the sentence; "" for a sentence without a name.
        refused: for arms that it cannot be said to beat whatever the values, the reason. Default: None, no arm.
        exploratory: reasons why the claim is only a hint. Default: none.

    Raises:
        ValueError: for no other arms, and the errors of :func:`paired`.
    """
    if not pairs:
        raise ValueError("Invalid pairs: none; a claim needs at least one other arm")
    results = {name: paired(a, b, 0.0, alpha) for name, (a, b) in pairs.items()}
    why = refused or {}
    fails = tuple(name for name, result in results.items() if name in why or not result.low > 0)
    reasons = [*_too_few(min(result.n for result in results.values()), 1, alpha), *exploratory]
    if fails:
        sentence = f"no {effect} shown: " if effect else ""
        sentence += f"not clearly better than {', '.join(fails)}"
        sentence += "".join(f"; {reason}" for reason in dict.fromkeys(why[name] for name in fails if name in why))
    else:
        sentence = f"{f'{effect}: ' if effect else ''}better than each of {', '.join(pairs)}"
    text = f"{sentence}; exploratory: {'; '.join(reasons)}" if reasons else sentence
    return Claim(not fails, results, fails, bool(reasons), text)


def _verdict(result: Paired, margin: float, gone: Diverged | None = None) -> Verdict:
    if gone is not None:
        if result.low > 0 and gone.own <= gone.other:
            return "better"
        return "worse" if result.high < 0 and gone.other <= gone.own else "inconclusive"
    if result.low > 0:
        return "better by less than the margin" if result.tost_high < margin else "better"
    if result.high < 0:
        return "worse by less than the margin" if result.tost_low > -margin else "worse"
    return "equivalent" if -margin < result.tost_low and result.tost_high < margin else "inconclusive"


def _too_few(n: int, contrasts: int, alpha: float) -> list[str]:
    if n >= (needed := seeds_needed(contrasts, alpha)):
        return []
    return [f"{n} pairs where {needed} are needed; the smallest p within reach is {smallest_p(n, contrasts):.2g}"]


def _explain(result: Paired, verdict: Verdict, margin: float, p: str, scale: float, unit: str) -> str:
    if result.n < 2:
        return f"inconclusive. {result.n} pairs of runs tell nothing about the spread."

    def amount(x: float) -> str:
        return f"{number(round(x * scale, 10))} {unit}".rstrip()  # a mean of 1e-17 is 0

    def interval(low: float, high: float, level: float) -> str:
        return f"{100 * level:.3g} % interval {number(low * scale)} to {amount(high)}"

    ends = interval(result.low, result.high, 1 - result.alpha)
    evidence = f"({ends}, {result.n} pairs, {p})"
    if result.ties == result.n:
        return f"{verdict}. All {result.n} paired differences are zero."
    if verdict == "equivalent":
        ends = interval(result.tost_low, result.tost_high, 1 - 2 * result.alpha)
        inside = f"the {ends} lies within a margin of {amount(margin)}"
        return f"equivalent. The mean difference is {amount(result.mean)}, and {inside} ({result.n} pairs)."
    if verdict == "inconclusive":
        seen = f"A true difference of {amount(result.detectable)} would have been found with probability 0.8"
        return f"inconclusive. The mean difference is {amount(result.mean)} {evidence}. {seen}."
    direction = verdict.split()[0]
    less = "" if verdict == direction else f", by less than the margin of {amount(margin)}"
    return f"{direction} by {amount(abs(result.mean))} {evidence}{less}."
