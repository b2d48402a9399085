"""Rows of a map of a model: its tensors, or what they are put together to where there are many."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from lightning_qsgd.audit.findings import Shares

MOST_ROWS = 40
FEW_ROWS = 10  # a map of fewer modules says too little
LONGEST = 52  # characters of a name


def together(members: Sequence[Shares]) -> Shares:
    """Shares of the power of several tensors, each by what its recorded blocks stand for."""
    weight = sum(shares.weight for shares in members)
    power = sum(shares.weight * shares.power for shares in members) / (weight or 1.0)
    parts = {
        part: sum(s.weight * s.power * s.parts()[part] for s in members) / (weight * power) if power else 0.0
        for part in members[0].parts()
    }
    return Shares(**parts, power=power, rows=sum(shares.rows for shares in members), weight=weight)


def grouped(tensors: Mapping[str, Shares]) -> dict[str, list[Shares]]:
    """Rows of a map, in the model's order: tensors; modules where there are too many; runs of them if that fails.

    Args:
        tensors: shares by the parameter's name.

    Returns:
        At most 40 rows, with the tensors of each.
    """
    rows = {name: [shares] for name, shares in tensors.items()}
    for depth in range(max(name.count(".") for name in tensors), 0, -1):
        if len(rows) <= MOST_ROWS:
            return rows
        coarser: dict[str, list[Shares]] = {}
        for name, shares in tensors.items():
            coarser.setdefault(".".join(name.split(".")[:depth]), []).append(shares)
        if len(coarser) < FEW_ROWS:
            break
        rows = coarser
    size = -(-len(rows) // MOST_ROWS)
    runs = [list(run) for _, run in groupby(enumerate(rows), lambda item: item[0] // size)]
    return {
        run[0][1] + (f" to {run[-1][1]}" if len(run) > 1 else ""): [shares for _, name in run for shares in rows[name]]
        for run in runs
    }


def common_prefix(names: Sequence[str]) -> str:
    """What all names begin with, up to a dot that no number follows; "" for a single name."""
    parts = [name.split(".")[:-1] for name in names]
    same = 0
    while len(names) > 1 and all(len(p) > same and p[same] == parts[0][same] for p in parts):
        same += 1
    if same and any(name.split(".")[same].isdigit() for name in names):
        same -= 1
    return "".join(f"{part}." for part in parts[0][:same])


def short_names(names: Sequence[str]) -> list[str]:
    """Names without what all begin with, and without the middle of those that are too long."""
    kept = [name.removeprefix(common_prefix(names)) for name in names]
    half = LONGEST // 2
    return [name if len(name) <= LONGEST else f"{name[: half - 1]}\u2026{name[-half:]}" for name in kept]
