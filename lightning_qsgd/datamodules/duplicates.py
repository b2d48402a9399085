"""Split rows by class; find rows that occur several times in a data set, and labels that look alike."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from lightning_qsgd.datamodules.rows import first_three, in_lines

Value = TypeVar("Value")


def grouped(keys: Sequence[Hashable], together: bool) -> list[list[int]]:
    """Group the positions of equal keys, ordered by their first; without ``together``, each position is a group."""
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key if together else i, []).append(i)
    return list(groups.values())


def set_aside(groups: Sequence[list[Value]], sizes: Sequence[int], generator: np.random.Generator) -> list[list[Value]]:
    """Split groups at random into parts of about the given sizes, and a last part with the rest.

    A part takes a group unless that would exceed its size by more than half of the group. Groups of one member give
    exact sizes.

    Args:
        groups: members that stay together.
        sizes: number of members in each part except the last.
        generator: draws a permutation of the groups.
    """
    waiting = [groups[i] for i in generator.permutation(len(groups))]
    parts: list[list[Value]] = []
    for size in sizes:
        part: list[Value] = []
        left: list[list[Value]] = []
        for group in waiting:
            if 2 * len(part) + len(group) <= 2 * size:
                part += group
            else:
                left.append(group)
        parts.append(part)
        waiting = left
    return [*parts, [member for group in waiting for member in group]]


def stratified(
    labels: Sequence[str], keys: Sequence[Hashable] | None, shares: Sequence[float], seed: int
) -> list[list[int]]:
    """Split the rows of each class at random into parts with the given shares of the class, and a last part with the
    rest.

    Args:
        labels: class of each row; equal ones for a split that is not stratified.
        keys: rows with equal keys stay in one part, see :func:`set_aside`. None splits all rows.
        shares: share of each part except the last, in (0, 1).
        seed: seed of the split, at least 0.

    Returns:
        The sorted row numbers of each part.
    """
    by_label: dict[str, list[list[int]]] = {}
    for group in grouped(keys or labels, keys is not None):
        most = Counter(labels[i] for i in group).most_common(1)[0][0]
        by_label.setdefault(most, []).append(group)
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    for i, label in enumerate(sorted(by_label)):
        groups = by_label[label]
        sizes = [round(share * sum(map(len, groups))) for share in shares]
        generator = np.random.default_rng(np.random.SeedSequence((seed, i)))
        for part, more in zip(parts, set_aside(groups, sizes, generator), strict=True):
            part += more
    return [sorted(part) for part in parts]


def equal_rows(
    splits: Mapping[str, Sequence[tuple[Hashable, str]]], answer: str, way_out: str, rows: str = "texts"
) -> str:
    """A warning about rows that an earlier split has too, and about rows with several answers.

    Args:
        splits: pairs of row and answer of each split, by its name; the training rows first.
        answer: the word for an answer, such as "label".
        way_out: what to do about rows in several splits.
        rows: the word for rows. Default: "texts".

    Returns:
        The warning; "" if there are no such rows.
    """
    answers: defaultdict[Hashable, set[str]] = defaultdict(set)
    again = []
    for name, pairs in splits.items():
        if count := sum(row in answers for row, _ in pairs):
            again.append(f"{count} of {len(pairs)} {name} {rows} ({count / len(pairs):.1%})")
        for row, value in pairs:
            answers[row].add(value)
    said = []
    if again:
        said.append(
            f"Some {rows} are also in an earlier split (of {', '.join(splits)}): {' and '.join(again)}. Scores on them "
            f"say little about new {rows}. {way_out}."
        )
    if several := sum(len(values) > 1 for values in answers.values()):
        said.append(f"{several} of {len(answers)} different {rows} occur with different {answer}s.")
    return " ".join(said)


def look_alikes(labels: Mapping[str, Sequence[int]]) -> str:
    """List labels that differ only in whitespace, case, invisible characters or the format of a number.

    Args:
        labels: the line numbers of each label.

    Returns:
        One line; "" if there are none.
    """
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for label in labels:
        alike[_plain(label)].append(label)
    found = [
        " and ".join(f"{label!r} ({len(labels[label])}, {in_lines(labels[label])})" for label in group)
        for group in alike.values()
        if len(group) > 1
    ]
    return first_three(found)


def _plain(label: str) -> str:
    visible = "".join(sign for sign in label if unicodedata.category(sign) != "Cf")
    text = " ".join(unicodedata.normalize("NFKC", visible).casefold().split())
    try:
        number = float(text) + 0.0  # -0.0 is 0.0
    except ValueError:
        return text
    return str(number) if abs(number) < 2**53 else text
