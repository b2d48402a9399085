"""Texts that occur several times in a data set, and labels that look alike."""

import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from lightning_qsgd.datamodules.rows import first_three, in_lines

Value = TypeVar("Value")


def grouped(keys: Sequence[Hashable], together: bool) -> list[list[int]]:
    """Positions of equal keys, in the order of the first; with ``together`` False each position alone."""
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key if together else i, []).append(i)
    return list(groups.values())


def set_aside(groups: Sequence[list[Value]], sizes: Sequence[int], generator: np.random.Generator) -> list[list[Value]]:
    """Parts of about these sizes, and the rest as the last one: whole groups in a random order.

    A part takes a group unless it would then exceed its size by more than half of the group; groups of one give exact
    sizes.

    Args:
        groups: what stays together.
        sizes: members of each part but the last.
        generator: draws the order, a permutation of the groups.
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


def equal_texts(splits: Mapping[str, Sequence[tuple[Hashable, str]]], answer: str, way_out: str) -> str:
    """Sentences about texts of a split that an earlier split has too, and about texts with several answers.

    Args:
        splits: pairs of text and answer for each split by its name, the training texts first.
        answer: what an answer is called, such as "label".
        way_out: what to do about texts in several splits.

    Returns:
        Nothing to say: an empty text.
    """
    answers: defaultdict[Hashable, set[str]] = defaultdict(set)
    again = []
    for name, pairs in splits.items():
        if count := sum(text in answers for text, _ in pairs):
            again.append(f"{count} of {len(pairs)} {name} texts ({count / len(pairs):.1%})")
        for text, value in pairs:
            answers[text].add(value)
    said = []
    if again:
        said.append(
            f"Texts that an earlier split has too (of {', '.join(splits)}): {' and '.join(again)}; scores on them say "
            f"little about new texts. {way_out}."
        )
    if several := sum(len(values) > 1 for values in answers.values()):
        said.append(f"Equal texts with different {answer}s: {several} of {len(answers)} different texts.")
    return " ".join(said)


def look_alikes(labels: Mapping[str, Sequence[int]]) -> str:
    """One line about labels that differ only by spaces, case, invisible characters or the way to write a number; "" if
    none do.

    Args:
        labels: the lines of each label.
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
