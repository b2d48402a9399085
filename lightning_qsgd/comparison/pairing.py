"""Find by hashes what two runs with the same seed share: the level at which they are paired."""

from collections.abc import Mapping
from typing import Any, get_args

from lightning_qsgd.comparison.results import Results, Run
from lightning_qsgd.comparison.spec import Comparison, Level

_WAY_OUT = (
    "Give both arms the same data and batch size, and a loader that shuffles with its own generator, seeded from "
    "(seed, epoch): the state of the global one also depends on other draws of an arm"
)
LEVELS: tuple[Level, ...] = get_args(Level)  # the strongest first


def level_of(one: Run, other: Run, parameter_sets: dict[str, dict[str, str]]) -> tuple[Level | None, str]:
    """Find the strongest level at which two runs are paired.

    Runs of different length, for example because one diverged, are compared over the epochs of the shorter one.

    Args:
        one, other: two runs.
        parameter_sets: digests of initial values, as in :class:`Results`.

    Returns:
        The level, or None; and what the next stronger level lacks ("" for "full").
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
    """Find the weakest level over all seeds that both arms have; "full" if there are no such seeds."""
    one, other = results.of(arm), results.of(against)
    found: list[tuple[Level | None, str]] = [
        level_of(one[seed], other[seed], results.parameter_sets)
        for seed in sorted(one.keys() & other.keys())
        if one[seed].hashes.get("batches") and other[seed].hashes.get("batches")
    ]
    return max(found, key=lambda level: rank(level[0]), default=("full", ""))


def rank(level: Level | None) -> int:
    """The rank of a level: 0 for the strongest, 3 for None."""
    return len(LEVELS) if level is None else LEVELS.index(level)


def check_levels(results: Results) -> None:
    """Check that the runs of each contrast are paired at its declared level.

    Raises:
        ValueError: if they are not, with the contrast, the declared level, the actual level, and the reason.
    """
    for contrast in results.comparison.contrasts:
        level, why = level_of_contrast(results, contrast.arm, contrast.against)
        if rank(level) > rank(contrast.level):
            raise ValueError(
                f"Invalid level of {contrast.name}: {contrast.level!r}; its runs share {level or 'nothing'} ({why}). "
                + (f"Declare level: {level}" if level else _WAY_OUT)
            )


def check_probes(comparison: Comparison, probes: Mapping[str, tuple[dict[str, Any], dict[str, str]]]) -> None:
    """Check the declared levels of contrasts by the first batches of one run of each arm.

    Args:
        comparison: the specification.
        probes: for each arm, hashes as in :class:`Run`, and digests of the initial values.

    Raises:
        ValueError: see :func:`check_levels`.
    """
    runs = [
        Run(arm, 0, "evaluation", "finished", hashes=hashes | {"parameters": arm})
        for arm, (hashes, _) in probes.items()
    ]
    check_levels(Results(comparison, parameter_sets={arm: digests for arm, (_, digests) in probes.items()}, runs=runs))


def _differ(one: Run, other: Run, name: str) -> int | None:
    pairs = zip(one.hashes.get(name, []), other.hashes.get(name, []), strict=False)
    return next((epoch for epoch, (a, b) in enumerate(pairs) if a != b), None)
