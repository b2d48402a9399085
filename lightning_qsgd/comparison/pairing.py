"""What two runs of one seed share, by hashes: the level at which they are paired."""

from collections.abc import Mapping
from typing import Any, get_args

from lightning_qsgd.comparison.results import Results, Run
from lightning_qsgd.comparison.spec import Comparison, Level

_WAY_OUT = (
    "Give both arms the same data and batch size, and a loader that shuffles with a generator of its own, seeded from "
    "(seed, epoch): the global one also moves with what an arm draws"
)
LEVELS: tuple[Level, ...] = get_args(Level)  # the strongest first


def level_of(one: Run, other: Run, parameter_sets: dict[str, dict[str, str]]) -> tuple[Level | None, str]:
    """The strongest level at which two runs are paired.

    Runs of different length, such as one that diverged, are compared as far as both went.

    Args:
        one, other: two runs.
        parameter_sets: initial values, as in :class:`Results`.

    Returns:
        The level, or None; and what is missing for the next stronger one ("" for "full").
    """
    data = _differ(one, other, "batches")
    if data is not None:
        return None, f"other batches from epoch {data + 1} on"
    seeds = _differ(one, other, "seeds")
    if seeds is not None:
        return "data", f"other seeds of the steps from epoch {seeds + 1} on"
    a, b = (parameter_sets[run.hashes["parameters"]] for run in (one, other))
    unequal = sorted(name for name in a.keys() & b.keys() if a[name] != b[name])
    if unequal or not a.keys() & b.keys():
        return "data", f"other initial values of {', '.join(unequal[:3]) or 'all parameters'}"
    alone = sorted(a.keys() ^ b.keys())
    return ("shared", f"parameters of only one arm: {', '.join(alone[:3])}") if alone else ("full", "")


def level_of_contrast(results: Results, arm: str, against: str) -> tuple[Level | None, str]:
    """The weakest level over all seeds that both arms have; "full" where there is none to compare."""
    one, other = results.of(arm), results.of(against)
    found: list[tuple[Level | None, str]] = [
        level_of(one[seed], other[seed], results.parameter_sets)
        for seed in sorted(one.keys() & other.keys())
        if one[seed].hashes.get("batches") and other[seed].hashes.get("batches")
    ]
    return max(found, key=lambda level: rank(level[0]), default=("full", ""))


def rank(level: Level | None) -> int:
    """0 for the strongest level, and 3 for none."""
    return len(LEVELS) if level is None else LEVELS.index(level)


def check_levels(results: Results) -> None:
    """Check that each contrast is paired as it declares.

    Raises:
        ValueError: if one is not; it names the contrast, what was declared, what holds, and why.
    """
    for contrast in results.comparison.contrasts:
        level, why = level_of_contrast(results, contrast.arm, contrast.against)
        if rank(level) > rank(contrast.level):
            raise ValueError(
                f"Invalid level of {contrast.name}: {contrast.level!r}; its runs share {level or 'nothing'} ({why}). "
                + (f"Declare level: {level}" if level else _WAY_OUT)
            )


def check_probes(comparison: Comparison, probes: Mapping[str, tuple[dict[str, Any], dict[str, str]]]) -> None:
    """Check that the contrasts of some arms are paired as declared, by the first batches of one run of each.

    Args:
        comparison: the specification.
        probes: by arm, hashes as in :class:`Run` and digests of the initial values.

    Raises:
        ValueError: as :func:`check_levels`.
    """
    runs = [
        Run(arm, 0, "evaluation", "finished", hashes=hashes | {"parameters": arm})
        for arm, (hashes, _) in probes.items()
    ]
    check_levels(Results(comparison, parameter_sets={arm: digests for arm, (_, digests) in probes.items()}, runs=runs))


def _differ(one: Run, other: Run, name: str) -> int | None:
    pairs = zip(one.hashes.get(name, []), other.hashes.get(name, []), strict=False)
    return next((epoch for epoch, (a, b) in enumerate(pairs) if a != b), None)
